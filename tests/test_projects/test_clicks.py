"""Clicks that correct masks: where they fall, what they change, what they do not, scores, and the shipped configs."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from PIL import Image

from mmetris.apis import RefSegPredictor
from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.evaluation import RefSegMetric
from mmetris.registry import METRICS, MODELS
from mmetris.structures import RefDataSample
from mmetris.utils.letterbox import letterbox_geometry, letterbox_image
from projects.clicks.clicks import Click, ClickPredictor, next_click
from projects.clicks.clicks.points import NO_CLICK, read_clicks, stack_clicks, to_input, to_original
from projects.clicks.clicks.prompt_encoder import PromptEncoder
from projects.clicks.clicks.simulation import depth_of
from tests import toy
from tests.forked_process import kill_test
from tests.toy_inference import picture, save_model_with_clicks, save_toy_model

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'projects' / 'clicks' / 'configs'
build = toy.build_with_clicks


def sample(box=None, hw=(64, 64), **meta):
    """A sample whose mask fills a box (left, top, right, bottom), or is empty."""
    one = RefDataSample(metainfo=dict(expression='the left dog', img_path='x.jpg', img_shape=(64, 64), **meta))
    mask = torch.zeros(1, *hw, dtype=torch.long)
    if box is not None:
        left, top, right, bottom = box
        mask[:, top:bottom, left:right] = 1
    one.gt_sem_seg = PixelData(data=mask)
    return one


def grid(text):
    return np.array([list(map(int, line)) for line in text.split()])


def test_the_next_click_is_the_one_found_by_hand():
    true = grid('0000000 0111110 0111110 0111110 0000000')
    nothing = np.zeros_like(true)
    # Of 3 x 5 missing pixels three are two pixels deep; the first of them in reading order.
    assert next_click(nothing, true) == Click(2, 2, 1)
    # A missing column (depth 1) against a square of 3 x 3 that is too much, at the border (depth 2).
    true = np.zeros((6, 8), int)
    true[:, 0] = 1
    predicted = np.zeros_like(true)
    predicted[3:6, 5:8] = 1
    assert next_click(predicted, true) == Click(6, 4, 0)
    assert next_click(predicted[:, :5], true[:, :5]) == Click(0, 0, 1), 'equally deep: the first'
    assert next_click(true, true) is None
    # What was clicked is not clicked again, and what is not known is no mistake.
    assert next_click(predicted, true, [Click(6, 4, 0)]).label == 1
    true[3:6, 5:8] = 255
    assert next_click(predicted, true) == Click(0, 0, 1)
    # Nothing is meant: only negative clicks, until nothing is too much.
    clicks = []
    while (click := next_click(predicted, np.zeros_like(true), clicks)) is not None:
        clicks.append(click)
    assert {(click.y, click.x) for click in clicks} == {*zip(*predicted.nonzero())}
    assert {click.label for click in clicks} == {0}


def test_the_depth_is_the_distance_to_the_outside():
    region = np.random.default_rng(0).random((9, 12)) < 0.9
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded)
    for (y, x), depth in np.ndenumerate(depth_of(region)):
        expected = np.sqrt(((outside - [y + 1, x + 1]) ** 2).sum(1).min()) if region[y, x] else 0
        assert depth == pytest.approx(expected, rel=1e-5)
    assert not depth_of(np.zeros((3, 3), bool)).any()


def test_clicks_in_training_are_random_but_deep():
    true = np.zeros((20, 20), int)
    true[4:15, 4:15] = 1
    rng = np.random.default_rng(0)
    clicks = {next_click(np.zeros_like(true), true, rng=rng) for _ in range(100)}
    assert len(clicks) > 10
    assert all(6 <= x <= 12 and 6 <= y <= 12 and label == 1 for x, y, label in clicks)


@pytest.mark.parametrize('hw', [(50, 100), (100, 50), (64, 64), (7, 300)])
def test_a_click_lands_on_the_same_spot_of_the_letterboxed_picture(hw):
    meta = dict(letterbox=tuple(letterbox_geometry(hw, (64, 64))))
    clicks = [Click(0, 0, 1), Click(hw[1] - 1, hw[0] - 1, 0), Click(hw[1] / 3, hw[0] / 2, 1)]
    there = to_input(clicks, meta)
    np.testing.assert_allclose(to_original(there, meta), clicks, atol=1e-9)
    assert all(0 <= x < 64 and 0 <= y < 64 for x, y, _ in there)


def test_a_dot_of_the_picture_is_where_its_click_is():
    image = np.zeros((60, 120), np.uint8)
    image[40:43, 90:93] = 255
    boxed = letterbox_image(image, (64, 64), border_value=(0,))
    meta = dict(letterbox=tuple(letterbox_geometry((60, 120), (64, 64))))
    (x, y, _), *_ = to_input([Click(91, 41, 1)], meta)
    rows, columns = boxed.nonzero()
    weights = boxed[rows, columns]
    assert (np.average(columns, weights=weights), np.average(rows, weights=weights)) == pytest.approx((x, y), abs=0.3)
    resized = dict(scale_factor=(0.5, 2.0))
    (x, y, label), *_ = to_input([Click(1, 1, 0)], resized)
    assert (x, y, label) == (0.25, 2.5, 0) and to_original([Click(x, y, 0)], resized) == [Click(1, 1, 0)]
    with pytest.raises(ValueError, match='flipped'):
        to_input([Click(1, 1, 0)], dict(flip=True))


@pytest.mark.parametrize(
    ('points', 'labels', 'message'),
    [
        ([(1, 2)], [1, 0], '1 points and 2 labels'),
        ([(80, 2)], [1], r'points\[0\]=\(80, 2\) is outside of the image: x is from 0 to 79 and y from 0 to 47'),
        ([(1, 2), (0, -0.1)], [1, 1], r'points\[1\].*outside'),
        ([(float('nan'), 2)], [1], 'outside'),
        ([(1, 2, 3)], [1], r'is no \(x, y\)'),
        ([('1', 2)], [1], r'is no \(x, y\)'),
        ([(1, 2)], [2], r'labels\[0\]=2 must be 1 .* or 0'),
        ([(1, 2)], ['1'], 'must be 1'),
    ],
)
def test_clicks_that_cannot_be_are_refused(points, labels, message):
    with pytest.raises(ValueError, match=message):
        read_clicks(points, labels, (48, 80))
    assert read_clicks(np.array([[79.9, 0]]), np.array([True]), (48, 80)) == [Click(79.9, 0, 1)]


def test_bumps_are_highest_at_the_nearest_click_of_their_kind():
    encoder = PromptEncoder(8, 4, click_radius=0.1)
    points, labels = stack_clicks([[Click(16, 32, 1), Click(48, 32, 0)], [Click(0, 0, 1)]])
    assert labels.tolist() == [[1, 0], [1, NO_CLICK]]
    bumps = encoder.bumps(points, labels, (16, 16), (64, 64))
    assert [divmod(int(bump.argmax()), 16) for bump in bumps[0]] == [(8, 4), (8, 12)]
    assert bumps[0].amax().item() == 1 and not bumps[1, 1].any()
    # Two cells to the right of the first: 8 pixels, at a deviation of 6.4.
    assert bumps[0, 0, 8, 6].item() == pytest.approx(np.exp(-(8**2) / (2 * 6.4**2)))


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_shapes_and_gradients(kind):
    model = build(kind).train()
    assert not any(part.training for part in model.neck.modules()) and model.click_head.training
    losses = model.loss(toy.randn(3, 3, 64, 64), [sample((4, 8, 40, 40)), sample(), sample((0, 0, 64, 64))])
    losses['loss_clicks'].backward()
    assert torch.isfinite(losses['loss_clicks']) and {'iou_0', 'iou_3'} <= losses.keys()
    tunable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert tunable and all(name.startswith('click_head.') for name in tunable)
    assert not [name for name, value in tunable.items() if value.grad is None or not torch.isfinite(value.grad).all()]
    assert all(value.grad.any() for name, value in tunable.items() if 'label_embedding' in name or 'stem' in name)


def test_without_clicks_the_answer_is_that_of_the_sentence_bit_by_bit():
    model, plain = build().eval(), toy.build_model().eval()
    plain.load_state_dict({key: model.state_dict()[key] for key in plain.state_dict()})
    plain.requires_grad_(False)  # What cannot move is folded into convolutions, which rounds in another way.
    images, tokens = toy.randn(2, 3, 64, 64), model.tokenize(['the left dog', 'a cat'])
    with torch.no_grad():
        features = model.click_features(images, tokens)
        own = plain.forward_logits(images, tokens)
        assert torch.equal(features.logits, own)
        assert torch.equal(model.click_head(features, *stack_clicks([[], []])), own)
        refined = model.click_head(features, *stack_clicks([[Click(9, 9, 1)], []]))
    assert torch.equal(refined[1], own[1]) and not torch.equal(refined[0], own[0])
    for one, other in zip(*(each.predict(images, [sample(), sample()]) for each in (model, plain))):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
    # A head that was not trained corrects nothing.
    untrained = build(stirred=False).eval()
    with torch.no_grad():
        features = untrained.click_features(images, tokens)
        refined = untrained.click_head(features, *stack_clicks([[Click(9, 9, 1)]] * 2))
    torch.testing.assert_close(refined, features.logits.clamp(-6, 6))


@torch.no_grad()
def test_the_order_of_clicks_and_rows_filled_up_mean_nothing():
    model = build().eval()
    features = model.click_features(toy.randn(1, 3, 64, 64), model.tokenize(['the left dog']))
    clicks = [Click(9, 9, 1), Click(50, 20, 0), Click(30, 60, 1)]
    points, labels = stack_clicks([clicks])
    found = model.click_head(features, points, labels)
    for order in ([2, 0, 1], [1, 0, 2]):
        torch.testing.assert_close(model.click_head(features, points[:, order], labels[:, order]), found)
    longer = stack_clicks([clicks, [*clicks, *clicks]])
    torch.testing.assert_close(model.click_head(features, longer[0][:1], longer[1][:1]), found)
    # But place, label and what was there before do.
    for changed in (points + 7, points.flip(-1)):
        assert not torch.allclose(model.click_head(features, changed, labels), found)
    assert not torch.allclose(model.click_head(features, points, 1 - labels), found)
    assert not torch.allclose(model.click_head(features, points, labels, found), found)


def test_a_training_step_leaves_everything_else_as_it_was():
    model = build('resnet').train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    model.loss(toy.randn(2, 3, 64, 64), [sample((4, 8, 40, 40)), sample()])['loss_clicks'].backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith('click_head.') for key in changed)


def test_evaluation_clicks_on_the_original_image(tmp_path):
    model = build(test_cfg=dict(simulated_clicks=3)).eval()
    geometry = letterbox_geometry((48, 96), (64, 64))
    samples = [sample(box, (48, 96), ori_shape=(48, 96), letterbox=tuple(geometry)) for box in [(4, 8, 40, 40), None]]
    with torch.no_grad():
        found = model.predict(toy.randn(2, 3, 64, 64), samples)
    for one in found:
        masks, clicks = one.click_masks.numpy(), one.clicks.tolist()
        assert masks.shape == (4, 48, 96) and masks.dtype == bool
        assert np.array_equal(masks[0], one.pred_mask.numpy()), 'the answer to the sentence'
        true, done = one.gt_mask.numpy().astype(int), []
        for mask, click in zip(masks, clicks):
            assert next_click(mask, true, done) == tuple(click)
            done.append(Click(*click))
    assert found[0].clicks.shape == (3, 3)
    assert not found[1].clicks[:, 2].any(), 'where nothing is meant, clicks are negative'
    with pytest.raises(ValueError, match=r'x\.jpg has no truth'):
        model.predict(toy.randn(1, 3, 64, 64), [RefDataSample(metainfo=samples[0].metainfo)])
    wordless = build(test_cfg=dict(simulated_clicks=1, wordless=True)).eval()
    one = wordless.predict(toy.randn(1, 3, 64, 64), [sample((4, 8, 40, 40))])[0]
    assert not one.click_masks[0].any() and one.clicks.tolist() == [[19.0, 23.0, 1.0]]


def test_settings_that_cannot_be_are_refused():
    for setting, message in [
        (dict(wordless_share=2), 'wordless_share=2 must be between 0 and 1'),
        (dict(num_clicks=0), 'num_clicks=0 must be positive'),
        (dict(test_cfg=dict(simulated_clicks=-1)), 'simulated_clicks=-1'),
    ]:
        with pytest.raises(ValueError, match=message):
            build(**setting)
    for setting, message in [
        (dict(num_clicks=()), 'num_clicks'),
        (dict(num_clicks=(0, -1)), 'none negative'),
        (dict(output_dir='masks'), 'writes no masks'),
    ]:
        with pytest.raises(ValueError, match=message):
            METRICS.build(dict(type='ClickMetric', **setting))


def clicked(number):
    """A sample of 4 x 4 pixels as a dict, whose object has 8 pixels, of which 2 * (clicks + 1) are found."""
    one = sample((0, 0, 4, 2) if number % 5 else None, (4, 4), sample_idx=number, ori_shape=(4, 4))
    masks = torch.zeros(4, 16, dtype=torch.bool)
    for clicks in range(4):
        masks[clicks, : 2 * (clicks + 1)] = number % 5 != 0 or clicks < 2
    one.click_masks = masks.reshape(4, 4, 4)
    return one.to_dict()


def test_scores_are_those_counted_by_hand():
    metric = METRICS.build(dict(type='ClickMetric', num_clicks=(0, 1, 3)))
    metric.process(None, [clicked(number) for number in (1, 2)])
    assert metric.evaluate(2) == {'clicks/mIoU@0': 25, 'clicks/mIoU@1': 50, 'clicks/mIoU@3': 100, 'clicks/samples': 2}
    cautious = METRICS.build(dict(type='ClickMetric', num_clicks=(0, 3), empty_target='one', metric=['mIoU', 'oIoU']))
    cautious.process(None, [clicked(number) for number in (0, 1)])
    found = cautious.evaluate(2)
    assert (found['clicks/mIoU@0'], found['clicks/mIoU@3']) == (12.5, 100)
    assert (found['clicks/oIoU@0'], found['clicks/oIoU@3']) == (20, 100)
    with pytest.raises(KeyError, match=r'x\.jpg has no masks after 5 clicks: set model\.test_cfg\.simulated_clicks=5'):
        METRICS.build(dict(type='ClickMetric')).process(None, [clicked(1)])


@pytest.mark.processes
def test_scores_are_the_same_on_two_processes(tmp_path):
    config = dict(type='ClickMetric', num_clicks=(0, 1, 3), empty_target='one')

    def share():
        rank = int(os.environ['RANK'])
        torch.distributed.init_process_group('gloo')
        metric = METRICS.build(config)
        # As DistributedSampler deals them: every second one, and the first again where they do not suffice.
        metric.process(None, [clicked(index % 5) for index in range(rank, 6, 2)])
        torch.save(metric.evaluate(5), tmp_path / f'{rank}.pth')

    assert kill_test.wait(kill_test.start(share, tmp_path / 'log.txt', processes=2)), (tmp_path / 'log.txt').read_text()
    alone = METRICS.build(config)
    alone.process(None, [clicked(index) for index in range(5)])
    expected = alone.evaluate(5)
    assert expected['clicks/samples'] == 5
    assert all(torch.load(tmp_path / f'{rank}.pth', weights_only=False) == expected for rank in range(2))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A training's folder of a toy model that takes clicks, and pictures."""
    folder = tmp_path_factory.mktemp('clicks')
    save_model_with_clicks(folder / 'model')
    save_toy_model(folder / 'plain')
    Image.fromarray(picture(48, 80)).save(folder / 'picture.png')
    Image.fromarray(picture(60, 60, seed=2)).save(folder / 'other.png')
    return folder


