"""RefSegInferencer: what tools/test.py would predict, for pictures and sentences of every kind, and as files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from mmengine.dataset import Compose, pseudo_collate
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmetris.apis import RefSegInferencer
from mmetris.datasets import RefCocoDataset
from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.registry import TRANSFORMS
from tests.toy_inference import ROOT, picture, save_toy_model

TEXTS = ['the left dog', 'a very small cat behind it']


@pytest.fixture(scope='module')
def model_files(tmp_path_factory):
    return save_toy_model(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def inferencer(model_files):
    return RefSegInferencer(*model_files, device='cpu', show_progress=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Pictures of different sizes."""
    folder = tmp_path_factory.mktemp('pictures')
    for index, (height, width) in enumerate([(48, 80), (80, 48), (64, 64), (30, 200), (1, 1)]):
        Image.fromarray(picture(height, width, index)).save(folder / f'{index}.png')
    return folder


def as_in_testing(inferencer, path, texts):
    """Samples as tools/test.py makes them: the config's whole test pipeline, model.test_step."""
    steps = [step for step in inferencer.cfg.test_dataloader.dataset.pipeline if step['type'] != 'LoadAnnotations']
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    batch = pseudo_collate([pipeline(dict(img_path=str(path), expression=text, seg_fields=[])) for text in texts])
    with torch.no_grad():
        return inferencer.model.test_step(batch)


@pytest.mark.parametrize('name', ['0.png', '1.png', '3.png'])
def test_masks_are_exactly_those_of_the_test_pipeline(inferencer, folder, name):
    result = inferencer(folder / name, TEXTS, return_datasamples=True)
    expected = as_in_testing(inferencer, folder / name, TEXTS)
    assert 0.05 < np.mean([mask.mean() for mask in result['masks']]) < 0.95  # no mask agrees for being empty
    for index, sample in enumerate(expected):
        assert np.array_equal(result['masks'][index], sample.pred_sem_seg.data[0].numpy() == 1)
        assert np.array_equal(result['probabilities'][index], sample.seg_logits.data[0].sigmoid().numpy())
        own = result['data_samples'][index]
        assert torch.equal(own.seg_logits.data, sample.seg_logits.data) and torch.equal(own.tokens, sample.tokens)
        assert own.expression == TEXTS[index] and own.ori_shape == result['masks'][index].shape


def test_results_of_every_pair_come_in_order_whatever_the_batch_size(inferencer, folder):
    paths = sorted(folder.iterdir())
    texts = [['one'], TEXTS, ['a', 'b', 'c', 'd', 'e'], 'a single string', ['last']]
    single = [inferencer(path, text) for path, text in zip(paths, texts)]
    for batch_size in (1, 2, 3, 100):
        result = inferencer(paths, texts, batch_size=batch_size)
        assert result['images'] == [path.name for path in paths]
        assert result['image_index'] == [0, 1, 1, 2, 2, 2, 2, 2, 3, 4]
        assert result['texts'] == ['one', *TEXTS, *'abcde', 'a single string', 'last']
        probabilities = [prob for one in single for prob in one['probabilities']]
        for actual, expected in zip(result['probabilities'], probabilities, strict=True):
            np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_each_distinct_image_is_encoded_once(inferencer, folder, monkeypatch):
    encoded = []
    encode = inferencer.model.encode_images
    monkeypatch.setattr(inferencer.model, 'encode_images', lambda images: encoded.append(len(images)) or encode(images))
    inferencer(folder, [f'sentence {index}' for index in range(7)], batch_size=3)
    assert sum(encoded) == 5
    encoded.clear()
    inferencer(folder, 'one sentence', batch_size=3)
    assert encoded == [3, 2]


def test_every_kind_of_image_gives_the_same(inferencer, folder):
    path = folder / '0.png'
    rgb = np.asarray(Image.open(path))
    expected = inferencer(path, TEXTS)
    for source in (str(path), rgb[..., ::-1], Image.open(path), path.read_bytes(), [path]):
        result = inferencer(source, TEXTS)
        assert all(np.array_equal(*pair) for pair in zip(result['masks'], expected['masks'], strict=True))
    assert inferencer(str(folder), 'x')['images'] == [f'{index}.png' for index in range(5)]
    assert inferencer([rgb, path, folder], 'x')['images'][:4] == ['image_0', '0.png', '0.png', '1.png']


def test_box_and_score_are_those_of_the_mask(inferencer, folder):
    result = inferencer(folder / '0.png', TEXTS)
    for mask, prob, box, score in zip(*(result[key] for key in ('masks', 'probabilities', 'boxes', 'scores'))):
        assert np.array_equal(mask, prob > 0.35)
        left, top, right, bottom = box.astype(int)
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()
        assert score == pytest.approx(prob[mask].mean(), abs=1e-5)


