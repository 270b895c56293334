"""The answer "not in the picture": the head's loss by hand, rules, thresholds, and a model without it as before."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.structures import PixelData

from mmetris import tokenize
from mmetris.models.decode_heads import NoTargetHead, NoTargetRule
from mmetris.models.decode_heads.mask_prediction import empty_without_target
from mmetris.models.decode_heads.no_target import mask_score, read_no_target_rule
from mmetris.structures import RefDataSample
from tests import toy

HEAD = dict(no_target_head=dict(type='NoTargetHead', channels=8))
TOKENS = tokenize(['the left dog', 'a man', 'x'], 17)


def make_head(**kwargs) -> NoTargetHead:
    torch.manual_seed(0)
    return NoTargetHead(map_channels=6, sentence_channels=10, channels=8, **kwargs)


def inputs(rows: int = 3) -> tuple[torch.Tensor, ...]:
    """A fused map, sentences and mask logits, four cells of the mask to a side of one of the map."""
    return toy.randn(rows, 6, 4, 5), toy.randn(rows, 10, seed=1), toy.randn(rows, 1, 16, 20, seed=2)


def rows(*values: list[int]) -> torch.Tensor:
    """True masks (B, 1, 1, W)."""
    return torch.tensor(values)[:, None, None]


def batch(hw: tuple[int, int] = (64, 64)) -> dict:
    """Two pictures; the second sentence means nothing."""
    samples = []
    for index, text in enumerate(('the left dog', 'a man')):
        sample = RefDataSample(metainfo=dict(expression=text, img_shape=hw, ori_shape=hw))
        mask = torch.zeros(1, *hw, dtype=torch.long)
        mask[:, : hw[0] // 2] = 1 - index
        sample.gt_sem_seg, sample.tokens = PixelData(data=mask), tokenize(text, 17)[0]
        samples.append(sample)
    images = (toy.randn(2, 3, *hw) * 50 + 128).clamp(0, 255).to(torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


def losses_of(model: torch.nn.Module, data: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # Dropout.
    return model(**model.data_preprocessor(data, True), mode='loss')


# ------------------------------------------------------------------------------------------------------------- head


def test_one_logit_for_each_sentence_and_gradients_that_reach_all_but_the_mask():
    head, (fused, sentence, logits) = make_head(), inputs()
    for tensor in (fused, sentence, logits):
        tensor.requires_grad_()
    found = head(fused, sentence, logits)
    assert found.shape == (3,)
    found.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())
    assert fused.grad.abs().sum() > 0 and sentence.grad.abs().sum() > 0
    assert logits.grad is None, 'the mask is read, not trained'


def test_each_row_is_answered_by_itself_and_by_all_it_is_given():
    head, (fused, sentence, logits) = make_head(), inputs()
    together = head(fused, sentence, logits)
    torch.testing.assert_close(torch.cat([head(*(one[None] for one in row)) for row in zip(*inputs())]), together)
    for changed in ((fused + 1e-1 * toy.randn(3, 6, 4, 5, seed=5), sentence, logits), (fused, -sentence, logits)):
        assert not torch.allclose(head(*changed), together, atol=1e-4)
    assert not torch.allclose(head(fused, sentence, logits.flip(3)), together, atol=1e-4)


def test_the_loss_is_the_cross_entropy_worked_out_by_hand():
    """Logits 2, 1, -1 with "empty" true, false, true: log(1 + e^-2), log(1 + e^1), log(1 + e^1), and a tenth of their
    mean. A truth of background and unknown pixels counts for nothing; weights are factors of single terms and of all.
    """
    logits = torch.tensor([2.0, 1.0, -1.0, 5.0])
    masks = rows([0, 0, 0], [0, 1, 255], [0, 0, 0], [0, 255, 0])
    terms = [math.log1p(math.exp(-2)), math.log1p(math.e), math.log1p(math.e)]
    found = make_head().loss(logits, masks)
    assert found['loss_no_target'].item() == pytest.approx(0.1 * sum(terms) / 3)
    assert found['acc_no_target'].item() == pytest.approx(100 / 3)
    weighted = make_head(loss_weight=0.5, no_target_weight=3.0).loss(logits, masks)
    assert weighted['loss_no_target'].item() == pytest.approx(0.5 * (3 * terms[0] + terms[1] + 3 * terms[2]) / 3)


def test_a_batch_of_which_nothing_is_known_has_no_loss_and_no_gradient():
    head, logits = make_head(), torch.tensor([3.0], requires_grad=True)
    found = head.loss(logits, rows([255, 0]))
    found['loss_no_target'].backward()
    assert found['loss_no_target'].item() == found['acc_no_target'].item() == logits.grad.item() == 0


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(threshold=0), 'threshold of the no-target head must be a number between 0 and 1, but is 0'),
        (dict(threshold=True), 'but is True'),
        (dict(loss_weight=-1), 'loss_weight'),
        (dict(no_target_weight=-0.1), 'no_target_weight'),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        make_head(**bad)


# ------------------------------------------------------------------------------------------------------------- rules


def test_scores_of_a_mask_are_one_less_what_speaks_for_an_object():
    """10 x 20 cells of probability 0.1, of which one has 0.9 and one 0.5: the highest hundredth are these two."""
    probs = torch.full((2, 1, 10, 20), 0.1)
    probs[0, 0, 3, 4], probs[0, 0, 5, 6] = 0.9, 0.5
    logits = probs.logit()
    expected = dict(peak=[0.1, 0.9], top=[0.3, 0.9], area=[1 - 2 / 200, 1])
    for by, scores in expected.items():
        torch.testing.assert_close(mask_score(by, logits, 0.35), torch.tensor(scores))
    torch.testing.assert_close(mask_score('area', logits, 0.6)[0], torch.tensor(1 - 1 / 200))


def test_a_rule_is_off_unless_asked_for_and_the_heads_own_is_on():
    head = make_head(threshold=0.6)
    assert read_no_target_rule(None, None) is read_no_target_rule(False, None) is None
    assert read_no_target_rule(None, head) == NoTargetRule('head', 0.6) == read_no_target_rule({}, head)
    assert read_no_target_rule(False, head) is None
    assert read_no_target_rule(dict(threshold=0.7), head) == NoTargetRule('head', 0.7)
    assert read_no_target_rule(dict(by='area', threshold=0.99), head) == NoTargetRule('area', 0.99)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (True, r'no_target=True must be None, False or dict\(by=..., threshold=...\)'),
        (dict(by='top'), "by='top' needs a threshold"),
        (dict(by='mean', threshold=0.5), "by='mean' must be 'head' or one of"),
        (dict(threshold=0.5), 'this model has not'),
        (dict(by='peak', threshold=1.0), 'no_target.threshold must be a number between 0 and 1'),
        (dict(by='peak', least=0.5), "has no 'least'"),
    ],
)
def test_a_rule_that_there_is_not_is_refused_when_the_model_is_built(cfg, message):
    with pytest.raises(ValueError, match=message):
        toy.build(toy.model_cfg() | dict(test_cfg=dict(no_target=cfg)))


@pytest.mark.parametrize('score, is_absent', [(0.5, True), (0.4999, False), (0.5001, True)])
def test_a_score_at_the_threshold_empties_the_mask(score, is_absent):
    sample = RefDataSample()
    sample.pred_sem_seg = PixelData(data=torch.ones(1, 2, 3, dtype=torch.uint8))
    empty_without_target(sample, score, 0.5)
    assert sample.pred_no_target is is_absent and sample.pred_mask.any() != is_absent
    assert (sample.no_target_score, sample.no_target_threshold) == (score, 0.5)
    assert sample.pred_sem_seg.data.dtype == torch.uint8 and sample.pred_sem_seg.data.shape == (1, 2, 3)


# ----------------------------------------------------------------------------------------------------- in the model


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_all_else_is_bit_for_bit_what_it_is_without_the_head(kind):
    plain, headed = toy.build_model(kind).eval(), toy.build_model(kind, decode_head=HEAD).eval()
    state = headed.state_dict()
    own = {key for key in state if key.startswith('decode_head.no_target_head.')}
    assert len(own) == 10 and set(state) - own == set(plain.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    images = toy.randn(3, 3, 64, 64)
    assert torch.equal(plain.forward_logits(images, TOKENS), headed.forward_logits(images, TOKENS))
    logits, scores = plain.forward_answers(images, TOKENS)
    assert scores is None and torch.equal(logits, plain.forward_logits(images, TOKENS))
    data = batch()
    with torch.no_grad():
        one, other = plain.test_step(batch())[0], headed.test_step(data)[0]
        losses, more = (losses_of(model.train(), data) for model in (plain, headed))
    assert not {'no_target_score', 'pred_no_target', 'no_target_threshold'} & set(one.to_dict())
    assert torch.equal(one.seg_logits.data, other.seg_logits.data)
    assert set(more) - set(losses) == {'loss_no_target', 'acc_no_target'}
    assert all(torch.equal(value, more[name]) for name, value in losses.items())


@torch.no_grad()
def test_predictions_carry_the_heads_probability_and_its_threshold_decides():
    model = toy.build_model(decode_head=HEAD).eval()
    samples = model.test_step(batch())
    scores = [sample.no_target_score for sample in samples]
    images = torch.stack([image.float() for image in batch()['inputs']])
    images = model.data_preprocessor(dict(inputs=list(images)))['inputs']
    logits, expected = model.forward_answers(images, TOKENS[:2])
    assert scores == expected.tolist() and 0 < scores[0] != scores[1] < 1
    assert torch.equal(logits, model.forward_logits(images, TOKENS[:2]))
    for sample in samples:
        assert sample.no_target_threshold == 0.5 and sample.pred_no_target == (sample.no_target_score >= 0.5)
    # At the score itself the mask is empty; a hair above it is what it is without the head.
    model.test_cfg = dict(no_target=False)
    plain = model.test_step(batch())[0]
    assert 'no_target_score' not in plain
    with torch.no_grad():  # a mask that is there
        model.decode_head.threshold = float(plain.seg_logits.data.sigmoid().median())
    masks = [sample.pred_mask for sample in model.test_step(batch())]
    assert all(mask.any() for mask in masks)
    model.test_cfg = dict(no_target=dict(threshold=scores[0]))
    assert not model.test_step(batch())[0].pred_mask.any()
    model.test_cfg = dict(no_target=dict(threshold=math.nextafter(scores[0], 1)))
    assert torch.equal(model.test_step(batch())[0].pred_mask, masks[0])


@torch.no_grad()
def test_a_rule_decides_for_a_model_without_a_head():
    model = toy.build(toy.model_cfg() | dict(test_cfg=dict(no_target=dict(by='peak', threshold=0.5)))).eval()
    images = toy.randn(3, 3, 64, 64)
    logits, scores = model.forward_answers(images, TOKENS)
    assert torch.equal(scores, 1 - logits.sigmoid().flatten(1).amax(1))
    sample = model.postprocess_result(logits, None, (64, 64), scores)[0]
    assert sample.no_target_score == scores[0].item() and sample.pred_no_target == (scores[0].item() >= 0.5)


@torch.no_grad()
def test_scores_are_float32_and_close_in_bfloat16_and_those_of_encoded_images():
    model = toy.build_model('resnet', decode_head=HEAD).eval()
    images, index = toy.randn(2, 3, 64, 64), torch.tensor([0, 1, 0])
    logits, scores = model.forward_answers(images[index], TOKENS)
    shared = model.forward_answers(model.encode_images(images), TOKENS, index)
    torch.testing.assert_close(shared, (logits, scores), rtol=1e-4, atol=1e-5)
    model.test_cfg = dict(dtype='bfloat16')
    low = model.forward_answers(images[index], TOKENS)
    assert [part.dtype for part in low] == [torch.float32] * 2
    assert 0 < (low[1] - scores).abs().max() < 0.05


def test_a_few_steps_teach_which_sentence_means_nothing():
    model = toy.build_model(decode_head=HEAD).train()
    data = model.data_preprocessor(batch(), True)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    history = []
    for _ in range(12):
        losses = model(**data, mode='loss')
        history.append(losses['loss_no_target'].item())
        loss, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.5 * history[0] and losses['acc_no_target'] == 100


def test_class_names_have_no_such_head():
    cfg = toy.model_cfg(decode_head=HEAD)
    cfg.update(type='ClassNameSegmentor', vocabulary=dict(classes=['dog', 'cat']))
    cfg['text_encoder']['type'] = 'ClassText'
    with pytest.raises(ValueError, match='no_target_head .* for a ReferringSegmentor'):
        toy.build(cfg)
