"""Shapes: scenes, sentences and files. Small copies are drawn into temporary folders, in seconds."""

import hashlib
import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from pycocotools import mask as mask_utils

from mmetris.datasets import GRefCocoDataset, ShapesSegDataset
from mmetris.datasets.shapes import (
    COLOURS,
    FALSE,
    KINDS,
    MAX_TOKENS,
    SEMSEG_CLASSES,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    TRUE,
    UNCLEAR,
    Caption,
    Clause,
    Description,
    Expression,
    Scene,
    SceneObject,
    ShapesSpec,
    draw_groups,
    draw_sample,
    is_written,
    near_miss,
    num_tokens,
    random_scene,
    render,
    sample_caption,
    scene_caption,
    truth_table,
    write_shapes,
)
from mmetris.datasets.shapes.expressions import plural_of, vocabulary
from mmetris.datasets.shapes.logic import EXTREMES, place_truth, relation_truth
from tests.quiet_start import assert_quiet
from tests.warm_process import run_script

SPEC = ShapesSpec(seed=3, num_train=6, num_val=3, num_test_a=2, num_test_b=3)
MAKE_SHAPES = Path(__file__).resolve().parents[2] / 'tools' / 'dataset_tools' / 'make_shapes.py'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes') / 'data'
    assert write_shapes(folder, SPEC)
    return folder


@pytest.fixture(scope='module')
def instances(root):
    return json.loads((root / 'refcoco' / 'instances.json').read_text())


@pytest.fixture(scope='module')
def refs(root):
    return pickle.loads((root / 'refcoco' / 'refs(unc).p').read_bytes())


