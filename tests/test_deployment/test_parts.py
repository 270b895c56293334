"""A model as functions of tensors, whole and cut in two; no file is written."""

from __future__ import annotations

import pytest
import torch

from mmetris import tokenize
from mmetris.deployment import ImagePart, TextPart, WholeModel
from mmetris.deployment.export import make_parts
from tests import toy

HW = (64, 96)
TOKENS = tokenize(['the left dog', 'a cat', 'x'], 17)
NECKS = dict(all=None, late=dict(stages=(3, 4)), none=dict(stages=()))


def pictures(count: int) -> torch.Tensor:
    """RGB (count, 3, H, W), 0..255."""
    return (toy.randn(count, 3, *HW) * 60 + 128).clamp(0, 255).round()


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
@pytest.mark.parametrize('neck', NECKS)
@torch.no_grad()
def test_both_parts_together_are_the_whole(kind, neck):
    model = toy.build_model(kind, neck=NECKS[neck]).eval()
    images, index = pictures(2), torch.tensor([1, 0, 1])
    features = ImagePart(model)(images)
    assert all(len(feature) == 2 for feature in features)
    found = TextPart(model, HW)(TOKENS, index, *features)
    expected = WholeModel(model, HW)(images[index], TOKENS)
    assert found[0].shape == (3, 1, *HW)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_image_part_holds_only_what_the_text_part_reads():
    """Without a Bridger all maps and no state; with a late one the earlier map and the state."""
    counts = {
        name: len(ImagePart(toy.build_model('resnet', neck=neck).eval())(pictures(1))) for name, neck in NECKS.items()
    }
    assert counts == dict(all=1, late=2, none=3)


@pytest.mark.parametrize('swap', [True, False])
@torch.no_grad()
def test_the_input_is_rgb_whatever_the_model_was_trained_on(swap):
    cfg = toy.model_cfg('vit')
    cfg['data_preprocessor']['bgr_to_rgb'] = swap
    model = toy.build(cfg).eval()
    images = pictures(3)
    inputs = model.data_preprocessor(dict(inputs=list(images.flip(1))))['inputs']  # It takes BGR.
    _, logits = WholeModel(model, HW)(images, TOKENS)
    torch.testing.assert_close(logits, model.forward_logits(inputs, TOKENS), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_probabilities_are_those_of_postprocessing():
    model = toy.build_model('vit').eval()
    probabilities, logits = WholeModel(model, HW)(pictures(3), TOKENS)
    samples = model.postprocess_result(logits, None, HW)
    expected = torch.stack([sample.seg_logits.data.sigmoid() for sample in samples])
    torch.testing.assert_close(probabilities.clamp(0, 1), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_no_target_head_gives_a_third_output_in_both_forms_and_a_rule_likewise():
    cfg = toy.model_cfg('resnet', decode_head=dict(no_target_head=dict(channels=8)))
    images, index = pictures(2), torch.tensor([1, 0, 1])
    for no_target in (None, dict(by='top', threshold=0.5)):
        model = toy.build(cfg | dict(test_cfg=dict(no_target=no_target))).eval()
        expected = WholeModel(model, HW)(images[index], TOKENS)
        found = TextPart(model, HW)(TOKENS, index, *ImagePart(model)(images))
        assert len(expected) == 3 and expected[2].shape == (3,) and 0 < expected[2].min() < expected[2].max() < 1
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        ports = [part.outputs for part in make_parts(model, HW, 17) if part.name != 'image']
        assert [[port.name for port in one] for one in ports] == [['probabilities', 'logits', 'no_target_scores']] * 2
    model = toy.build(cfg | dict(test_cfg=dict(no_target=False))).eval()
    assert len(WholeModel(model, HW)(images[index], TOKENS)) == 2
