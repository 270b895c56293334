"""Sizes of a DETRIS model, read from the shapes of its weights, and the config that builds it here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .detris_keys import ADAPTER, ALIGNER
from .published_sizes import (
    CLIP_HEAD_WIDTH,
    HEAD_HEADS,
    PublishedSizes,
    Shapes,
    check_context_length,
    decoder_cfg,
    decoder_sizes,
    divide,
    text_cfg,
)
from .shared_keys import DETRIS_CODE

NUM_MAPS = 3  # That the decoder reads. The text encoder is cut as often, since both sides have as many stages.
ALIGN_HEADS = 8
"""Heads of the image adapters' attention to the words in all published configs."""
IMAGE_SIZE = 448
"""Height and width of the training images of published models; no shape tells it."""
_TEXT_BLOCK, _IMAGE_BLOCK = 'txt_backbone.transformer.resblocks.{}.adapter', 'dinov2.blocks.{}.adapter'
# Of all CLIPs that OpenAI published; DETRIS feeds its DINOv2 with them.
CLIP_NORMALISATION = dict(
    mean=[255 * value for value in (0.48145466, 0.4578275, 0.40821073)],
    std=[255 * value for value in (0.26862954, 0.26130258, 0.27577711)],
)


@dataclass(frozen=True)
class DETRISSizes(PublishedSizes):
    """Sizes of a DETRIS model: those of :class:`PublishedSizes`, its DINOv2's and its adapters'.

    Args:
        image_arch: Sizes of the DINOv2, see :class:`~mmetris.models.backbones.dinov2_tower.DINOv2Sizes`.
        image_layers: Blocks of the DINOv2 with an adapter, from 0.
        image_channels: Width of these adapters.
        align_dims: Width of their attention to the words.
        text_layers: Blocks of the text tower with an adapter, from 0.
        text_channels: Width of these.
        family, arch, channels, head_layers, head_ffn_dims, kernel_size, input_size: Those of :class:`PublishedSizes`;
            of ``arch`` only the text side is used.
    """

    image_arch: dict
    image_layers: tuple[int, ...]
    image_channels: int
    align_dims: int
    text_layers: tuple[int, ...]
    text_channels: int


def infer_detris_sizes(
    state: Mapping[str, Tensor], text_heads: int | None = None, image_heads: int | None = None
) -> DETRISSizes:
    """Find a model's sizes from its weights' shapes.

    Args:
        state: Published state dict, keys without :data:`~mmetris.models.converters.shared_keys.PREFIX`.
        text_heads: Attention heads of CLIP's text tower, see :func:`clip_arch`. Defaults to None: by its width.
        image_heads: Likewise of the DINOv2. Defaults to None: 64 channels each.

    Raises:
        ValueError: If a key is missing, or the shapes contradict each other; the message names the key.
    """
    shapes = Shapes(state, DETRIS_CODE)
    text_layers, image_layers = _adapted(state, _TEXT_BLOCK), _adapted(state, _IMAGE_BLOCK)
    image_arch = _image_arch(shapes, image_heads)
    image_channels = align_dims = text_channels = 0
    if image_layers:
        image_channels = shapes.of(f'{_IMAGE_BLOCK.format(image_layers[0])}.D_fc1.weight', 2)[0]
        align_dims = shapes.of(f'{_IMAGE_BLOCK.format(image_layers[0])}.cross.image_proj.weight', 2)[0]
    if text_layers:
        text_channels = shapes.of(f'{_TEXT_BLOCK.format(text_layers[0])}.D_fc1.weight', 2)[0]
    patch = image_arch['patch_size']
    return DETRISSizes(
        family='dinov2',
        arch=dict(
            embed_dim=shapes.of('txt_backbone.text_projection', 2)[1],
            quick_gelu=True,
            vision_cfg={},  # No image tower is built.
            text_cfg=text_cfg(shapes, text_heads, 'txt_backbone'),
        ),
        image_arch=image_arch,
        image_layers=image_layers,
        image_channels=image_channels,
        align_dims=align_dims,
        text_layers=text_layers,
        text_channels=text_channels,
        input_size=IMAGE_SIZE // patch * patch,
        **decoder_sizes(shapes, shapes.of('neck.txt_proj.weight', 2)[0]),
    )


def _adapted(state: Mapping[str, Tensor], block: str) -> tuple[int, ...]:
    """Numbers of the blocks that have an adapter."""
    pattern = re.compile(re.escape(block).replace(re.escape('{}'), r'(\d+)') + r'\.')
    return tuple(sorted({int(match[1]) for key in state if (match := pattern.match(key))}))