def digest(folder):
    """One hash over the names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def make_object(shape='circle', colour='red', size='small', texture='plain', x=50.0, y=50.0):
    return SceneObject(shape, colour, size, texture, x, y, 22.0 if size == 'small' else 40.0, 0.0)


def make_scene(*objects):
    return Scene(100, 100, objects, 'flat', 0)


# ---------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize('split', SPLITS)
def test_every_sentence_is_true_of_exactly_one_object_and_clearly_false_of_the_others(split):
    for index in range(25):
        scene, triples = draw_sample(0, split, index)
        assert len(triples) == len(scene.objects)
        for target, triple in enumerate(triples):
            assert tuple(expression.kind for expression in triple) == KINDS
            for expression in triple:
                wanted = np.full(len(scene.objects), FALSE)
                wanted[target] = TRUE
                np.testing.assert_array_equal(expression.truth(scene), wanted, err_msg=expression.text)


def test_half_of_the_sentences_of_place_and_relation_need_it():
    needed = []
    for index in range(80):
        scene, triples = draw_sample(0, 'val', index)
        needed += [sum(e.subject.fits(obj) for obj in scene.objects) > 1 for triple in triples for e in triple[1:]]
    assert 0.45 < np.mean(needed) < 0.75


def test_the_words_of_a_sentence_say_what_its_logical_form_says():
    for index in range(40):
        _, triples = draw_sample(1, 'train', index)
        for expression in (e for triple in triples for e in triple):
            words = expression.text.split()
            named = [d for d in (expression.subject, expression.reference) if d is not None]
            assert [w for w in words if w in COLOURS] == [d.colour for d in named if d.colour]
            assert [w for w in words if w in SHAPES] == [d.shape for d in named if d.shape]
            assert 'a' not in words or words[words.index('a') + 1][0] not in 'aeiou', expression.text
            assert set(words) <= vocabulary()


def test_sentences_fit_the_token_limit_by_the_tokenizer_of_clip():
    encode = pytest.importorskip('open_clip').get_tokenizer('ViT-B-32').encode
    for word in vocabulary():
        assert len(encode(word)) + 2 == num_tokens(word), word
    lengths = [num_tokens(e.text) for i in range(40) for triple in draw_sample(0, 'testB', i)[1] for e in triple]
    assert max(lengths) <= MAX_TOKENS <= 17


def test_wording_varies():
    texts = [e.text for i in range(60) for triple in draw_sample(0, 'train', i)[1] for e in triple]
    assert len(set(texts)) > 0.75 * len(texts)


# -------------------------------------------------------------------------------------------------------------- logic


def test_regions_have_a_margin_in_which_nothing_is_claimed():
    scene = make_scene(*(make_object(x=x) for x in (20.0, 42.0, 60.0)))
    assert place_truth(scene, 'left').tolist() == [TRUE, UNCLEAR, FALSE]
    assert place_truth(scene, 'middle').tolist() == [FALSE, TRUE, TRUE]
    with pytest.raises(KeyError, match='behind'):
        place_truth(scene, 'behind')


def test_leftmost_is_sought_in_its_group_and_needs_a_lead():
    scene = make_scene(
        make_object(x=20.0), make_object('star', x=30.0), make_object('star', x=34.0), make_object('star', x=80.0)
    )
    assert place_truth(scene, 'leftmost').tolist() == [TRUE, FALSE, FALSE, FALSE]
    stars = np.array([False, True, True, True])
    assert place_truth(scene, 'leftmost', stars).tolist() == [FALSE, UNCLEAR, UNCLEAR, FALSE]
    assert place_truth(scene, 'rightmost', stars).tolist() == [FALSE, FALSE, FALSE, TRUE]


def test_left_of_holds_along_the_axis_and_not_beyond_a_slant():
    scene = make_scene(
        make_object(x=80.0, y=50.0),
        make_object(x=50.0, y=55.0),
        make_object(x=60.0, y=85.0),
        make_object(x=70.0, y=10.0),
        make_object(x=95.0, y=50.0),
    )
    assert relation_truth(scene, 'left', 0).tolist() == [FALSE, TRUE, UNCLEAR, FALSE, FALSE]
    assert relation_truth(scene, 'right', 0).tolist() == [FALSE, FALSE, FALSE, FALSE, TRUE]
    assert relation_truth(scene, 'nearest', 0).tolist() == [FALSE, FALSE, FALSE, FALSE, TRUE]
    with pytest.raises(KeyError, match='inside'):
        relation_truth(scene, 'inside', 0)


def test_a_sentence_without_a_single_reference_has_no_referent():
    scene = make_scene(make_object(x=20.0), make_object('star', x=60.0), make_object('star', y=90.0))
    circle, star = Description(shape='circle'), Description(shape='star')
    assert Expression('relation', '', circle, relation='left', reference=star).referent(scene) is None
    assert Expression('attribute', '', star).referent(scene) is None
    assert Expression('attribute', '', circle).referent(scene) == 0


# ----------------------------------------------------------------------------------------------------- scenes, pixels


def test_objects_of_a_scene_differ_do_not_touch_and_share_shape_and_colour_in_about_half_of_the_scenes():
    rng = np.random.default_rng(0)
    twins = 0
    for _ in range(100):
        scene = random_scene(rng, 3, 6)
        looks = [obj.look for obj in scene.objects]
        assert 3 <= len(looks) <= 6 and len(set(looks)) == len(looks)
        twins += len({look[:2] for look in looks}) < len(looks)
        image, masks = render(scene)
        assert image.shape == (scene.height, scene.width, 3) and image.dtype == np.uint8
        assert masks.shape == (len(looks), scene.height, scene.width) and masks.dtype == bool
        assert masks.sum(0).max() == 1 and masks.sum((1, 2)).min() > 60
    assert 30 < twins < 70


@pytest.mark.parametrize('numbers', [(0, 3), (4, 3), (3, 7)])
def test_numbers_of_objects_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match='min_objects'):
        random_scene(np.random.default_rng(0), *numbers)


def test_every_object_stands_out_from_its_background():
    rng = np.random.default_rng(1)
    for _ in range(60):
        scene = random_scene(rng, 1, 5)
        image, masks = render(scene)
        background = image[~masks.any(0)].mean(0)
        for obj, mask in zip(scene.objects, masks):
            assert np.abs(np.array(COLOURS[obj.colour]) - background).max() > 45
            assert np.abs(image[mask].mean(0) - background).max() > 20, obj


# ----------------------------------------------------------------------------------------------------------- captions


def test_captions_are_true_of_their_scene_and_near_misses_mostly_false():
    rng = np.random.default_rng(2)
    scenes = [random_scene(rng, 1 + i % 5, 1 + i % 5) for i in range(50)]
    captions = [sample_caption(scene, rng) for scene in scenes]
    assert (np.diag(truth_table(captions, scenes)) == TRUE).all()
    misses = [near_miss(caption, rng) for caption in captions]
    assert (np.diag(truth_table(misses, scenes)) == FALSE).mean() > 0.6
    assert all(set(caption.text.split()) <= vocabulary() for caption in captions + misses)
    assert isinstance(scene_caption(scenes[0], rng), str)


def test_the_truth_table_agrees_with_a_case_worked_out_by_hand():
    red_left = make_scene(make_object(x=20.0), make_object('star', 'blue', x=80.0))
    red_right = make_scene(make_object('star', 'blue', x=20.0), make_object(x=80.0))
    circle, star = Description(shape='circle'), Description(colour='blue', shape='star')
    captions = [
        Caption('', clauses)
        for clauses in (
            (Clause(circle),),
            (Clause(circle, place='left'),),
            (Clause(circle, relation='left', reference=star),),
            (Clause(circle, relation='with', reference=star),),
            (Clause(circle, relation='with', reference=circle),),
            (Clause(star), Clause(Description(size='large'))),
        )
    ]
    wanted = [[TRUE, TRUE], [TRUE, FALSE], [TRUE, FALSE], [TRUE, TRUE], [FALSE, FALSE], [FALSE, FALSE]]
    assert truth_table(captions, [red_left, red_right]).tolist() == wanted
    assert truth_table(captions[:1], [make_scene(make_object('ring'))]).tolist() == [[FALSE]]


# -------------------------------------------------------------------------------------------------------------- files


def test_the_files_have_the_layout_of_refcoco(root, instances, refs):
    assert set(instances) == {'info', 'licenses', 'images', 'annotations', 'categories'}
    assert {'id', 'file_name', 'width', 'height', 'license'} <= set(instances['images'][0])
    assert set(instances['annotations'][0]) == {
        'id',
        'image_id',
        'category_id',
        'segmentation',
        'area',
        'bbox',
        'iscrowd',
    }
    assert [category['name'] for category in instances['categories']] == list(SHAPES)
    assert type(refs) is list and set(refs[0]) == {
        'ref_id',
        'ann_id',
        'image_id',
        'category_id',
        'split',
        'sent_ids',
        'file_name',
        'sentences',
    }
    assert set(refs[0]['sentences'][0]) == {'sent_id', 'raw', 'sent', 'tokens'}
    assert refs[0]['file_name'] == 'COCO_train2014_000000000001_1.jpg'
    for image in instances['images']:
        assert (root / 'train2014' / image['file_name']).is_file()


def test_ids_are_unique_and_refer_to_each_other(instances, refs):
    annotations = {annotation['id']: annotation for annotation in instances['annotations']}
    assert len(annotations) == len(instances['annotations']) == len(refs)
    sentences = [sentence for ref in refs for sentence in ref['sentences']]
    assert [sentence['sent_id'] for sentence in sentences] == list(range(3 * len(refs)))
    for ref in refs:
        annotation = annotations[ref['ann_id']]
        assert (annotation['image_id'], annotation['category_id']) == (ref['image_id'], ref['category_id'])
        assert ref['sent_ids'] == [sentence['sent_id'] for sentence in ref['sentences']]
        assert all(sentence['tokens'] == sentence['sent'].split() for sentence in ref['sentences'])
        assert all(sentence['raw'].lower().rstrip('.') == sentence['sent'] for sentence in ref['sentences'])


def test_no_image_is_shared_by_two_splits_and_test_b_is_the_crowded_one(instances, refs):
    images = {split: {ref['image_id'] for ref in refs if ref['split'] == split} for split in SPLITS}
    assert {split: len(ids) for split, ids in images.items()} == SPEC.counts
    assert sum(map(len, images.values())) == len(instances['images'])
    crowd = [sum(ref['image_id'] == image for ref in refs) for image in images['testB']]
    assert min(crowd) >= 5


def test_written_masks_decode_to_what_was_rendered(instances):
    decoded, sizes = {}, {image['id']: (image['height'], image['width']) for image in instances['images']}
    for annotation in instances['annotations']:
        size, segmentation = sizes[annotation['image_id']], annotation['segmentation']
        rle = mask_utils.frPyObjects(segmentation, *size)
        rle = mask_utils.merge(rle) if isinstance(segmentation, list) else rle
        decoded.setdefault(annotation['image_id'], []).append((mask_utils.decode(rle).astype(bool), annotation))
    jobs = [(split, index) for split, count in SPEC.counts.items() for index in range(count)]
    for image_id, (split, index) in enumerate(jobs, start=1):
        _, masks = render(draw_sample(SPEC.seed, split, index)[0])
        for mask, (mine, annotation) in zip(masks, decoded[image_id], strict=True):
            assert (mask & mine).sum() / (mask | mine).sum() > 0.9
            left, top, width, height = annotation['bbox']
            assert mask[top : top + height, left : left + width].sum() == mask.sum() == annotation['area']


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers_and_another_seed_others(root, tmp_path):
    write_shapes(tmp_path / 'again', SPEC, workers=2)
    assert digest(tmp_path / 'again') == digest(root)
    write_shapes(tmp_path / 'other', ShapesSpec(4, 6, 3, 2, 3))
    assert digest(tmp_path / 'other') != digest(root)


def test_a_written_folder_is_skipped_and_a_foreign_one_kept_unless_forced(root, tmp_path):
    before = digest(root)
    assert not write_shapes(root, SPEC) and digest(root) == before
    other = ShapesSpec(seed=3, num_train=1, num_val=0, num_test_a=0, num_test_b=0)
    with pytest.raises(FileExistsError, match='--force'):
        write_shapes(root, other)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('keep me')
    with pytest.raises(FileExistsError, match='not empty'):
        write_shapes(tmp_path / 'mine', other)
    assert write_shapes(tmp_path / 'mine', other, force=True)
    assert not (tmp_path / 'mine' / 'notes.txt').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_nothing_is_left_behind_when_drawing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr('mmetris.datasets.shapes.writer.render', lambda scene: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_shapes(tmp_path / 'data', SPEC)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'bad, name',
    [
        (dict(seed=-1), 'seed'),
        (dict(num_train=-2), 'num_train'),
        (dict(num_val=1.5), 'num_val'),
        (dict(num_train=0, num_val=0, num_test_a=0, num_test_b=0), 'num_test_b'),
    ],
)
def test_bad_arguments_are_named(bad, name):
    with pytest.raises(ValueError, match=name):
        ShapesSpec(**bad)


def test_bad_workers_and_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match='workers=-1'):
        write_shapes(tmp_path / 'data', SPEC, workers=-1)
    with pytest.raises(ValueError, match='testC'):
        draw_sample(0, 'testC', 0)


def test_the_tool_writes_once_then_says_that_there_is_nothing_to_do(tmp_path):

    def run(*args):
        sizes = [
            f'--num-{split}={number}' for split, number in dict(train=2, val=1, **{'test-a': 1, 'test-b': 1}).items()
        ]
        done = run_script(MAKE_SHAPES, tmp_path / 'data', *sizes, *args)
        assert_quiet(done.stdout + done.stderr)
        return done

    first, second, third = run(), run(), run('--seed', '1')
    assert first.returncode == 0 and 'train 2, val 1' in first.stdout
    assert second.returncode == 0 and 'nothing to do' in second.stdout
    assert third.returncode == 2 and '--force' in third.stderr


@pytest.fixture(scope='module')
def semseg_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes_semseg') / 'data'
    assert write_shapes(folder, SPEC, layout='semseg')
    return folder


def test_labels_name_the_colour_and_shape_of_the_objects_that_are_drawn(semseg_root):
    scene, _ = draw_sample(SPEC.seed, 'val', 1)
    _, masks = render(scene)
    labels = cv2.imread(str(semseg_root / 'annotations' / 'val' / '000001.png'), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint8 and labels.shape == (scene.height, scene.width)
    for obj, mask in zip(scene.objects, masks):
        assert {SEMSEG_CLASSES[label] for label in np.unique(labels[mask])} == {f'{obj.colour} {obj.shape}'}
    assert not labels[~masks.any(0)].any() and SEMSEG_CLASSES[0] == 'background'


def test_labels_are_read_as_mmsegmentation_reads_its_own_data(semseg_root):
    init_default_scope('mmetris')
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    dataset = ShapesSegDataset(
        data_root=str(semseg_root),
        pipeline=steps,
        test_mode=True,
        data_prefix=dict(img_path='images/testB', seg_map_path='annotations/testB'),
    )
    assert len(dataset) == SPEC.num_test_b and dataset.metainfo['classes'] == SEMSEG_CLASSES
    assert len(dataset.metainfo['palette']) == len({tuple(colour) for colour in dataset.metainfo['palette']}) == 57
    sample = dataset[0]
    assert sample['gt_seg_map'].shape == sample['img'].shape[:2]
    assert len(np.unique(sample['gt_seg_map'])) > 2


def test_both_layouts_show_the_same_pictures_and_know_each_other_apart(root, semseg_root):
    photo = sorted((root / 'train2014').iterdir())[0]
    assert photo.read_bytes() == (semseg_root / 'images' / 'train' / '000000.jpg').read_bytes()
    assert is_written(semseg_root, SPEC, 'semseg') and not is_written(semseg_root, SPEC)
    with pytest.raises(FileExistsError):
        write_shapes(root, SPEC, layout='semseg')
    with pytest.raises(ValueError, match="layout='coco'"):
        write_shapes(root, SPEC, layout='coco')


# --------------------------------------------------------------------------- sentences of no, one and several objects

SYNONYMS = dict(little='small', big='large', solid='plain', stripes='striped', dots='dotted', checks='checkered')
NOUNS = dict.fromkeys(('object', 'thing', 'shape'))  # No shape in particular.
SINGULAR = {plural_of(noun): noun for noun in (*SHAPES, *NOUNS)}
NUMBERS = dict(both=2, two=2, three=3, four=4, five=5, six=6)


def read_phrase(text):
    """An oracle's reading of a phrase without place and relation: what its words ask of an object, whether its noun is
    a plural, and how many it claims there are."""
    words = [SYNONYMS.get(word, word) for word in text.split()]
    wanted, plural, count = dict(colour=set(), shape=set(), size=set(), texture=set()), False, None
    for word in words:
        plural |= word in SINGULAR
        word = SINGULAR.get(word, word)
        count = NUMBERS.get(word, count)
        for name, values in (('colour', COLOURS), ('shape', SHAPES), ('size', SIZES), ('texture', TEXTURES)):
            if word in values:
                wanted[name].add(word)
        known = {'the', 'a', 'an', 'all', 'with', *NOUNS, *NUMBERS, *COLOURS, *SHAPES, *SIZES, *TEXTURES}
        assert word in known, text
    assert all(len(values) < 2 for values in wanted.values()), text
    return wanted, plural, count


def found_by(text, scene):
    """Indices of the objects that a phrase means by its words alone, in a scene described object by object."""
    wanted, plural, count = read_phrase(text)
    fitting = [
        index
        for index, obj in enumerate(scene.objects)
        if all(getattr(obj, name) in values for name, values in wanted.items() if values)
    ]
    if fitting:
        assert (len(fitting) > 1) == plural and count in (None, len(fitting)), text
    return tuple(fitting)


@pytest.fixture(scope='module')
def groups():
    """(scene, sentence) of many scenes."""
    drawn = [draw_groups(0, split, index) for split in SPLITS for index in range(30)]
    return [(scene, sentence) for scene, sentences in drawn for sentence in sentences]


def test_sentences_mean_what_an_oracle_reads_in_their_words(groups):
    """Of attributes and numbers: an oracle that knows the scene and splits words says which objects are meant."""
    kinds = Counter()
    for scene, sentence in groups:
        if all(part.kind == 'attribute' for part in sentence.parts):
            phrases = sentence.text.split(' and ')
            assert len(phrases) == len(sentence.parts)
            expected = sorted({index for phrase in phrases for index in found_by(phrase, scene)})
            assert sentence.targets(scene) == tuple(expected), sentence.text
            kinds[len(phrases), min(len(expected), 2)] += 1
    assert set(kinds) == {(1, 0), (1, 1), (1, 2), (2, 2)} and min(kinds.values()) > 50


def test_places_and_relations_are_true_of_what_is_meant_and_clearly_false_of_all_else(groups):
    kinds = Counter()
    for scene, sentence in groups:
        (part, *others) = sentence.parts
        if part.kind == 'attribute':
            continue
        assert not others and part.text in ('', sentence.text)
        for index, obj in enumerate(scene.objects):
            holds = part.subject.fits(obj)
            if holds and part.place is not None:
                group = part.subject.truth(scene) == TRUE
                holds = place_truth(scene, part.place, group)[index] == TRUE
                assert place_truth(scene, part.place, group)[index] != UNCLEAR
            if holds and part.relation is not None:
                (reference,) = np.flatnonzero(part.reference.truth(scene) == TRUE)
                truth = relation_truth(scene, part.relation, reference, part.subject.truth(scene) == TRUE)
                assert truth[index] != UNCLEAR
                holds = truth[index] == TRUE
            assert (index in sentence.targets(scene)) == holds, sentence.text
        plural = any(word in SINGULAR for word in sentence.text.split())
        kinds[part.kind, min(len(sentence.targets(scene)), 2), plural] += 1
    assert set(kinds) == {
        ('place', 0, False),
        ('place', 1, False),
        ('place', 2, True),
        ('relation', 0, False),
        ('relation', 1, False),
    }


def test_of_what_is_absent_half_has_its_like_elsewhere_and_words_do_not_tell(groups):
    """Superlatives and relations stand in sentences about nothing too, or they alone would say that there is an object;
    half of the sentences of place and relation about nothing have an object of their description, elsewhere."""
    nothing = [(scene, one) for scene, one in groups if not one.targets(scene)]
    assert len(nothing) == len(groups) / 3
    placed = [(scene, one.parts[0]) for scene, one in nothing if one.parts[0].kind != 'attribute']
    share = np.mean([(part.subject.truth(scene) == TRUE).any() for scene, part in placed])
    assert 0.3 < share < 0.7
    assert any(part.place in EXTREMES for _, part in placed)


def test_sentences_of_groups_are_short_and_differ_within_a_scene(groups):
    encode = pytest.importorskip('open_clip').get_tokenizer('ViT-B-32').encode
    for word in {word for _, one in groups for word in one.text.split()}:
        assert len(encode(word)) + 2 == num_tokens(word), word
    assert max(num_tokens(one.text) for _, one in groups) <= MAX_TOKENS
    for split in ('train', 'testB'):
        scene, sentences = draw_groups(5, split, 0)
        assert scene == draw_sample(5, split, 0)[0] and len({one.text for one in sentences}) == 9
        assert sorted(min(len(one.targets(scene)), 2) for one in sentences) == [0] * 3 + [1] * 3 + [2] * 3


def test_grefcoco_reads_the_files_and_unites_the_masks(tmp_path):
    root = tmp_path / 'grefs'
    assert write_shapes(root, SPEC, layout='grefcoco') and not write_shapes(root, SPEC, layout='grefcoco')
    with pytest.raises(FileExistsError, match='holds no Shapes data with these arguments'):
        write_shapes(root, SPEC)
    dataset = GRefCocoDataset(f'{root}/', split='val', pipeline=[], text_field='sent', test_mode=True)
    index = 0
    for place in range(SPEC.num_val):
        scene, sentences = draw_groups(SPEC.seed, 'val', place)
        _, masks = render(scene)
        for sentence in sentences:
            record = dataset.get_data_info(index)
            index += 1
            targets = sentence.targets(scene)
            assert record['expressions'] == [sentence.text] and record['no_target'] == (not targets)
            assert len(record['ann_id']) == len(targets)
            truth = masks[list(targets)].any(0)
            drawn = mask_utils.decode(record['segmentation']).astype(bool)
            assert (drawn & truth).sum() >= 0.9 * (drawn | truth).sum()
    assert index == len(dataset) == 9 * SPEC.num_val


def test_kinds_and_crowds_are_chosen_and_all_else_stays(root, tmp_path):
    few = replace(SPEC, kinds=('relation', 'place'))
    write_shapes(tmp_path / 'few', few)
    whole, chosen = (refs_of(folder) for folder in (root, tmp_path / 'few'))
    for ref, other in zip(whole, chosen):
        assert other['sentences'] == ref['sentences'][1:] and other['sent_ids'] == ref['sent_ids'][1:]
    assert len(whole) == len(chosen) and not write_shapes(tmp_path / 'few', few)
    crowds = [len(draw_sample(0, split, index, (5, 6))[0].objects) for split in ('train', 'val') for index in range(8)]
    assert set(crowds) == {5, 6}
    assert draw_sample(0, 'testB', 1, None) == draw_sample(0, 'testB', 1)
    with pytest.raises(ValueError, match='layout'):
        write_shapes(tmp_path / 'groups', few, layout='grefcoco')
    for bad in (dict(kinds=('colour',)), dict(kinds=()), dict(num_objects=(1, 3)), dict(num_objects=(5, 7))):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ShapesSpec(**bad)


def refs_of(folder):
    """Referred objects of a written data set."""
    return pickle.loads((folder / 'refcoco' / 'refs(unc).p').read_bytes())