def test_the_threshold_moves_masks_and_samples(inferencer, folder):
    low, high = (
        inferencer(folder / '0.png', 'a dog', threshold=value, return_datasamples=True) for value in (0.3, 0.6)
    )
    assert low['masks'][0].sum() > high['masks'][0].sum()
    assert np.array_equal(high['masks'][0], high['probabilities'][0] > 0.6)
    assert np.array_equal(high['masks'][0], high['data_samples'][0].pred_sem_seg.data[0].numpy() == 1)
    for wrong in (0, 1, -1, 35, 'high', True):
        with pytest.raises(ValueError, match='threshold must be a number between 0 and 1'):
            inferencer(folder / '0.png', 'a dog', threshold=wrong)


def test_nothing_above_the_threshold_is_an_empty_mask_and_said_so(inferencer, folder, tmp_path):
    result = inferencer(folder / '0.png', 'a dog', threshold=0.999, out_dir=tmp_path)
    assert result['is_empty'] == [True] and result['scores'] == [0] and result['boxes'][0].tolist() == [0, 0, 0, 0]
    assert result['masks'][0].shape == (48, 80) and not result['masks'][0].any()
    annotation = json.loads((tmp_path / 'predictions.json').read_text())['annotations'][0]
    assert annotation['area'] == 0 and not coco_mask.decode(annotation['segmentation']).any()


def test_files_agree_with_the_result_and_pycocotools_reads_them(inferencer, folder, tmp_path):
    out = tmp_path / 'new' / 'folder'
    result = inferencer(folder, TEXTS, out_dir=out)
    coco = COCO(str(out / 'predictions.json'))
    assert len(coco.anns) == len(result['masks']) == 10
    for index, annotation in enumerate(coco.anns.values()):
        mask = result['masks'][index]
        assert np.array_equal(coco.annToMask(annotation) == 1, mask)
        assert np.array_equal(np.asarray(Image.open(out / annotation['mask_file'])) == 1, mask)
        left, top, right, bottom = result['boxes'][index]
        assert annotation['bbox'] == [left, top, right - left, bottom - top]
        assert annotation['expression'] == result['texts'][index]
        assert annotation['score'] == pytest.approx(result['scores'][index])
        assert coco.imgs[annotation['image_id']]['file_name'] == result['images'][result['image_index'][index]]
    assert len(list((out / 'overlays').glob('*.jpg'))) == 5
    assert not [path for path in out.rglob('*') if path.name.startswith('.')]  # no temporary file is left


