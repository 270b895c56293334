"""What the shapes of a published model's weights tell: sizes of its CLIP and of its decoder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .shared_keys import PREFIX

HEAD_HEADS = 8
"""Heads of the decoder in all published configs."""
RESNET_INPUT = 416
"""Height and width of the training images of published models; a ResNet's shapes do not tell it."""
CLIP_HEAD_WIDTH = 64  # Of every CLIP that OpenAI published.
TINY_HEAD_WIDTH = 16  # Of text towers narrower than two of CLIP's heads, which only tests have.


@dataclass(frozen=True)
class PublishedSizes:
    """Sizes of a published model, as its weights' shapes tell them.

    Args:
        family: ``'resnet'`` or ``'vit'``.
        arch: Sizes of its CLIP, see :func:`mmetris.models.clip.resolve_arch`.
        channels: Width D of the decoder.
        head_layers: Layers of the global alignment.
        head_ffn_dims: Hidden width of these.
        kernel_size: Side of the sentence's kernel.
        input_size: Height and width of the training images.
    """

    family: str
    arch: dict
    channels: int
    head_layers: int
    head_ffn_dims: int
    kernel_size: int
    input_size: int


class Shapes:
    """Shapes of a published state dict, with complaints that name the key.

    Args:
        state: The state dict, keys without :data:`~mmetris.models.converters.shared_keys.PREFIX`.
        code: Name of the published code, for the complaints.
    """

    def __init__(self, state: Mapping[str, Tensor], code: str) -> None:
        self.state = state
        self.code = code

    def of(self, key: str, ndim: int) -> tuple[int, ...]:
        """Shape of a weight.

        Args:
            key: Its key.
            ndim: Axes that it must have.

        Raises:
            ValueError: If it is not there, or has other axes or empty ones.
        """
        if key not in self.state:
            raise ValueError(f'the checkpoint is not one of {self.code}; missing: {PREFIX}{key}')
        shape = tuple(self.state[key].shape)
        if len(shape) != ndim or 0 in shape:
            raise ValueError(f'{PREFIX}{key} has shape {shape}; {ndim} axes, none of them empty, are expected')
        return shape

    def count(self, pattern: str) -> int:
        """Number of different values of a group among the keys.

        Args:
            pattern: Regular expression of the keys' beginnings, with the group.

        Raises:
            ValueError: If no key begins so.
        """
        found = {match[1] for key in self.state if (match := re.match(pattern, key))}
        if not found:
            beginning = pattern.replace('\\', '')
            raise ValueError(
                f'the checkpoint is not one of {self.code}; missing: all keys that begin like {PREFIX}{beginning}'
            )
        return len(found)

    def side(self, key: str, ndim: int = 2) -> int:
        """Side of the square grid whose positions, and one for the class, are the rows of an embedding.

        Args:
            key: Key of the embedding.
            ndim: Its axes; rows and channels are the last two. Defaults to 2.

        Raises:
            ValueError: If they form no square.
        """
        positions = self.of(key, ndim)[-2] - 1
        side = math.isqrt(max(positions, 0))
        if side < 1 or side * side != positions:
            raise ValueError(f'{PREFIX}{key} has {positions} positions besides the class, which form no square')
        return side

    def kernel(self, key: str) -> int:
        """Side of a convolution's kernel.

        Args:
            key: Key of its weight.
        """
        return self.of(key, 4)[-1]


def divide(width: int, heads: int, what: str, remedy: str) -> int:
    """Width of one of the heads.

    Args:
        width: Width of all.
        heads: Number of heads.
        what: What has this width, for the complaint.
        remedy: What to do, likewise.

    Raises:
        ValueError: If it does not divide.
    """
    if heads < 1 or width % heads:
        raise ValueError(f'{what} has width {width}, which does not divide into {heads} heads; {remedy}')
    return width // heads


def family_of(shapes: Shapes) -> str:
    """Kind of the image encoder, ``'resnet'`` or ``'vit'``.

    Args:
        shapes: Shapes of the published weights.

    Raises:
        ValueError: If there is none.
    """
    if 'backbone.visual.proj' in shapes.state:
        return 'vit'
    if 'backbone.visual.attnpool.q_proj.weight' in shapes.state:
        return 'resnet'
    raise ValueError(
        f'no image encoder found: neither {PREFIX}backbone.visual.proj (ViT) nor '
        f'{PREFIX}backbone.visual.attnpool.q_proj.weight (ResNet) is in the checkpoint'
    )


def clip_arch(shapes: Shapes, text_heads: int | None, image_heads: int | None) -> dict[str, Any]:
    """Sizes of the CLIP under ``backbone``.

    Args:
        shapes: Shapes of the published weights.
        text_heads: Attention heads of CLIP's text tower, which no shape tells. None: 64 channels each, as in every
            CLIP and as the published codes assume; towers narrower than 128 channels, which no CLIP has, get heads of
            16.
        image_heads: Likewise of the image tower (of a ResNet, its attention pool). None: 64 channels each.

    Raises:
        ValueError: If a key is missing, or a width does not divide into heads.
    """
    vision_cfg = _vit_cfg if family_of(shapes) == 'vit' else _resnet_cfg
    return dict(
        embed_dim=shapes.of('backbone.text_projection', 2)[1],
        quick_gelu=True,
        vision_cfg=vision_cfg(shapes, image_heads),
        text_cfg=text_cfg(shapes, text_heads),
    )


