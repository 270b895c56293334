"""Boxes for sentences: heads, losses, the way back to the image, scores, and a training by the shipped config."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.registry import METRICS, MODELS
from mmetris.structures import RefDataSample
from mmetris.utils.letterbox import letterbox_geometry
from projects.grounding.grounding.box_head import box_of_moments
from projects.grounding.grounding.boxes import complete_by_boxes, target_boxes
from tests import toy
from tests.forked_process import kill_test
from tests.toy_grounding import POOLED, TRANSFORMER, build

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'projects' / 'grounding' / 'configs'


def sample(boxes, **meta):
    """A sample of 64 x 64 pixels whose mask fills its boxes (left, top, right, bottom)."""
    mask = torch.zeros(1, 64, 64, dtype=torch.long)
    for left, top, right, bottom in boxes:
        mask[:, top:bottom, left:right] = 1
    one = RefDataSample(metainfo=dict(expression='the left dog', img_path='x.jpg', img_shape=(64, 64), **meta))
    one.gt_sem_seg = PixelData(data=mask)
    one.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return one


BATCH = [[[4, 8, 20, 40]], [], [[0, 0, 10, 10], [40, 50, 64, 64]]]  # One object, none, several.


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
@pytest.mark.parametrize('head', [POOLED, dict(POOLED, with_mask=False), TRANSFORMER])
def test_shapes_and_gradients(head, kind):
    model = build(head, kind).train()
    images, samples = toy.randn(3, 3, 64, 64), [sample(boxes) for boxes in BATCH]
    losses = model.loss(images, samples)
    total = sum(value for key, value in losses.items() if 'loss' in key)
    total.backward()
    missing = {name for name, value in model.named_parameters() if value.requires_grad and (value.grad is None)}
    assert torch.isfinite(total) and not missing
    assert all(
        not name.startswith(('backbone.', 'text_encoder.'))
        for name, value in model.named_parameters()
        if value.requires_grad
    )
    found = model.eval().predict(images, [sample(boxes, ori_shape=(64, 64)) for boxes in BATCH])
    for one in found:
        boxes, scores = one.pred_instances.bboxes, one.pred_instances.scores
        assert boxes.shape == (len(scores), 4) and (boxes >= 0).all() and (boxes <= 64).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all() and (scores.diff() <= 0).all()
        assert ('pred_sem_seg' in one) == (head.get('with_mask', head is POOLED))
    assert len(model.predict(images, samples)[0].pred_instances) == (4 if head is TRANSFORMER else 1)


def test_an_evenly_filled_rectangle_is_its_own_first_box():
    weights = torch.zeros(2, 1, 8, 16)
    weights[0, 0, 2:5, 4:12] = 0.7
    weights[1, 0, 7, 15] = 1
    expected = torch.tensor([[8 / 16, 3.5 / 8, 8 / 16, 3 / 8], [15.5 / 16, 7.5 / 8, 1 / 16, 1 / 8]])
    torch.testing.assert_close(box_of_moments(weights), expected)


def test_a_mask_head_of_etris_fits(tmp_path):
    """Weights of a segmentor are the decoder's; a new box head leaves its masks as they are."""
    segmentor = toy.build_model('vit').eval()
    model = build(POOLED).eval()
    state = {key.replace('decode_head.', 'box_head.decoder.'): value for key, value in segmentor.state_dict().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(key.startswith('box_head.') and 'decoder' not in key for key in missing)
    images = toy.randn(2, 3, 64, 64)
    own = segmentor.predict(images, [sample([]), sample([])])
    for one, other in zip(own, model.predict(images, [sample([]), sample([])])):
        torch.testing.assert_close(one.seg_logits.data, other.seg_logits.data)


def test_queries_are_matched_at_the_lowest_cost():
    head = build(TRANSFORMER).box_head
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]])
    rows, columns = head.match(boxes, torch.zeros(4), boxes[[2, 1]] + 0.01)
    assert {*zip(rows.tolist(), columns.tolist())} == {(2, 0), (1, 1)}
    # Between equal boxes the score decides, and nobody is matched with nothing.
    rows, _ = head.match(boxes[[0, 0, 0, 0]], torch.tensor([0.0, 0.0, 3.0, 0.0]), boxes[:1])
    assert rows.tolist() == [2] and not len(head.match(boxes, torch.zeros(4), boxes[:0])[0])


def test_boxes_return_to_the_original_image():
    geometry = letterbox_geometry((50, 100), (64, 64))
    one = sample([[2, 20, 30, 40]], letterbox=tuple(geometry), ori_shape=(50, 100))
    shares = target_boxes([one], (64, 64), torch.device('cpu'))[0]
    complete_by_boxes(shares[None], torch.ones(1, 1), [one], (64, 64))
    # A point of the input is (p - 0.5 - offset) / scale + 0.5 of the image; scale 0.64, top 16.
    expected = [[(2 - 0.5) / 0.64 + 0.5, (20 - 16.5) / 0.64 + 0.5, (30 - 0.5) / 0.64 + 0.5, (40 - 16.5) / 0.64 + 0.5]]
    np.testing.assert_allclose(one.pred_instances.bboxes, expected, rtol=1e-5)
    resized = sample([], scale_factor=(0.5, 2.0), ori_shape=(32, 128))
    complete_by_boxes(torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]), torch.ones(1, 1), [resized], (64, 64))
    np.testing.assert_allclose(resized.pred_instances.bboxes, [[0, 0, 128, 32]])


