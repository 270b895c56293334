"""Vocabulary of class names."""

import pytest
from mmseg.utils import get_classes, get_predefined_templates

from mmetris.structures.vocabulary import Vocabulary


def test_a_data_set_that_mmseg_knows_gives_its_names():
    vocabulary = Vocabulary.build('ade20k')
    assert list(vocabulary.class_names) == get_classes('ade20k')
    assert vocabulary.prompts == get_classes('ade20k')
    assert vocabulary.name_classes == tuple(range(150))


def test_the_background_is_a_class_without_text():
    vocabulary = Vocabulary.build('voc', background=0)
    assert len(vocabulary) == 21 and vocabulary.class_names[0] == 'background'
    assert vocabulary.names == tuple(get_classes('voc')[1:]) and vocabulary.name_classes[0] == 1


def test_a_text_file_has_a_line_for_each_class_and_commas_between_its_names(tmp_path):
    (tmp_path / 'mine.txt').write_text('sky, the clouds\nsofa\n')
    vocabulary = Vocabulary.build(str(tmp_path / 'mine.txt'))
    assert vocabulary.classes == (('sky', 'the clouds'), ('sofa',))
    assert vocabulary.names == ('sky', 'the clouds', 'sofa') and vocabulary.name_classes == (0, 0, 1)


def test_every_name_goes_through_every_template():
    vocabulary = Vocabulary.build([['cat', 'kitten'], 'dog'], ['a {}.', 'the {}'])
    assert vocabulary.prompts == ['a cat.', 'the cat', 'a kitten.', 'the kitten', 'a dog.', 'the dog']
    assert Vocabulary.build(['cat', 'dog'], 'vild').templates == tuple(get_predefined_templates('vild'))


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(classes='ade21k'), "'ade21k' is neither a text file.*ade20k"),
        (dict(classes=['cat']), 'at least two classes'),
        (dict(classes=['cat', ' ']), 'class 1 .* empty name'),
        (dict(classes=['cat', []]), 'class 1 .* empty name'),
        (dict(classes=['cat', 'dog', 'Cat']), "'Cat' stands for class 0 and again for class 2"),
        (dict(classes=['dog', ['cat', 'cat']]), "'cat' stands for class 1 and again for class 1"),
        (dict(classes=['cat', 'dog'], templates='imagenot'), "'imagenot' is no set of MMSeg"),
        (dict(classes=['cat', 'dog'], templates=['a photo']), "'a photo' needs one {}"),
        (dict(classes=['cat', 'dog'], templates=[]), 'templates is empty'),
        (dict(classes=['cat', 'dog'], background=2), 'background=2 is none of the 2 classes'),
    ],
)
def test_what_is_no_vocabulary_is_refused_with_the_reason(wrong, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.build(**wrong)


@pytest.mark.parametrize('entry', [3, None, dict(name='cat')])
def test_a_class_that_is_no_name_is_named(entry):
    with pytest.raises(TypeError, match='class 1 must be a name or a list of names, not '):
        Vocabulary.build(['cat', entry])


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be'])
def test_a_file_of_any_editor_has_the_same_names(tmp_path, encoding):
    """A byte order mark belongs to no name; blank lines and a comma at the end of a line are none."""
    text = 'sky,the clouds\r\n\r\ncafé, \r\n \r\nsofa'
    mark = '\ufeff'.encode('utf-16-be') if encoding == 'utf-16-be' else b''
    (tmp_path / 'mine.txt').write_bytes(mark + text.encode(encoding))
    vocabulary = Vocabulary.build(tmp_path / 'mine.txt')
    assert vocabulary.classes == (('sky', 'the clouds'), ('café',), ('sofa',))


@pytest.mark.parametrize(
    'content, message',
    [
        (b'sky\nsofa,,couch\n', 'mine.txt, line 2: an empty name between commas'),
        (b'\nsky\n,\nsofa\n', 'mine.txt, line 3: a comma and no name'),
        (b'sky\n\nsofa\nSky\n', "mine.txt, line 4: the name 'Sky' is in line 1 too"),
        (b'sky\nsofa, sofa\n', "mine.txt, line 2: the name 'sofa' is twice in it"),
        (b'sky\ncaf\xe9\n', 'mine.txt, line 2: this is no UTF-8'),
        (b'\xef\xbb\xbfsky\r\n\r\n', r'mine.txt has 1 line\(s\) with a class; at least two'),
        (b'', r'mine.txt has 0 line\(s\) with a class; at least two'),
    ],
)
def test_a_file_that_is_no_vocabulary_is_named_with_the_line(tmp_path, content, message):
    (tmp_path / 'mine.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Vocabulary.build(tmp_path / 'mine.txt')


@pytest.mark.parametrize('name', ['red circle', 'a very long name ' * 100])
def test_one_class_alone_is_too_few(name):
    with pytest.raises(ValueError, match='at least two classes are needed'):
        Vocabulary.build(name)


def test_names_that_are_no_unicode_can_be_written_and_read():
    """The command line hands over what is no UTF-8 as surrogates."""
    assert Vocabulary.build(['caf\udce9', 'dog']).class_names == ('caf\ufffd', 'dog')


def test_labels_of_another_order_or_number_do_not_fit_and_other_wordings_do():
    vocabulary = Vocabulary.build([['sofa', 'couch'], 'dog', 'sky'])
    assert vocabulary.mismatch(['couch', 'dog', 'Sky']) == (None, [])
    assert vocabulary.mismatch(['sofa', 'dog'])[0] == 'the data set has 2 classes, the vocabulary 3'
    assert "'dog' is class 0 of the data set, but 1 of the vocabulary" in vocabulary.mismatch(['dog', 'sofa', 'sky'])[0]
    assert vocabulary.mismatch(['sofa', 'dog', 'sky-other']) == (None, ["2: 'sky-other' there, 'sky' here"])


def test_a_subset_keeps_synonyms_templates_and_the_background_and_knows_its_names():
    vocabulary = Vocabulary.build(['dog', ['sofa', 'couch'], 'nothing', 'sky'], ['a {}'], background=2)
    subset, rows = vocabulary.subset([3, 1, 2])
    assert subset.classes == (('sofa', 'couch'), ('nothing',), ('sky',)) and subset.background == 1
    assert rows == [1, 2, 3] and subset.templates == ('a {}',)
    assert [vocabulary.names[row] for row in rows] == list(subset.names)
    assert vocabulary.subset([0, 1])[0].background is None


def test_one_class_is_enough_where_each_is_asked_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.txt').write_text('dog, hound\n')
    for classes, names in (('dog', ('dog',)), ('St. Bernard', ('St. Bernard',)), ('mine.txt', ('dog', 'hound'))):
        assert Vocabulary.build(classes, least=1).classes == (names,)
    assert len(Vocabulary.build('cityscapes', least=1)) == 19
    for wrong, words in (('cityscape', 'did you mean cityscapes'), ('none.txt', 'neither'), ('a/b', 'neither')):
        with pytest.raises(ValueError, match=words):
            Vocabulary.build(wrong, least=1)
    (tmp_path / 'empty.txt').write_text('\n')
    with pytest.raises(ValueError, match='at least one is needed'):
        Vocabulary.build('empty.txt', least=1)
    assert Vocabulary.build(['a', 'b'], least=1) == Vocabulary.build(['a', 'b'])
