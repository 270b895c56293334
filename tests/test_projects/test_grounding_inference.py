"""Boxes of grounding models in inferencer, predictor, shell and files; boxes around the masks of the others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools.coco import COCO

from mmetris import cli
from mmetris.apis import RefSegInferencer, RefSegPredictor
from mmetris.apis.asking import Asker
from mmetris.package import find_root
from mmetris.registry import MODELS
from mmetris.structures.found_boxes import box_around, boxes_as_dicts, boxes_of_head
from mmetris.utils import projects
from mmetris.utils.config_options import read_config
from tests import toy, toy_grounding
from tests.test_projects.test_grounding import BATCH, sample
from tests.toy_grounding import POOLED, POOLED_BOXES, TRANSFORMER
from tests.toy_inference import picture, save_toy_model

ROOT = Path(__file__).parents[2]
TEXTS = ['the left dog', 'a cat']
HEADS = dict(pooled=POOLED, pooled_boxes=POOLED_BOXES, transformer=TRANSFORMER)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Models of each head and one of masks alone, and two pictures."""
    folder = tmp_path_factory.mktemp('grounding')
    for name, head in HEADS.items():
        toy_grounding.save(folder / name, head)
    save_toy_model(folder / 'masks')
    (folder / 'pictures').mkdir()
    for seed in range(2):
        Image.fromarray(picture(seed=seed)).save(folder / 'pictures' / f'{seed}.png')
    return folder


@pytest.fixture(scope='module')
def inferencers(folder):
    return {name: RefSegInferencer(folder / name, device='cpu', show_progress=False) for name in (*HEADS, 'masks')}


def instances(boxes, scores):
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), scores=torch.tensor(scores))


def test_boxes_are_cut_to_the_picture_and_those_without_area_dropped():
    """By hand, in 20 x 40 pixels (H, W): outside, degenerate, reversed, no number, across the edge, whole."""
    boxes = [[50, 2, 60, 8], [3, 4, 3, 9], [9, 9, 4, 4], [float('nan'), 0, 5, 5], [30, -5, 70, 30], [1, 2, 3, 4]]
    found = boxes_of_head(instances(boxes, [0.9, 0.9, 0.9, 0.9, 0.4, 0.6]), (20, 40), threshold=0)
    np.testing.assert_array_equal(found.boxes, [[1, 2, 3, 4], [30, 0, 40, 20]])
    np.testing.assert_allclose(found.scores, [0.6, 0.4])
    # The best of those that are whole, and none below a threshold.
    assert boxes_of_head(instances(boxes, [0.9] * 4 + [0.4, 0.6]), (20, 40)).boxes.tolist() == [[1, 2, 3, 4]]
    assert boxes_of_head(instances(boxes, [0.9] * 4 + [0.4, 0.6]), (20, 40), 0.7).boxes.shape == (0, 4)
    assert boxes_of_head(instances([], []), (20, 40)).boxes.shape == (0, 4)


def test_the_box_of_a_mask_and_cocos_form():
    mask = np.zeros((20, 40), bool)
    assert len(box_around(mask, 0.0).boxes) == 0
    mask[3:7, 10:30] = True
    found = box_around(mask, 0.75)
    assert len(box_around(mask, 0.75, 0.8).boxes) == 0
    dicts = boxes_as_dicts(['nothing', 'a dog'], [np.zeros((0, 4)), found.boxes], [[], found.scores], ['mask'] * 2, 7)
    assert dicts == [
        dict(
            image_id=7,
            category_id=1,
            bbox=[10, 3, 20, 4],
            score=0.75,
            expression='a dog',
            sentence=2,
            box_source='mask',
        )
    ]


@pytest.mark.parametrize('name', [*HEADS, 'masks'])
def test_each_model_gives_its_boxes(inferencers, folder, name):
    """They are those of ``test_step``, in pixels of the picture; of masks alone, around them."""
    inferencer = inferencers[name]
    result = inferencer(str(folder / 'pictures'), TEXTS, boxes=True, return_datasamples=True)
    has_masks = name in ('pooled', 'masks')
    assert ('masks' in result) == ('probabilities' in result) == has_masks
    assert result['box_source'] == ['mask' if name == 'masks' else 'head'] * 4
    for index, predicted in enumerate(result['data_samples']):
        boxes, scores = result['pred_boxes'][index], result['pred_box_scores'][index]
        if name == 'masks':
            np.testing.assert_array_equal(boxes[0], result['boxes'][index])
            assert scores[0] == pytest.approx(result['scores'][index])
            continue
        assert boxes.shape == (1, 4) and scores.shape == (1,)
        np.testing.assert_array_equal(boxes[0], predicted.pred_instances.bboxes[0])
        assert (boxes >= 0).all() and (boxes <= [80, 48, 80, 48]).all()
        if not has_masks:
            np.testing.assert_array_equal(boxes[0], result['boxes'][index])
            assert result['is_empty'][index] is False
    # Without being asked for: boxes alone are given in any case.
    assert ('pred_boxes' in inferencer(picture(), TEXTS)) == (not has_masks)


