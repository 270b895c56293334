"""The literal computation: yardstick of the fast one, and the reference that its results are compared with.

``with plain_path(model):`` computes the same function of the same weights as the released code goes about it:

- attention writes its weights out, also where there is a single key;
- each sentence has its image encoded anew;
- gradients run through every block of both encoders, also those before the first Bridger (``graph_from_stem``);
- BatchNorm has a pass of its own after each convolution;
- the decoder enlarges its map before each convolution, which then has four times the pixels;
- resized positions, sine encodings, coordinates and the features of class names are made again each time.

It is kinder than the released code, which also turns cuDNN off and makes the sine encodings on the CPU in each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from open_clip.modified_resnet import Bottleneck
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmetris.engine.compiling import eager
from mmetris.models.backbones.clip_resnet import CLIPResNet
from mmetris.models.decode_heads.projector import Projector
from mmetris.models.encoders import StagedImageEncoder, StagedTextEncoder
from mmetris.models.layers import coord_conv, position_encoding
from mmetris.models.layers.attention import Attention
from mmetris.models.layers.enlarged_conv import EnlargedConvNormReLU
from mmetris.models.layers.folded_norm import FoldedBottleneck
from mmetris.models.layers.position_embedding import ResizedPositions
from mmetris.models.layers.quick_gelu import FusedQuickGELU
from mmetris.models.necks import ImagePrefix, StagedNeck
from mmetris.models.text_encoders.class_text import ClassText
from mmetris.structures import BridgedFeatures


@contextmanager
def plain_path(model: nn.Module, graph_from_stem: bool = True) -> Iterator[nn.Module]:
    """Let a model compute the literal way inside the ``with`` block.

    Args:
        model: The model; its weights are not touched. What ``encode_images`` made outside of the block cannot be used
            inside.
        graph_from_stem: Whether gradients run back to the stem and to the words' embedding, as they do in the released
            ViT and text encoder, whose positions are left tunable. Defaults to True. False begins at the first Bridger,
            as the released ResNet does.

    Yields:
        The model.
    """
    with ExitStack() as stack:
        stack.enter_context(eager(model))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_without_mha_fastpath())
        for module in model.modules():
            for name, value in _literal(module, graph_from_stem).items():
                stack.enter_context(_replaced(module, name, value))
        for library in (position_encoding, coord_conv):
            for name in [name for name, value in vars(library).items() if hasattr(value, 'cache_clear')]:
                stack.enter_context(_replaced(library, name, getattr(library, name).__wrapped__))
        yield model


def _literal(module: nn.Module, graph_from_stem: bool) -> dict[str, Any]:
    """Attributes of a module that differ on the plain path."""
    literal: dict[str, Any] = {}
    if isinstance(module, nn.MultiheadAttention):
        literal['forward'] = partial(_attend_with_weights, module)
    if isinstance(module, StagedNeck):
        literal['forward'] = partial(_encode_each_anew, module)
        literal['image_prefix'] = _nothing_shared
    if getattr(module, 'prefix_cache', None) is not None:
        literal['prefix_cache'] = None
    if isinstance(positions := getattr(module, '_positions', None), ResizedPositions):
        literal['_positions'] = _NoCache(positions)
    if isinstance(module, ClassText):
        literal['stage_features'] = module._encode
    if isinstance(module, FusedQuickGELU):
        literal['forward'] = partial(QuickGELU.forward, module)
    if isinstance(module, FoldedBottleneck):
        literal['forward'] = partial(Bottleneck.forward, module)
    if isinstance(module, (EnlargedConvNormReLU, Projector)):
        literal['forward'] = module.literal_forward
    if isinstance(module, CLIPResNet):
        literal['stem'] = module.tower.stem
    if graph_from_stem and isinstance(module, StagedImageEncoder):
        literal['stem'] = _with_graph(literal.get('stem', module.stem))
    if graph_from_stem and isinstance(module, StagedTextEncoder):
        literal['embed'] = _with_graph(module.embed)
    return literal


def _attend_with_weights(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """A computation that returns the weights and so has to make them; nobody asked for them."""
    del need_weights
    literally: Callable[..., tuple[Tensor, Tensor | None]] = (
        Attention.literal_forward if isinstance(attention, Attention) else nn.MultiheadAttention.forward
    )
    return literally(
        attention, query, key, value, key_padding_mask=key_padding_mask, need_weights=True, attn_mask=attn_mask
    )


def _encode_each_anew(
    neck: StagedNeck,
    image_encoder: StagedImageEncoder,
    text_encoder: StagedTextEncoder,
    images: Tensor,
    tokens: Tensor,
    image_index: Tensor | None = None,
) -> BridgedFeatures:
    """:meth:`StagedNeck.forward` with one image for each sentence, from the pixels on."""
    if isinstance(images, ImagePrefix):
        raise TypeError('on the plain path nothing is encoded beforehand: call encode_images inside of the block')
    if image_index is not None:
        images = images[image_index]
    prefix = type(neck).image_prefix(neck, image_encoder, images)
    return type(neck).forward(neck, image_encoder, text_encoder, prefix, tokens)


def _nothing_shared(image_encoder: StagedImageEncoder, images: Tensor) -> Tensor:
    """In the place of :meth:`StagedNeck.image_prefix`: the images, which are encoded with each sentence."""
    return images


class _NoCache:
    """In the place of :class:`ResizedPositions`: keeps nothing."""

    def __init__(self, positions: ResizedPositions) -> None:
        self.get = positions.resize


def _with_graph(step: Callable) -> Callable:
    """Let the autograd graph begin at what a step returns: a tensor, or a named tuple with tensors."""

    def begin(value: Any) -> Any:
        if isinstance(value, tuple) and hasattr(value, '_fields'):
            return type(value)(*map(begin, value))
        starts_here = isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad
        return value.requires_grad_() if starts_here and torch.is_grad_enabled() else value

    return lambda *args: begin(step(*args))


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module or an object for a while."""
    was_own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def _without_mha_fastpath() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
