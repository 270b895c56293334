"""Sizes of a published ETRIS model, read from the shapes of its weights, and the config that builds it here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .etris_keys import FIRST_STAGE, NUM_STAGES, PREFIX

# Heads of the Bridger in the released configs, whose widths are 64 throughout.
BRIDGER_HEADS = dict(resnet=4, vit=8)
HEAD_HEADS = 8
CLIP_HEAD_WIDTH = 64  # Of every CLIP that OpenAI published.
TINY_HEAD_WIDTH = 16  # Of text towers narrower than two of CLIP's heads, which only tests have.
RESNET_INPUT = 416  # Input size of the published models; a ResNet's shapes do not tell it.


@dataclass(frozen=True)
class PublishedSizes:
    """Sizes of a published model, as its weights' shapes tell them.

    Args:
        family: ``'resnet'`` or ``'vit'``.
        arch: Sizes of its CLIP, see :func:`mmetris.models.clip.resolve_arch`.
        stages: Encoder stages that have a Bridger.
        bridger_dims: Width d of the Bridger.
        bridger_ffn_dims: Hidden width of its Interactors; None where they have no such network (ViT).
        scales: The Bridger's grid over the encoder's at each stage.
        channels: Width D of the decoder.
        head_layers: Layers of the global alignment.
        head_ffn_dims: Hidden width of these.
        kernel_size: Side of the sentence's kernel.
        input_size: Height and width of the training images.
    """

    family: str
    arch: dict
    stages: tuple[int, ...]
    bridger_dims: int
    bridger_ffn_dims: int | None
    scales: tuple[float, ...]
    channels: int
    head_layers: int
    head_ffn_dims: int
    kernel_size: int
    input_size: int

    @property
    def out_stages(self) -> tuple[int, ...]:
        """Encoder stages that the decoder reads."""
        first = FIRST_STAGE[self.family]
        return tuple(range(first, first + NUM_STAGES))


class _Shapes:
    """Shapes of a published state dict (keys without prefix), with complaints that name the key."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def of(self, key: str, ndim: int) -> tuple[int, ...]:
        if key not in self.state:
            raise ValueError(f'the checkpoint is not one of the released ETRIS code; missing: {PREFIX}{key}')
        shape = tuple(self.state[key].shape)
        if len(shape) != ndim or 0 in shape:
            raise ValueError(f'{PREFIX}{key} has shape {shape}; {ndim} axes, none of them empty, are expected')
        return shape

    def count(self, pattern: str) -> int:
        """Number of different values of the pattern's group among the keys."""
        found = {match[1] for key in self.state if (match := re.match(pattern, key))}
        if not found:
            raise ValueError(
                'the checkpoint is not one of the released ETRIS code; missing: all keys that begin like '
                + PREFIX
                + pattern.replace('\\', '')
            )
        return len(found)

    def side(self, key: str) -> int:
        """Side of the square grid whose positions, and one for the class, are the rows of an embedding."""
        positions = self.of(key, 2)[0] - 1
        side = math.isqrt(max(positions, 0))
        if side < 1 or side * side != positions:
            raise ValueError(f'{PREFIX}{key} has {positions} positions besides the class, which form no square')
        return side

    def kernel(self, key: str) -> int:
        return self.of(key, 4)[-1]


def _divide(width: int, heads: int, what: str, remedy: str) -> int:
    if heads < 1 or width % heads:
        raise ValueError(f'{what} has width {width}, which does not divide into {heads} heads; {remedy}')
    return width // heads