def test_the_inferencers_boxes_are_those_of_testing(inferencers, folder):
    """The same picture and sentence through the config's test pipeline and ``test_step``."""
    inferencer = inferencers['transformer']
    found = inferencer(str(folder / 'pictures' / '0.png'), TEXTS[:1], boxes=True, box_threshold=0.0001)
    asker = inferencer.asker
    encoded = asker.encode([picture(seed=0)[..., ::-1]], ['0.png'])
    one = encoded.samples[0].new()
    one.tokens = asker.tokens_of(TEXTS[:1], [one])[0]
    with torch.no_grad():
        expected = asker.model.predict(encoded.inputs, [one])[0].pred_instances
    assert found['pred_boxes'][0].shape == (4, 4)
    np.testing.assert_allclose(found['pred_boxes'][0], expected.bboxes, atol=1e-3)
    np.testing.assert_allclose(found['pred_box_scores'][0], expected.scores, atol=1e-5)


def test_boxes_at_another_size_are_the_same_places(inferencers):
    predictor = RefSegPredictor(inferencers['pooled'])
    predictor.set_image(picture(48, 80))
    whole = predictor.predict(TEXTS, boxes=True)
    half = predictor.predict(TEXTS, boxes=True, out_hw=(24, 40))
    for one, other in zip(whole['pred_boxes'], half['pred_boxes'], strict=True):
        np.testing.assert_allclose(one / 2, other, atol=0.01)


def test_no_box_for_a_sentence_that_means_nothing(folder):
    """By the mask's rule, which empties the box head's answer, too; of boxes alone, by their score."""
    rule = dict(by='peak', threshold=1e-6)  # Nothing is certain enough.
    for name in ('pooled', 'masks'):
        one = RefSegInferencer(folder / name, device='cpu', no_target=rule, show_progress=False)
        result = one(picture(), TEXTS, boxes=True, return_vis=True)
        assert result['no_target'] == [True, True] and not any(map(len, result['pred_boxes']))
    one = RefSegInferencer(folder / 'transformer', device='cpu', show_progress=False)
    result = one(picture(), TEXTS, box_threshold=0.999, return_vis=True)
    assert result['is_empty'] == [True, True] and not any(map(len, result['pred_boxes']))
    assert result['scores'] == [0, 0] and not np.any(result['boxes'])
    with pytest.raises(
        ValueError, match='rule for masks, and this model gives boxes alone: set test_cfg.box_threshold'
    ):
        RefSegInferencer(folder / 'transformer', device='cpu', no_target=rule)


def test_a_no_target_head_beside_boxes_is_trained_and_asked():
    cfg = toy_grounding.model_cfg(POOLED)
    cfg['box_head']['decoder'] |= dict(no_target_head=dict(type='NoTargetHead', threshold=0.01))
    model = MODELS.build(cfg).train()
    losses = model.loss(toy.randn(3, 3, 64, 64), [sample(boxes) for boxes in BATCH])
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    assert 'loss_no_target' in losses
    assert all(value.grad is not None for value in model.box_head.decoder.no_target_head.parameters())
    found = model.eval().predict(toy.randn(1, 3, 64, 64), [sample([], ori_shape=(64, 64))])[0]
    assert found.pred_no_target and not len(found.pred_instances) and not found.pred_sem_seg.data.any()


def test_what_a_model_of_boxes_alone_cannot_do_is_said(folder, inferencers):
    with pytest.raises(ValueError, match='threshold=0.5 is one of masks, and this model gives boxes alone'):
        RefSegInferencer(folder / 'transformer', device='cpu', threshold=0.5)
    with pytest.raises(ValueError, match='threshold=0.5 is one of masks'):
        inferencers['transformer'](picture(), TEXTS, threshold=0.5)
    with pytest.raises(ValueError, match='ReferringGrounder gives boxes alone, and classes are for masks'):
        inferencers['transformer'].label_maps(picture(), ['dog', 'cat'])
    with pytest.raises(ValueError, match='box_threshold must be'):
        inferencers['pooled'](picture(), TEXTS, box_threshold=2)
    with pytest.raises(ValueError, match='box_threshold=3 must be between 0 and 1'):
        toy_grounding.build(TRANSFORMER, test_cfg=dict(box_threshold=3))


def test_a_models_own_box_threshold_counts():
    model = toy_grounding.build(TRANSFORMER, test_cfg=dict(box_threshold=0.3))
    asker = Asker(model.eval(), Config(dict(input_size=(64, 64))))
    assert asker.box_threshold == asker.check_box_threshold(None) == 0.3
    assert asker.check_box_threshold(0.7) == 0.7