def test_a_data_set_without_boxes_is_told():
    one = sample([])
    del one.gt_instances
    with pytest.raises(ValueError, match=r'x\.jpg has no boxes: set with_boxes=True'):
        build(POOLED).loss(toy.randn(1, 3, 64, 64), [one])
    one.pred_instances = InstanceData(bboxes=torch.zeros(1, 4), scores=torch.ones(1))
    with pytest.raises(KeyError, match='has no gt_instances'):
        METRICS.build(dict(type='BoxMetric')).process(None, [one.to_dict()])


def answered(true, found, scores):
    one = sample(true)
    one.pred_instances = InstanceData(
        bboxes=torch.tensor(found, dtype=torch.float32).reshape(-1, 4), scores=torch.tensor(scores, dtype=torch.float32)
    )
    return one.to_dict()


# IoU by hand: 1; 50 / 150; the higher score counts, which is off; nothing is meant, and a box is given, or none.
SCORED = [
    ([[0, 0, 10, 10]], [[0, 0, 10, 10]], [0.9]),
    ([[0, 0, 10, 10]], [[5, 0, 15, 10]], [0.9]),
    ([[0, 0, 10, 10]], [[0, 0, 10, 10], [30, 30, 40, 40]], [0.3, 0.6]),
    ([], [[0, 0, 10, 10]], [0.6]),
    ([], [[0, 0, 10, 10]], [0.2]),
    ([[0, 0, 10, 10], [20, 20, 30, 30]], [[20, 20, 30, 29], [0, 0, 10, 8]], [0.9, 0.8]),
]


def test_scores_are_those_counted_by_hand(caplog):
    metric = METRICS.build(dict(type='BoxMetric', thresholds=(0.3, 0.5)))
    metric.process(None, [answered(*one) for one in SCORED[:3]])
    found = metric.evaluate(3)
    assert found == pytest.approx({'mIoU': 100 * (1 + 1 / 3 + 0) / 3, 'Acc@0.3': 200 / 3, 'Acc@0.5': 100 / 3})
    several = METRICS.build(dict(type='BoxMetric', several=True))
    several.process(None, [answered(*one) for one in SCORED])
    found = several.evaluate(len(SCORED))
    # Matched without remainder: the first, the fifth, the last.
    assert found['F1'] == pytest.approx(50) and found['N-acc'] == pytest.approx(50)
    assert found['mIoU'] == pytest.approx(100 * (1 + 1 / 3 + 0 + 0.9) / 4)
    # A model without boxes: the box around its mask.
    mask_only = sample([[0, 0, 10, 10]])
    mask_only.pred_sem_seg = PixelData(data=sample([[0, 0, 5, 10]]).gt_sem_seg.data)
    metric.process(None, [mask_only.to_dict()])
    assert metric.evaluate(1) == pytest.approx({'mask_mIoU': 50, 'mask_Acc@0.3': 100, 'mask_Acc@0.5': 100})
    metric.process(None, [answered(*SCORED[3])])
    with pytest.raises(ValueError, match='no sentence has a true box'):
        metric.evaluate(1)
    with pytest.raises(ValueError, match='between 0 and 1'):
        METRICS.build(dict(type='BoxMetric', thresholds=(50,)))


@pytest.mark.processes
def test_scores_are_the_same_on_two_processes(tmp_path):
    def share():
        rank = int(os.environ['RANK'])
        torch.distributed.init_process_group('gloo')
        metric = METRICS.build(dict(type='BoxMetric', several=True))
        # As DistributedSampler deals them: every second one, and the first again where they do not suffice.
        own = [SCORED[index % 5] for index in range(rank, 6, 2)]
        metric.process(None, [answered(*one) for one in own])
        torch.save(metric.evaluate(5), tmp_path / f'{rank}.pth')

    assert kill_test.wait(kill_test.start(share, tmp_path / 'log.txt', processes=2)), (tmp_path / 'log.txt').read_text()
    alone = METRICS.build(dict(type='BoxMetric', several=True))
    alone.process(None, [answered(*one) for one in SCORED[:5]])
    expected = alone.evaluate(5)
    assert all(torch.load(tmp_path / f'{rank}.pth', weights_only=False) == expected for rank in range(2))


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_configs_build(path):
    cfg = Config.fromfile(path)
    assert all(cfg[f'{phase}_dataloader'].dataset.with_boxes for phase in ('train', 'val', 'test'))
    evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
    assert any(one['type'] == 'BoxMetric' for one in evaluators)
    assert cfg.default_hooks.checkpoint.save_best.startswith('box/') and cfg.default_hooks.checkpoint.rule == 'greater'
    init_default_scope('mmetris')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    tunable = {name.split('.')[0] for name, value in model.named_parameters() if value.requires_grad}
    assert tunable == {'neck', 'decode_head' if path.stem.startswith('mask-boxes') else 'box_head'}


def test_the_shipped_config_trains_and_is_scored(tmp_path):
    write_shapes(tmp_path / 'shapes', ShapesSpec(num_train=2, num_val=1, num_test_a=1, num_test_b=1))
    cfg = Config.fromfile(CONFIGS / 'grounding_tiny_shapes.py')
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = f'{tmp_path}/shapes/'
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'work_dir': str(tmp_path / 'work')})
    cfg.param_scheduler = []
    cfg.experiment_name = tmp_path.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    scores = runner.val()
    assert {'box/mIoU', 'box/Acc@0.5', 'box/mask_Acc@0.5', 'mIoU'} <= scores.keys()
    assert list((tmp_path / 'work').glob('best_box_Acc@0.5_epoch_1.pth'))
    batch = pseudo_collate([runner.val_dataloader.dataset[0]])
    with torch.no_grad():
        one = runner.model.eval().val_step(batch)[0]
    height, width = one.ori_shape[:2]
    assert (one.pred_instances.bboxes <= torch.tensor([width, height, width, height])).all()
