"""The decoder of the released code, from recorded values of two tiny models (ResNet, ViT): same weights, same numbers.

``tests/data/golden/etris_{rn,vit}.{ckpt,io}.pth`` hold the models' weights in the published layout, the decoder's
inputs (three maps, words, sentence), what each of its parts gave, the loss and the norm of every gradient, all in eval
mode.
"""

from pathlib import Path

import pytest
import torch

from mmetris.models import ETRISHead
from mmetris.models.converters.etris_keys import etris_keys
from mmetris.models.converters.shared_keys import exchange_layout
from mmetris.structures.bridged_features import BridgedFeatures

GOLDEN = Path(__file__).parents[2] / 'data' / 'golden'
STRIDES = {'rn': (8, 16, 32), 'vit': (16, 16, 16)}
FAMILIES = {'rn': 'resnet', 'vit': 'vit'}
TOLERANCE = 1e-4


def rename(published, kind):
    """Name in an ETRISHead of a published parameter; None if it belongs to another part."""
    name = etris_keys(FAMILIES[kind]).ours(published.removeprefix('module.'))
    return name.removeprefix('decode_head.') if name and name.startswith('decode_head.') else None


def convert(published, kind):
    """State dict of an ETRISHead from that of a published model."""
    return {
        name: exchange_layout(key.removeprefix('module.'), value)
        for key, value in published.items()
        if (name := rename(key, kind))
    }


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture(params=['rn', 'vit'])
def case(request):
    """Golden values, the head with their weights in eval mode, and their features."""
    kind = request.param
    golden = torch.load(GOLDEN / f'etris_{kind}.io.pth', weights_only=True)
    weights = torch.load(GOLDEN / f'etris_{kind}.ckpt.pth', weights_only=True)['state_dict']
    golden['grad_norms'] = {name: norm for key, norm in golden['grad_norms'].items() if (name := rename(key, kind))}
    maps = tuple(golden[name] for name in ('vis2', 'vis3', 'vis4'))
    head = ETRISHead(
        in_channels=[feature_map.shape[1] for feature_map in maps],
        in_strides=STRIDES[kind],
        word_channels=golden['words'].shape[-1],
        sentence_channels=golden['sentence'].shape[-1],
        channels=golden['hierarchical'].shape[1],
        num_heads=golden['config']['head_heads'],
        global_alignment=dict(ffn_dims=golden['config']['dim_ffn']),
        text_projection=True,
    )
    head.load_state_dict(convert(weights, kind))
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
    ours = {name: parameter.grad.norm().item() for name, parameter in head.named_parameters()}
    assert ours == pytest.approx(golden['grad_norms'], rel=TOLERANCE)