def _image_arch(shapes: Shapes, heads: int | None) -> dict:
    width, _, _, patch = shapes.of('dinov2.patch_embed.proj.weight', 4)
    heads = max(1, width // CLIP_HEAD_WIDTH) if heads is None else heads
    divide(width, heads, 'the DINOv2', 'give --image-heads')
    has_registers = 'dinov2.register_tokens' in shapes.state
    return dict(
        width=width,
        depth=shapes.count(r'dinov2\.blocks\.(\d+)\.'),
        num_heads=heads,
        num_registers=shapes.of('dinov2.register_tokens', 3)[1] if has_registers else 0,
        patch_size=patch,
        image_size=shapes.side('dinov2.pos_embed', 3) * patch,
        mlp_ratio=shapes.of('dinov2.blocks.0.mlp.fc1.weight', 2)[0] / width,
    )


def default_out_blocks(depth: int) -> tuple[int, int]:
    """Blocks, from 0, after which the published models' first two maps are taken: 4 and 8 of 12, 8 and 16 of 24."""
    return depth // 3, 2 * depth // 3


def stages_of(
    depth: int, out_blocks: Sequence[int], first_layer: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How the image encoder is cut: at the maps' blocks, and before the first block that reads words, so that what
    precedes it is computed once for each image.

    Args:
        depth: Number of blocks.
        out_blocks: Blocks after which the first two maps are taken, from 0.
        first_layer: The first block that reads words, None if none does.

    Returns:
        ``stage_ends`` and ``out_stages`` of :class:`~mmetris.models.DINOv2ViT`.

    Raises:
        ValueError: If the blocks are not two that increase and precede the last.
    """
    first, second = out_blocks
    if not 0 <= first < second < depth - 1:
        raise ValueError(
            f'out_blocks={tuple(out_blocks)} must increase and precede the last of {depth} blocks, {depth - 1}; give '
            '--out-blocks'
        )
    outs = [first + 1, second + 1, depth]
    ends = sorted({*outs, *([first_layer] if first_layer else [])})
    return tuple(ends), tuple(ends.index(end) + 1 for end in outs)


def detris_model_cfg(
    sizes: DETRISSizes,
    align_heads: int = ALIGN_HEADS,
    head_heads: int = HEAD_HEADS,
    out_blocks: Sequence[int] | None = None,
    context_length: int = 17,
    without_adapters: bool = False,
) -> dict:
    """Config of DETRIS with given sizes.

    Args:
        sizes: Sizes of the model.
        align_heads: Heads of the image adapters' attention to the words. Defaults to 8, as in the published configs.
        head_heads: Heads of the decoder's attentions. Defaults to 8, as there.
        out_blocks: Blocks of the DINOv2, from 0, after which the first two maps are taken. Defaults to None: those of
            the published configs, see :func:`default_out_blocks`.
        context_length: Tokens of a sentence, padding included. Defaults to 17, RefCOCO's.
        without_adapters: Whether an encoder may have no adapter at all. Defaults to False: such weights were stripped,
            or are another model's.

    Raises:
        ValueError: If an encoder has no adapter, a width does not divide into its heads, or the blocks do not suit; the
            message names the option that sets them.
    """
    for part, layers, key in (('text', sizes.text_layers, _TEXT_BLOCK), ('image', sizes.image_layers, _IMAGE_BLOCK)):
        if not (layers or without_adapters):
            raise ValueError(
                f'the {part} encoder has no adapters (keys {key.format("N")}.*), by which DETRIS tunes it: the weights '
                'were stripped, or are of another model; --without-adapters if that is meant'
            )
    decode_head = decoder_cfg(sizes, head_heads)
    check_context_length(sizes, context_length)
    depth = sizes.image_arch['depth']
    out_blocks = default_out_blocks(depth) if out_blocks is None else out_blocks
    stage_ends, out_stages = stages_of(depth, out_blocks, min(sizes.image_layers, default=None))
    image_tuning, text_tuning = {}, {}
    if sizes.image_layers:
        divide(sizes.align_dims, align_heads, 'the attention to the words', 'give --align-heads')
        image_tuning[ALIGNER] = dict(
            type='DenseAligner',
            channels=sizes.image_channels,
            layers=sizes.image_layers,
            word_channels=sizes.arch['text_cfg']['width'],
            align_dims=sizes.align_dims,
            num_heads=align_heads,
        )
    if sizes.text_layers:
        text_tuning[ADAPTER] = dict(type='DenseTextAdapter', channels=sizes.text_channels, layers=sizes.text_layers)
    return dict(
        type='ReferringSegmentor',
        context_length=context_length,
        data_preprocessor=dict(
            type='RefSegDataPreProcessor', size_divisor=sizes.image_arch['patch_size'], **CLIP_NORMALISATION
        ),
        dual_encoder=dict(arch=sizes.arch),
        backbone=dict(
            type='DINOv2ViT', arch=sizes.image_arch, stage_ends=stage_ends, out_stages=out_stages, tuning=image_tuning
        ),
        text_encoder=dict(type='CLIPTextEncoder', num_stages=NUM_MAPS, tuning=text_tuning),
        neck=dict(type='TextFirst'),
        decode_head=dict(decode_head, hierarchical_alignment=dict(residual=True), text_projection=True),
        test_cfg=dict(mode='whole', corner_aligned=True),
    )