def test_pictures_of_one_name_do_not_overwrite_each_other(inferencer, tmp_path):
    for name in ('a/x.png', 'b/x.png', 'c/X.bmp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture()).save(tmp_path / name)
    inferencer([tmp_path / 'a', tmp_path / 'b', tmp_path / 'c', picture()], 'dog', out_dir=tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out' / 'masks').iterdir()) == [
        'X_3_1.png',
        'image_3_1.png',
        'x_1.png',
        'x_2_1.png',
    ]


@pytest.mark.parametrize('mode, complete', [('RGB', 0), ('P', 1)])
def test_an_interrupted_write_leaves_no_part_of_a_file(inferencer, folder, tmp_path, monkeypatch, mode, complete):
    """Of an overlay (RGB), which comes first, and of a mask (P)."""
    save = Image.Image.save

    def fail(self, path, *args, **kwargs):
        save(self, path, *args, **kwargs)
        if self.mode == mode:
            raise OSError('disk full')

    monkeypatch.setattr(Image.Image, 'save', fail)
    with pytest.raises(OSError, match='disk full'):
        inferencer(folder, 'dog', out_dir=tmp_path)
    assert len([path for path in tmp_path.rglob('*') if path.is_file()]) == complete


def test_pictures_and_large_parts_are_returned_on_request_only(inferencer, folder):
    plain = inferencer(folder / '0.png', 'dog', return_probabilities=False)
    assert 'probabilities' not in plain and 'data_samples' not in plain and 'visualization' not in plain
    drawn = inferencer(folder / '0.png', 'dog', return_vis=True)['visualization']
    assert len(drawn) == 1 and drawn[0].ndim == 3 and drawn[0].dtype == np.uint8


def test_masks_belong_to_the_upright_picture(inferencer, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture()
    Image.fromarray(turned).save(tmp_path / 'camera.png', exif=exif)
    Image.fromarray(np.ascontiguousarray(np.rot90(turned, -1))).save(tmp_path / 'upright.png')
    camera, upright = inferencer(tmp_path, 'a dog')['masks']
    assert camera.shape == (80, 48) and np.array_equal(camera, upright)


def test_an_unreadable_picture_stops_or_is_left_out(inferencer, folder, tmp_path):
    (tmp_path / 'b.jpg').write_text('no picture')
    Image.fromarray(picture()).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='b.jpg cannot be read'):
        inferencer(tmp_path, 'dog')
    with pytest.warns(UserWarning, match='left out: b.jpg') as caught:
        result = inferencer(tmp_path, 'dog', skip_unreadable=True, return_vis=True)
    assert len(caught) == 1
    assert result['images'] == ['a.png', None] and result['visualization'][1] is None and result['image_index'] == [0]


def test_numbers_that_do_not_match_are_refused(inferencer, folder):
    with pytest.raises(ValueError, match='2 lists of sentences for 5 images'):
        inferencer(folder, [['a'], ['b']])
    with pytest.raises(ValueError, match='image 1 has no sentence'):
        inferencer([picture(), picture()], [['a'], []])
    with pytest.raises(ValueError, match='sentence 2 is empty'):
        inferencer([picture(), picture()], [['a'], [' ']])
    with pytest.raises(TypeError, match='a sentence must be a string, but sentence 2 is 3'):
        inferencer(picture(), ['a', 3])
    with pytest.raises(ValueError, match='no image given'):
        inferencer([], 'a')
    with pytest.raises(ValueError, match='batch_size'):
        inferencer(picture(), 'a', batch_size=0)
    with pytest.raises(ValueError, match='too large'):
        RefSegInferencer.__call__(inferencer, np.zeros((9000, 9000), np.uint8), 'a')


def test_a_long_sentence_is_cut_where_the_test_pipeline_cuts_it(inferencer, folder):
    long = 'the dog that is on the left of the cat that is on the right of the very large tree ' * 120
    with pytest.warns(UserWarning, match='first 15 tokens') as caught:
        result = inferencer(folder / '0.png', long)
    assert len(caught) == 1
    expected = as_in_testing(inferencer, folder / '0.png', [long])[0]
    assert np.array_equal(result['masks'][0], expected.pred_sem_seg.data[0].numpy() == 1)


def test_a_config_without_a_test_pipeline_letterboxes_to_its_input_size(model_files, inferencer, folder):
    from mmengine.config import Config

    cfg = Config(dict(model=inferencer.cfg.model.to_dict(), input_size=(64, 64), context_length=17))
    other = RefSegInferencer(cfg, model_files[1], device='cpu', show_progress=False)
    (mask,), (expected,) = (one(folder / '0.png', 'a dog')['masks'] for one in (other, inferencer))
    assert np.array_equal(mask, expected)
    with pytest.raises(ValueError, match='no test pipeline'):
        RefSegInferencer(Config(dict(model=inferencer.cfg.model.to_dict())), model_files[1], device='cpu')


def test_it_computes_in_another_type(model_files, inferencer, folder):
    lowered = RefSegInferencer(*model_files, device='cpu', show_progress=False, dtype='bfloat16')
    kinds = []
    lowered.model.neck.bridges['2'].words_in.register_forward_hook(
        lambda module, inputs, output: kinds.append(output.dtype)
    )
    probs, plain = (np.array(one(folder / '0.png', TEXTS)['probabilities']) for one in (lowered, inferencer))
    assert set(kinds) == {torch.bfloat16} and probs.dtype == np.float32
    assert 0 < np.abs(probs - plain).max() < 0.1
    with pytest.raises(ValueError, match="dtype='half' must be one of"):
        RefSegInferencer(*model_files, device='cpu', dtype='half')


def test_the_type_of_the_config_counts_where_none_is_given(model_files, inferencer):
    cfg = inferencer.cfg.copy()
    cfg.model.test_cfg = dict(dtype='bfloat16', corner_aligned=True)
    own, given = (
        RefSegInferencer(cfg, model_files[1], device='cpu', show_progress=False, dtype=dtype)
        for dtype in (None, 'float32')
    )
    assert own.model.test_cfg == dict(dtype='bfloat16', corner_aligned=True)
    assert given.model.test_cfg == dict(dtype='float32', corner_aligned=True)


def test_the_progress_bar_counts_images(model_files, folder, capsys):
    RefSegInferencer(*model_files, device='cpu')(folder, 'dog')
    assert 'Inference' in capsys.readouterr().err


def test_without_arguments_it_is_the_demo_model_which_knows_shapes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / 'shapes', ShapesSpec(num_train=1, num_val=4, num_test_a=1, num_test_b=1))
    capsys.readouterr()
    inferencer = RefSegInferencer(device='cpu', show_progress=False)
    assert capsys.readouterr().out == ''  # MMEngine's report on initial weights stays away
    assert inferencer.threshold == 0.35
    ious = []
    for sample in RefCocoDataset(
        str(tmp_path / 'shapes'),
        split='val',
        test_mode=True,
        text_mode='original',
        pipeline=[dict(type='LoadAnnotations')],
    ):
        (mask,) = inferencer(sample['img_path'], sample['expression'])['masks']
        truth = sample['gt_seg_map'] > 0
        ious.append((mask & truth).sum() / (mask | truth).sum())
    assert len(ious) > 20 and np.mean(ious) > 0.65, 'it has 0.79 on all of val'
    assert 'etris_tiny_long-192px_shapes' in RefSegInferencer.list_models()