def _vit_cfg(shapes: Shapes, heads: int | None) -> dict:
    width, _, _, patch = shapes.of('backbone.visual.conv1.weight', 4)
    heads = max(1, width // CLIP_HEAD_WIDTH) if heads is None else heads
    hidden = shapes.of('backbone.visual.transformer.resblocks.0.mlp.c_fc.weight', 2)[0]
    return dict(
        image_size=shapes.side('backbone.visual.positional_embedding') * patch,
        patch_size=patch,
        width=width,
        layers=shapes.count(r'backbone\.visual\.transformer\.resblocks\.(\d+)\.'),
        head_width=divide(width, heads, "CLIP's ViT", 'give --image-heads'),
        mlp_ratio=hidden / width,
    )


def _resnet_cfg(shapes: Shapes, heads: int | None) -> dict:
    width = shapes.of('backbone.visual.layer1.0.conv1.weight', 4)[0]
    pooled = shapes.of('backbone.visual.attnpool.q_proj.weight', 2)[1]
    heads = max(1, pooled // CLIP_HEAD_WIDTH) if heads is None else heads
    return dict(
        image_size=shapes.side('backbone.visual.attnpool.positional_embedding') * 32,
        width=width,
        layers=[shapes.count(rf'backbone\.visual\.layer{stage}\.(\d+)\.') for stage in (1, 2, 3, 4)],
        head_width=divide(pooled, heads, "CLIP's attention pool", 'give --image-heads'),
    )


def text_cfg(shapes: Shapes, heads: int | None, clip: str = 'backbone') -> dict:
    """Sizes of CLIP's text tower.

    Args:
        shapes: Shapes of the published weights.
        heads: Its attention heads, see :func:`clip_arch`.
        clip: What the CLIP is called in the published code. Defaults to ``'backbone'``.

    Raises:
        ValueError: If a key is missing, or its width does not divide into heads.
    """
    vocab_size, width = shapes.of(f'{clip}.token_embedding.weight', 2)
    if heads is None:
        heads = max(1, width // (CLIP_HEAD_WIDTH if width >= 2 * CLIP_HEAD_WIDTH else TINY_HEAD_WIDTH))
    divide(width, heads, "CLIP's text encoder", 'give --text-heads')
    hidden = shapes.of(f'{clip}.transformer.resblocks.0.mlp.c_fc.weight', 2)[0]
    return dict(
        context_length=shapes.of(f'{clip}.positional_embedding', 2)[0],
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        layers=shapes.count(rf'{clip}\.transformer\.resblocks\.(\d+)\.'),
        mlp_ratio=hidden / width,
    )


def decoder_sizes(shapes: Shapes, channels: int) -> dict[str, int]:
    """Those fields of :class:`PublishedSizes` that are the decoder's.

    Args:
        shapes: Shapes of the published weights.
        channels: Width D of the decoder.

    Raises:
        ValueError: If a key is missing, or the sentence's kernel is no square.
    """
    kernel_area = (shapes.of('proj.txt.weight', 2)[0] - 1) / (channels / 2)
    kernel_size = math.isqrt(int(kernel_area))
    if kernel_size**2 != kernel_area:
        raise ValueError(f'{PREFIX}proj.txt.weight makes {kernel_area} weights for each channel, no square kernel')
    return dict(
        channels=channels,
        head_layers=shapes.count(r'decoder\.layers\.(\d+)\.'),
        head_ffn_dims=shapes.of('decoder.layers.0.ffn.0.weight', 2)[0],
        kernel_size=kernel_size,
    )


def decoder_cfg(sizes: PublishedSizes, num_heads: int) -> dict[str, Any]:
    """Config of the :class:`~mmetris.models.ETRISHead` of these sizes, without what the codes do each in its own way.

    Args:
        sizes: Sizes of the model.
        num_heads: Heads of its attentions.

    Raises:
        ValueError: If its width does not divide into the heads; the message names the option that sets them.
    """
    divide(sizes.channels, num_heads, 'the decoder', 'give --head-heads')
    return dict(
        type='ETRISHead',
        channels=sizes.channels,
        num_heads=num_heads,
        global_alignment=dict(num_layers=sizes.head_layers, ffn_dims=sizes.head_ffn_dims),
        projector=dict(kernel_size=sizes.kernel_size),
        loss_decode=dict(type='TextToPixelContrastiveLoss'),
        threshold=0.35,
    )


def check_context_length(sizes: PublishedSizes, context_length: int) -> None:
    """Raise ValueError unless the text encoder has positions for sentences of this many tokens."""
    longest = sizes.arch['text_cfg']['context_length']
    if not 3 <= context_length <= longest:
        raise ValueError(f"context_length={context_length} must lie between 3 and the text encoder's {longest}")
