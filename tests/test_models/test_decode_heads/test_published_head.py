"""The decoder of the released code, from recorded values of two tiny models (ResNet, ViT): same weights, same numbers.

``tests/data/golden/head_{rn,vit}.pth`` hold the decoder's weights in the published layout, its inputs (three maps,
words, sentence), what each of its parts gave, the loss and the norm of every gradient, all in eval mode.
"""

import re
from pathlib import Path

import pytest
import torch

from mmetris.models import ETRISHead
from mmetris.models.layers.bridged_features import BridgedFeatures

GOLDEN = Path(__file__).parents[2] / 'data' / 'golden'
STRIDES = {'rn': (8, 16, 32), 'vit': (16, 16, 16)}
TOLERANCE = 1e-4

# Published name -> ours, applied in this order.
RENAMES = (
    (r'^module\.', ''),
    (r'^neck\.txt_proj\.', 'text_projection.'),
    (r'^neck\.f(\d)_proj\.', lambda match: f'hierarchical_alignment.projections.{int(match[1]) - 3}.'),
    (r'^neck\.fusion(\d)\.multihead_attn\.',
     lambda match: f'hierarchical_alignment.gates.{int(match[1]) - 3}.attention.'),
    (r'^neck\.aggr\.', 'hierarchical_alignment.fuse.'),
    (r'^neck\.coordconv\.0\.conv1\.', 'hierarchical_alignment.coord_conv.conv.'),
    (r'^neck\.coordconv\.1\.', 'hierarchical_alignment.refine.'),
    (r'^decoder\.', 'global_alignment.'),
    (r'\.self_attn_norm\.', '.self_attention_out_norm.'),
    (r'\.cross_attn_norm\.', '.cross_attention_out_norm.'),
    (r'\.self_attn\.', '.self_attention.'),
    (r'(?<=\d)\.multihead_attn\.', '.cross_attention.'),
    (r'\.norm1\.', '.self_attention_norm.'),
    (r'\.norm2\.', '.cross_attention_norm.'),
    (r'\.norm3\.', '.ffn_norm.'),
    (r'^proj\.vis\.', 'projector.pixel_projection.'),
    (r'^proj\.txt\.', 'projector.kernel_projection.'),
)
# The two layers of a ConvNormReLU are numbered in the published names.
CONV_NORM = (r'(projections\.\d|fuse|coord_conv\.conv|refine|pixel_projection\.[13])\.([01])\.',
             lambda match: f'{match[1]}.{"norm" if match[2] == "1" else "conv"}.')


def rename(published):
    """Name in an ETRISHead of a parameter of a published decoder."""
    for pattern, replacement in (*RENAMES, CONV_NORM):
        published = re.sub(pattern, replacement, published)
    return published


def convert(published):
    """State dict of an ETRISHead from that of a published decoder.

    The last map's projection is a deconvolution in every published model. Where the strides are equal (ViT)
    it is a 1x1 one, which is a 1x1 convolution with the weight's first two axes exchanged.
    """
    converted = {}
    for name, value in published.items():
        if name == 'module.neck.f5_proj.0.weight' and value.shape[-1] == 1:
            value = value.transpose(0, 1)
        converted[rename(name)] = value
    return converted


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