def test_real_photographs_go_through(inferencer):
    photos = Path(ROOT).parent / 'shared' / 'photos' / 'train2014'
    if not photos.is_dir():
        pytest.skip('the photographs are not on this machine')
    result = inferencer(photos, ['the person on the left', 'the ball'])
    assert len(result['masks']) == 2 * len(list(photos.iterdir()))


def test_a_photograph_that_matplotlib_ships_goes_through(inferencer, tmp_path):
    photo = get_sample_data('grace_hopper.jpg', asfileobj=False)
    result = inferencer(photo, ['the woman', 'her hat'], out_dir=tmp_path)
    height, width = np.asarray(Image.open(photo)).shape[:2]
    assert [mask.shape for mask in result['masks']] == [(height, width)] * 2
    assert Image.open(tmp_path / 'masks' / 'grace_hopper_2.png').size == (width, height)


def test_a_referring_model_gives_each_pixel_the_class_of_the_highest_probability(inferencer, folder, tmp_path):
    names = [['dog', 'a very old hound'], 'cat', 'the tree behind the house']
    result = inferencer.label_maps(folder / '0.png', names, out_dir=tmp_path, return_vis=True, threshold=0.45)
    asked = inferencer(folder / '0.png', ['dog', 'a very old hound', 'cat', 'the tree behind the house'])
    probs = np.stack(asked['probabilities'])
    probs = np.stack([probs[:2].max(0), probs[2], probs[3]])
    expected = np.where(probs.max(0) > 0.45, probs.argmax(0), 255)
    assert len(np.unique(expected)) > 2
    assert np.array_equal(result['label_maps'][0], expected)
    assert result['classes'] == ['dog', 'cat', 'the tree behind the house']
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'labels' / '0.png')), expected)
    assert json.loads((tmp_path / 'classes.json').read_text()) == result['classes']
    assert (tmp_path / 'overlays' / '0.jpg').is_file() and result['visualization'][0].ndim == 3
    with pytest.raises(ValueError, match='texts .sentences. or classes'):
        inferencer.label_maps(folder / '0.png')
    alone = inferencer.label_maps(folder / '0.png', 'dog', threshold=0.45)['label_maps'][0]
    assert np.array_equal(alone, np.where(asked['probabilities'][0] > 0.45, 0, 255)) and len(np.unique(alone)) == 2
    with pytest.raises(ValueError, match='at least one class'):
        inferencer.label_maps(folder / '0.png', [])


def test_a_model_of_class_names_decides_as_in_testing_and_keeps_its_vocabulary(folder, tmp_path):
    from mmengine.config import Config

    from mmetris.apis import RefSegPredictor
    from tests import toy

    cfg = toy.model_cfg('vit')
    cfg.update(type='ClassNameSegmentor', vocabulary=dict(classes=['cat', 'sofa', 'traffic light']))
    cfg['text_encoder']['type'] = 'ClassText'
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='LoadAnnotations'),
        dict(type='mmseg.PackSegInputs'),
    ]
    config = Config(
        dict(
            model=cfg,
            default_scope='mmetris',
            test_dataloader=dict(dataset=dict(type='ADE20KDataset', pipeline=pipeline)),
        )
    )
    torch.save(dict(state_dict=toy.build(cfg).state_dict()), tmp_path / 'weights.pth')
    model = RefSegInferencer(config, tmp_path / 'weights.pth', device='cpu', show_progress=False)
    result = model.label_maps(folder)
    assert result['classes'] == ['cat', 'sofa', 'traffic light']
    steps = [step for step in pipeline if step['type'] != 'LoadAnnotations']
    for index in range(4):
        packed = Compose([TRANSFORMS.build(step) for step in steps])(dict(img_path=str(folder / f'{index}.png')))
        with torch.no_grad():
            expected = model.model.test_step(pseudo_collate([packed]))[0].pred_sem_seg.data[0].numpy()
        assert np.array_equal(result['label_maps'][index], expected)
    other = model.label_maps(folder / '0.png', ['horse', 'a fire hydrant'])
    assert other['classes'] == ['horse', 'a fire hydrant'] and other['label_maps'][0].max() <= 1
    assert model.model.vocabulary.class_names == ('cat', 'sofa', 'traffic light')
    predictor = RefSegPredictor(model)
    predictor.set_image(folder / '0.png')
    assert np.array_equal(predictor.label_map(), result['label_maps'][0])
    with pytest.raises(ValueError, match='give classes instead of texts'):
        predictor.predict('a dog')