def test_a_click_decodes_and_nothing_else(folder, monkeypatch):
    predictor = ClickPredictor(folder / 'model', device='cpu')
    counts = dict(image=0, text=0, head=0)

    def count(owner, method, name):
        own = getattr(owner, method)

        def counted(*args, **kwargs):
            counts[name] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    count(predictor.model.backbone, 'stem', 'image')
    count(predictor.model, 'bridge', 'text')
    count(predictor.model.click_head, 'forward', 'head')
    predictor.set_image(folder / 'picture.png')
    answer = predictor.predict('the left dog')
    plain = RefSegPredictor(folder / 'plain', device='cpu')
    plain.model.requires_grad_(False)
    plain.set_image(folder / 'picture.png')
    assert np.array_equal(answer['probabilities'][0], plain.predict('the left dog')['probabilities'][0])
    assert counts == dict(image=1, text=1, head=0)
    first = predictor.predict('the left dog', points=[(40, 20)], labels=[1])
    second = predictor.predict('the left dog', points=[(40, 20), (3, 3)], labels=[1, 0], previous=first['logits'][0])
    assert counts == dict(image=1, text=2, head=2), 'once for the answer, once for all its clicks'
    assert first['masks'][0].shape == (48, 80) and first['probabilities'][0].dtype == np.float32
    maps = [one['probabilities'][0] for one in (answer, first, second)]
    assert not np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[1], maps[2])
    smaller = predictor.predict('the left dog', points=[(40, 20)], labels=[1], out_hw=(24, 40))
    assert smaller['masks'][0].shape == (24, 40) and np.array_equal(smaller['logits'][0], first['logits'][0])
    # Another picture, and the features of this one are gone.
    predictor.set_image(folder / 'other.png')
    other = predictor.predict(['the left dog'], points=[(40, 20)], labels=[1], return_datasamples=True)
    assert counts == dict(image=2, text=3, head=4) and other['data_samples'][0].pred_sem_seg.shape == (60, 60)
    assert predictor.predict('', points=[(40, 20)], labels=[1])['texts'] == [''], 'clicks alone'
    predictor.reset_image()
    with pytest.raises(RuntimeError, match='set_image first'):
        predictor.predict('the left dog', points=[(40, 20)], labels=[1])


