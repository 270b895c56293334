"""Load the decoder of a published checkpoint into an ETRISHead, for tests."""

from __future__ import annotations

import re

from torch import Tensor

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


def rename(published: str) -> str:
    """Name in an ETRISHead of a parameter of a published decoder."""
    for pattern, replacement in (*RENAMES, CONV_NORM):
        published = re.sub(pattern, replacement, published)
    return published


def convert(published: dict[str, Tensor]) -> dict[str, Tensor]:
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
