"""Sizes of a published ETRIS model, read from the shapes of its weights, and the config that builds it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .etris_keys import FIRST_STAGE, NUM_STAGES
from .published_sizes import (
    HEAD_HEADS,
    RESNET_INPUT,
    PublishedSizes,
    Shapes,
    check_context_length,
    clip_arch,
    decoder_cfg,
    decoder_sizes,
    divide,
    family_of,
)
from .shared_keys import ETRIS_CODE, PREFIX

# Heads of the Bridger in the released configs, whose widths are 64 throughout.
BRIDGER_HEADS = dict(resnet=4, vit=8)


@dataclass(frozen=True)
class ETRISSizes(PublishedSizes):
    """Sizes of a published ETRIS model: those of :class:`PublishedSizes` and its Bridger's.

    Args:
        stages: Encoder stages that have a Bridger.
        bridger_dims: Width d of the Bridger.
        bridger_ffn_dims: Hidden width of its Interactors; None where they have no such network (ViT).
        scales: The Bridger's grid over the encoder's at each stage.
        family, arch, channels, head_layers, head_ffn_dims, kernel_size, input_size: Those of :class:`PublishedSizes`.
    """

    stages: tuple[int, ...]
    bridger_dims: int
    bridger_ffn_dims: int | None
    scales: tuple[float, ...]

    @property
    def out_stages(self) -> tuple[int, ...]:
        """Encoder stages that the decoder reads."""
        first = FIRST_STAGE[self.family]
        return tuple(range(first, first + NUM_STAGES))


def infer_etris_sizes(
    state: Mapping[str, Tensor], text_heads: int | None = None, image_heads: int | None = None
) -> ETRISSizes:
    """Find a published model's sizes from its weights' shapes.

    Args:
        state: Published state dict, keys without :data:`~mmetris.models.converters.shared_keys.PREFIX`.
        text_heads: Attention heads of CLIP's text tower, see :func:`clip_arch`. Defaults to None: by its width.
        image_heads: Likewise of the image tower. Defaults to None: by its width.

    Raises:
        ValueError: If a key is missing, or the shapes contradict each other; the message names the key.
    """
    shapes = Shapes(state, ETRIS_CODE)
    family = family_of(shapes)
    arch = clip_arch(shapes, text_heads, image_heads)
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
    return ETRISSizes(
        family=family,
        arch=arch,
        stages=tuple(first + index for index in zoomed),
        bridger_dims=shapes.of('bridger.linear1.2.weight', 2)[0],
        bridger_ffn_dims=(shapes.of('bridger.fusion_v.2.linear1.weight', 2)[0] if family == 'resnet' else None),
        scales=tuple(scales),
        input_size=arch['vision_cfg']['image_size'] if family == 'vit' else RESNET_INPUT,
        **decoder_sizes(shapes, shapes.of('neck.txt_proj.weight', 2)[0]),
    )


def etris_model_cfg(
    sizes: ETRISSizes, bridger_heads: int | None = None, head_heads: int = HEAD_HEADS, context_length: int = 17
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
    divide(sizes.bridger_dims, bridger_heads, 'the Bridger', 'give --bridger-heads')
    decode_head = decoder_cfg(sizes, head_heads)
    check_context_length(sizes, context_length)
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
        dual_encoder=dict(arch=sizes.arch),
        backbone=dict(backbone, out_stages=sizes.out_stages, tunable_parameters=[image_positions]),
        text_encoder=dict(
            type='CLIPTextEncoder',
            num_stages=NUM_STAGES,
            out_stages=tuple(range(1, NUM_STAGES + 1)),
            tunable_parameters=['positional_embedding'],
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
        decode_head=dict(decode_head, text_projection=True),
        test_cfg=dict(mode='whole', corner_aligned=True),
    )