def test_clicks_of_the_predictor_are_those_of_the_evaluation(folder):
    """A user who clicks where the evaluation does gets its masks."""
    predictor = ClickPredictor(folder / 'model', device='cpu')
    predictor.set_image(folder / 'picture.png')
    model = predictor.model
    one = predictor.asker.samples_of(predictor._encoded, ['the left dog'], [0])[0]
    one.gt_sem_seg = sample((20, 10, 60, 40), (48, 80)).gt_sem_seg
    monkey = model.num_test_clicks
    model.num_test_clicks = 2
    with torch.no_grad():
        found = model.predict(predictor._encoded.inputs, [one])[0]
    model.num_test_clicks = monkey
    previous = None
    for number in (1, 2):
        x, y, label = found.clicks[:number].T.tolist()
        answer = predictor.predict('the left dog', points=list(zip(x, y)), labels=label, previous=previous)
        assert np.array_equal(answer['masks'][0], found.click_masks[number].numpy())
        previous = answer['logits'][0]


def test_mistakes_are_told(folder):
    predictor = ClickPredictor(folder / 'model', device='cpu')
    predictor.set_image(folder / 'picture.png')
    one = dict(points=[(1, 1)], labels=[1])
    for texts, arguments, message in [
        ('a dog', dict(points=[(80, 1)], labels=[1]), 'outside of the image'),
        ('a dog', dict(points=[(1, 1)], labels=[]), '1 points and 0 labels'),
        ('a dog', dict(labels=[1]), '0 points and 1 labels'),
        (['a dog', 'a cat'], one, 'one sentence, but there are 2'),
        ('a dog', dict(previous=np.zeros((32, 32))), 'there are no points'),
        ('a dog', dict(one, previous=np.zeros((3, 3))), r'previous has size \(3, 3\), but .* \(32, 32\)'),
        ('a dog', dict(one, previous=np.full((32, 32), np.nan)), 'not finite'),
        ('', {}, 'empty'),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor.predict(texts, **arguments)
    plain = ClickPredictor(RefSegPredictor(folder / 'plain', device='cpu'))
    plain.set_image(folder / 'picture.png')
    assert not plain.takes_clicks and len(plain.predict('a dog')['masks']) == 1
    with pytest.raises(ValueError, match=r'toy_vit\.py takes no points.*projects/clicks/configs.*clicks_tiny_shapes'):
        plain.predict('a dog', **one)


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_configs_build(path):
    cfg = Config.fromfile(path)
    assert cfg.val_evaluator[0]['type'] == 'ClickMetric' and cfg.default_hooks.checkpoint.save_best == 'clicks/mIoU@3'
    assert max(cfg.val_evaluator[0]['num_clicks']) == cfg.model.test_cfg.simulated_clicks
    assert cfg.load_from and cfg.default_hooks.checkpoint.rule == 'greater'
    init_default_scope('mmetris')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert {name.split('.')[0] for name, value in model.named_parameters() if value.requires_grad} == {'click_head'}


def test_the_shipped_config_trains_and_is_scored(tmp_path):
    write_shapes(tmp_path / 'shapes', ShapesSpec(num_train=2, num_val=1, num_test_a=1, num_test_b=1))
    cfg = Config.fromfile(CONFIGS / 'clicks_tiny_shapes.py')
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = f'{tmp_path}/shapes/'
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'work_dir': str(tmp_path / 'work')})
    cfg.param_scheduler = []
    cfg.experiment_name = tmp_path.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    scores = runner.val()
    assert {'clicks/mIoU@0', 'clicks/mIoU@1', 'clicks/mIoU@3', 'clicks/mIoU@5', 'mIoU'} <= scores.keys()
    assert scores['clicks/mIoU@0'] == scores['mIoU'] > 50, 'the sentence is answered by the model that ships'
    assert list((tmp_path / 'work').glob('best_clicks_mIoU@3_epoch_1.pth'))
    assert isinstance(runner.val_evaluator.metrics[1], RefSegMetric)