@pytest.mark.parametrize('name', [*HEADS, 'masks'])
def test_the_json_has_cocos_boxes(inferencers, folder, tmp_path, name):
    inferencers[name](str(folder / 'pictures'), TEXTS, boxes=True, out_dir=tmp_path)
    coco = COCO(tmp_path / 'predictions.json')
    content = json.loads((tmp_path / 'predictions.json').read_text())
    found = coco.loadRes(content['boxes'])
    assert len(content['boxes']) == len(coco.anns) == len(found.anns) == 4
    for box, annotation in zip(content['boxes'], content['annotations'], strict=True):
        assert (box['image_id'], box['expression']) == (annotation['image_id'], annotation['expression'])
        left, top, width, height = box['bbox']
        assert min(left, top) >= 0 and left + width <= 80 and top + height <= 48 and min(width, height) > 0
        assert box['box_source'] == ('mask' if name == 'masks' else 'head') and 0 <= box['score'] <= 1
        assert ('segmentation' in annotation) == (name in ('pooled', 'masks'))
        if name not in ('pooled',):
            assert annotation['bbox'] == box['bbox']
    assert (tmp_path / 'masks').exists() == (name in ('pooled', 'masks'))
    assert sorted(path.name for path in (tmp_path / 'overlays').iterdir()) == ['0.jpg', '1.jpg']
    inferencers['masks'](picture(), TEXTS, out_dir=tmp_path / 'plain')
    assert 'boxes' not in json.loads((tmp_path / 'plain' / 'predictions.json').read_text())


@pytest.fixture
def mmetris(folder, monkeypatch, capsys):
    """The command in a folder with models and pictures; returns status, standard output and error."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.run(cli.mmetris_command, [*map(str, arguments), '--device', 'cpu'])
            sys.exit(0)
        return stopped.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize('name', [*HEADS, 'masks'])
def test_the_shell_prints_and_draws_boxes(mmetris, tmp_path, name):
    status, out, err = mmetris(
        *('segment', 'pictures/0.png', *TEXTS, '--model', name, '--boxes', '--out-dir', tmp_path / 'out'),
        *('--out-file', tmp_path / 'picture.png'),
    )
    lines = out.splitlines()
    assert status == 0 and len(lines) == 4 and (tmp_path / 'picture.png').is_file()
    words = dict(pooled='; box head: score 0.', masks='; the box is that around the mask').get(name, '  score 0.')
    assert all(words in line and 'box ' in line for line in lines[:2]), lines
    assert ('folders masks, overlays' in lines[3]) == (name in ('pooled', 'masks')), lines
    status, out, err = mmetris('segment', 'pictures/0.png', *TEXTS, '--model', name, '--boxes', '--json')
    told = json.loads(out)
    assert [box['sentence'] for box in told['boxes']] == [1, 2] and len(told['annotations']) == 2


def test_the_shell_refuses_what_has_no_sense(mmetris):
    for arguments, words in (
        (('a dog', '--model', 'transformer', '--threshold', '0.5'), 'gives boxes alone'),
        (('--classes', 'dog,cat', '--model', 'transformer'), 'classes are for masks'),
        (('--classes', 'dog,cat', '--model', 'masks', '--boxes'), 'are for sentences'),
        (('a dog', '--model', 'masks', '--box-threshold', '7'), 'box_threshold must be'),
    ):
        status, out, err = mmetris('segment', 'pictures/0.png', *arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, (arguments, err)


def test_projects_are_found_from_any_folder(folder, tmp_path, monkeypatch):
    """By the config's own place, and of a training's folder by mmetris's; what to do is said where neither has them."""
    script = (
        'import sys; from mmetris.utils.config_options import read_config\n'
        'for path in sys.argv[1:]: print(read_config(path).model.type)'
    )
    site = tmp_path / 'site'
    site.mkdir()
    (site / 'mmetris').symlink_to(ROOT / 'mmetris')  # No projects beside it on the path.
    # A training's folder does not tell where the checkout is; the package's own place does.
    (tmp_path / 'elsewhere').mkdir()
    dumped = tmp_path / 'elsewhere' / 'toy_grounding.py'
    dumped.write_bytes((folder / 'pooled' / 'toy_grounding.py').read_bytes())
    shipped = ROOT / 'projects' / 'grounding' / 'configs' / 'grounding_tiny_shapes.py'
    env = dict(PATH='/usr/bin:/bin', PYTHONPATH=str(site))
    command = [sys.executable, '-P', '-c', script, str(dumped), str(shipped)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ['ReferringGrounder'] * 2, done.stderr
    # As if mmetris had been installed without them.
    monkeypatch.setattr(projects, 'find_root', lambda *names: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [entry for entry in sys.path if not (Path(entry or '.') / 'projects').is_dir()])
    for name in [name for name in sys.modules if name.split('.')[0] == 'projects']:
        monkeypatch.delitem(sys.modules, name)
    assert find_root('projects') == ROOT
    before = list(sys.path)
    with pytest.raises(ValueError, match=r'needs projects.*in its folder projects/: start in the root of the checkout'):
        read_config(dumped)
    assert sys.path == before
