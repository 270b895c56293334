"""One table of keys, read in both directions."""

from mmetris.models.converters.key_map import KeyMap, Numbers

MAP = KeyMap(
    [
        ('visual.pool.{rest}', 'pool.{rest}'),
        ('visual.{rest}', 'image.{rest}'),
        ('f{level}.{layer}.{rest}', 'maps.{level}.{layer}.{rest}'),
    ],
    dict(level=Numbers(range(3, 6), range(3))),
)


def test_the_first_row_that_matches_counts():
    assert MAP.ours('visual.pool.weight') == 'pool.weight'
    assert MAP.ours('visual.conv.weight') == 'image.conv.weight'
    assert MAP.published('image.conv.weight') == 'visual.conv.weight'


def test_numbers_are_counted_as_each_side_does():
    assert MAP.ours('f3.11.bias') == 'maps.0.11.bias'
    assert MAP.published('maps.2.0.bias') == 'f5.0.bias'


def test_what_has_no_place_is_none():
    for key in ('f2.0.bias', 'f6.0.bias', 'f3.01.bias', 'f3.x.bias', 'visual.', 'visual', 'else.weight'):
        assert MAP.ours(key) is None
    for key in ('maps.3.0.bias', 'else.weight'):
        assert MAP.published(key) is None


def test_our_name_belongs_to_one_published_key_only():
    """Two rows lead to one name: the second key has no place, since the way back would not find it."""
    twice = KeyMap([('a.{rest}', 'x.{rest}'), ('b.{rest}', 'x.{rest}')])
    assert twice.ours('a.weight') == 'x.weight' and twice.ours('b.weight') is None