def infer_sizes(
    state: Mapping[str, Tensor], text_heads: int | None = None, image_heads: int | None = None
) -> PublishedSizes:
    """Find a published model's sizes from its weights' shapes.

    Args:
        state: Published state dict, keys without :data:`PREFIX`.
        text_heads: Attention heads of CLIP's text tower, which no shape tells. Defaults to None: 64 channels each, as
            in every CLIP and as the released code assumes; towers narrower than 128 channels, which no CLIP has, get
            heads of 16.
        image_heads: Likewise of the image tower (of a ResNet, its attention pool). Defaults to None: 64 channels each.

    Raises:
        ValueError: If a key is missing, or the shapes contradict each other; the message names the key.
    """
    shapes = _Shapes(state)
    if 'backbone.visual.proj' in state:
        family = 'vit'
    elif 'backbone.visual.attnpool.q_proj.weight' in state:
        family = 'resnet'
    else:
        raise ValueError(
            f'no image encoder found: neither {PREFIX}backbone.visual.proj (ViT) nor '
            f'{PREFIX}backbone.visual.attnpool.q_proj.weight (ResNet) is in the checkpoint'
        )
    arch: dict[str, Any] = dict(
        embed_dim=shapes.of('backbone.text_projection', 2)[1],
        quick_gelu=True,
        vision_cfg=_vit_cfg(shapes, image_heads) if family == 'vit' else _resnet_cfg(shapes, image_heads),
        text_cfg=_text_cfg(shapes, text_heads),
    )
    first = FIRST_STAGE[family]
    zoomed = [index for index in range(NUM_STAGES) if f'bridger.linear1.{index}.weight' in state]
    if not zoomed or zoomed != list(range(zoomed[0], NUM_STAGES)):
        raise ValueError(
            f'{PREFIX}bridger.linear1.* is there for stages {zoomed}; the released code has the last one, '
            'two or three of 0, 1, 2'
        )
    weight = 'bridger.zoom_in.{}.weight' if family == 'resnet' else 'bridger.zoom_in.{}.0.weight'
    scales: list[float] = []
    for index in range(NUM_STAGES):
        kernel = shapes.kernel(weight.format(index)) if index in zoomed else (2, 1, 2)[index]
        # The last stage is enlarged, the others are reduced.
        scales.append(kernel if index == NUM_STAGES - 1 or kernel == 1 else 1 / kernel)
    channels = shapes.of('neck.txt_proj.weight', 2)[0]
    kernel_area = (shapes.of('proj.txt.weight', 2)[0] - 1) / (channels / 2)
    kernel_size = math.isqrt(int(kernel_area))
    if kernel_size**2 != kernel_area:
        raise ValueError(f'{PREFIX}proj.txt.weight makes {kernel_area} weights for each channel, no square kernel')
    return PublishedSizes(
        family=family,
        arch=arch,
        stages=tuple(first + index for index in zoomed),
        bridger_dims=shapes.of('bridger.linear1.2.weight', 2)[0],
        bridger_ffn_dims=(shapes.of('bridger.fusion_v.2.linear1.weight', 2)[0] if family == 'resnet' else None),
        scales=tuple(scales),
        channels=channels,
        head_layers=shapes.count(r'decoder\.layers\.(\d+)\.'),
        head_ffn_dims=shapes.of('decoder.layers.0.ffn.0.weight', 2)[0],
        kernel_size=kernel_size,
        input_size=arch['vision_cfg']['image_size'] if family == 'vit' else RESNET_INPUT,
    )


