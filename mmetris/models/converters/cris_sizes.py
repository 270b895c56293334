"""Sizes of a CRIS model, read from the shapes of its weights, and the config that builds it here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .published_sizes import (
    HEAD_HEADS,
    RESNET_INPUT,
    PublishedSizes,
    Shapes,
    check_context_length,
    clip_arch,
    decoder_cfg,
    decoder_sizes,
    family_of,
)
from .shared_keys import CRIS_CODE

NUM_MAPS = 3  # That its FPN reads. The text encoder is cut as often, since both sides have as many stages.


def infer_cris_sizes(
    state: Mapping[str, Tensor], text_heads: int | None = None, image_heads: int | None = None
) -> PublishedSizes:
    """Find a model's sizes from its weights' shapes.

    Args:
        state: Published state dict, keys without :data:`~mmetris.models.converters.shared_keys.PREFIX`.
        text_heads: Attention heads of CLIP's text tower, see :func:`clip_arch`. Defaults to None: by its width.
        image_heads: Likewise of the attention pool. Defaults to None: by its width.

    Raises:
        ValueError: If a key is missing, the image encoder is no ResNet, or the shapes contradict each other; the
            message names the key.
    """
    shapes = Shapes(state, CRIS_CODE)
    if family_of(shapes) != 'resnet':
        raise ValueError(
            f'the checkpoint is not one of {CRIS_CODE}: its image encoder is a ViT, but CRIS has ResNets only'
        )
    return PublishedSizes(
        family='resnet',
        arch=clip_arch(shapes, text_heads, image_heads),
        input_size=RESNET_INPUT,
        **decoder_sizes(shapes, shapes.of('neck.f2_v_proj.0.weight', 4)[0]),
    )


def cris_model_cfg(sizes: PublishedSizes, head_heads: int = HEAD_HEADS, context_length: int = 17) -> dict:
    """Config of CRIS with given sizes.

    Args:
        sizes: Sizes of the model.
        head_heads: Heads of the decoder's attentions. Defaults to 8, as in the published configs.
        context_length: Tokens of a sentence, padding included. Defaults to 17, RefCOCO's.

    Raises:
        ValueError: If a width does not divide into its heads; the message names the option that sets them.
    """
    decode_head = decoder_cfg(sizes, head_heads)
    check_context_length(sizes, context_length)
    return dict(
        type='ReferringSegmentor',
        context_length=context_length,
        data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32),
        dual_encoder=dict(arch=sizes.arch),
        backbone=dict(type='CLIPResNet', frozen=False, pool_mean_key=False, pool_shortcut=True),
        text_encoder=dict(type='CLIPTextEncoder', frozen=False, num_stages=NUM_MAPS),
        neck=dict(type='Bridger', stages=()),
        decode_head=dict(decode_head, hierarchical_alignment=dict(type='CRISFPN'), text_projection=False),
        test_cfg=dict(mode='whole', corner_aligned=True),
    )
