"""The decoder of the released code, from recorded values of two tiny models (ResNet, ViT): same weights, same numbers.

``tests/data/golden/head_{rn,vit}.pth`` hold the decoder's weights in the published layout, its inputs (three maps,
words, sentence), what each of its parts gave, the loss and the norm of every gradient, all in eval mode.
"""

from pathlib import Path

import pytest
import torch
from published_head import convert, rename

from mmetris.models import ETRISHead
from mmetris.models.layers.bridged_features import BridgedFeatures

GOLDEN = Path(__file__).parents[2] / 'data' / 'golden'
STRIDES = {'rn': (8, 16, 32), 'vit': (16, 16, 16)}
TOLERANCE = 1e-4


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture(params=['rn', 'vit'])
def case(request):
    """Golden values, the head with their weights in eval mode, and their features."""
    golden = torch.load(GOLDEN / f'head_{request.param}.pth', weights_only=True)
    maps = tuple(golden[name] for name in ('vis2', 'vis3', 'vis4'))
    head = ETRISHead(
        in_channels=[feature_map.shape[1] for feature_map in maps],
        in_strides=STRIDES[request.param],
        word_channels=golden['words'].shape[-1],
        sentence_channels=golden['sentence'].shape[-1],
        channels=golden['hierarchical'].shape[1],
        num_heads=golden['config']['head_heads'],
        global_alignment=dict(ffn_dims=golden['config']['dim_ffn']),
        text_projection=True)
    head.load_state_dict(convert(golden['state_dict']))
    features = BridgedFeatures(maps, golden['words'], golden['sentence'], padding_mask=golden['tokens'] == 0)
    return golden, head.eval(), features


def test_every_step_gives_the_recorded_values(case):
    golden, head, features = case
    fused = head.align_hierarchically(features)
    aligned = head.align_globally(fused, features)
    logits = head(features)
    assert relative_error(fused, golden['hierarchical']) < TOLERANCE
    assert relative_error(aligned, golden['global_aligned']) < TOLERANCE
    assert relative_error(logits, golden['logits']) < TOLERANCE
    assert head.loss_decode[0](logits, golden['mask']).item() == pytest.approx(golden['loss'].item(), rel=TOLERANCE)


def test_every_gradient_has_the_recorded_norm(case):
    golden, head, features = case
    head.loss_decode[0](head(features), golden['mask']).backward()
    parameters = dict(head.named_parameters())
    ours = {name: parameters.pop(rename(f'module.{name}')).grad.norm().item() for name in golden['grad_norms']}
    assert not parameters
    assert ours == pytest.approx(golden['grad_norms'], rel=TOLERANCE)