def _vit_cfg(shapes: _Shapes, heads: int | None) -> dict:
    width, _, _, patch = shapes.of('backbone.visual.conv1.weight', 4)
    heads = max(1, width // CLIP_HEAD_WIDTH) if heads is None else heads
    hidden = shapes.of('backbone.visual.transformer.resblocks.0.mlp.c_fc.weight', 2)[0]
    return dict(
        image_size=shapes.side('backbone.visual.positional_embedding') * patch,
        patch_size=patch,
        width=width,
        layers=shapes.count(r'backbone\.visual\.transformer\.resblocks\.(\d+)\.'),
        head_width=_divide(width, heads, "CLIP's ViT", 'give --image-heads'),
        mlp_ratio=hidden / width,
    )


def _resnet_cfg(shapes: _Shapes, heads: int | None) -> dict:
    width = shapes.of('backbone.visual.layer1.0.conv1.weight', 4)[0]
    pooled = shapes.of('backbone.visual.attnpool.q_proj.weight', 2)[1]
    heads = max(1, pooled // CLIP_HEAD_WIDTH) if heads is None else heads
    return dict(
        image_size=shapes.side('backbone.visual.attnpool.positional_embedding') * 32,
        width=width,
        layers=[shapes.count(rf'backbone\.visual\.layer{stage}\.(\d+)\.') for stage in (1, 2, 3, 4)],
        head_width=_divide(pooled, heads, "CLIP's attention pool", 'give --image-heads'),
    )


def _text_cfg(shapes: _Shapes, heads: int | None) -> dict:
    vocab_size, width = shapes.of('backbone.token_embedding.weight', 2)
    if heads is None:
        heads = max(1, width // (CLIP_HEAD_WIDTH if width >= 2 * CLIP_HEAD_WIDTH else TINY_HEAD_WIDTH))
    _divide(width, heads, "CLIP's text encoder", 'give --text-heads')
    hidden = shapes.of('backbone.transformer.resblocks.0.mlp.c_fc.weight', 2)[0]
    return dict(
        context_length=shapes.of('backbone.positional_embedding', 2)[0],
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        layers=shapes.count(r'backbone\.transformer\.resblocks\.(\d+)\.'),
        mlp_ratio=hidden / width,
    )


def released_model_cfg(
    sizes: PublishedSizes, bridger_heads: int | None = None, head_heads: int = HEAD_HEADS, context_length: int = 17
) -> dict:
    """Config of the released variant with given sizes.

    Args:
        sizes: Sizes of the model.
        bridger_heads: Heads of the Bridger's attentions. Defaults to None: 4 for ResNet, 8 for ViT, as in the released
            configs.
        head_heads: Heads of the decoder's attentions. Defaults to 8, as there.
        context_length: Tokens of a sentence, padding included. Defaults to 17, RefCOCO's.

    Raises:
        ValueError: If a width does not divide into its heads; the message names the option that sets them.
    """
    resnet = sizes.family == 'resnet'
    bridger_heads = BRIDGER_HEADS[sizes.family] if bridger_heads is None else bridger_heads
    _divide(sizes.bridger_dims, bridger_heads, 'the Bridger', 'give --bridger-heads')
    _divide(sizes.channels, head_heads, 'the decoder', 'give --head-heads')
    if not 3 <= context_length <= (longest := sizes.arch['text_cfg']['context_length']):
        raise ValueError(f"context_length={context_length} must lie between 3 and the text encoder's {longest}")
    text_positions = 'positional_embedding'
    if resnet:
        divisor, image_positions = 32, 'attnpool.positional_embedding'
        backbone = dict(type='CLIPResNet', pool_mean_key=False, pool_shortcut=True, norm_eval=False)
        interactor: dict[str, Any] = dict(ffn_dims=sizes.bridger_ffn_dims, dropout=0.1)
    else:
        divisor, image_positions = sizes.arch['vision_cfg']['patch_size'], 'positional_embedding'
        backbone = dict(type='CLIPViT', num_stages=NUM_STAGES)
        interactor = dict(ffn_dims=None, self_attention=False, combine='multiply', zoom_norm=True, dropout=0.0)
    return dict(
        type='ReferringSegmentor',
        context_length=context_length,
        data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=divisor),
        backbone=dict(backbone, arch=sizes.arch, out_stages=sizes.out_stages, tunable_parameters=[image_positions]),
        text_encoder=dict(
            type='CLIPTextEncoder',
            arch=sizes.arch,
            num_stages=NUM_STAGES,
            out_stages=tuple(range(1, NUM_STAGES + 1)),
            tunable_parameters=[text_positions],
        ),
        neck=dict(
            type='Bridger',
            stages=sizes.stages,
            scales=sizes.scales,
            embed_dims=sizes.bridger_dims,
            num_heads=bridger_heads,
            memory='sum',
            cross_inputs='input',
            mask_padding=False,
            **interactor,
        ),
        decode_head=dict(
            type='ETRISHead',
            channels=sizes.channels,
            num_heads=head_heads,
            text_projection=True,
            global_alignment=dict(num_layers=sizes.head_layers, ffn_dims=sizes.head_ffn_dims),
            projector=dict(kernel_size=sizes.kernel_size),
            loss_decode=dict(type='TextToPixelContrastiveLoss'),
            threshold=0.35,
        ),
        test_cfg=dict(mode='whole', corner_aligned=True),
    )
