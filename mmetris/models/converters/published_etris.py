"""Checkpoints of the released ETRIS code: their keys and ours, both ways.

:data:`KEYS` is the whole map. What a checkpoint does not say by its keys and shapes (attention heads, length of the
sentences) is given by the caller; what mmetris has no use for (the temperature of CLIP's pre-training, the epoch, the
optimizer) travels in the converted checkpoint's ``meta``, so that the way back is exact to the bit.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.version import __version__

from ..clip.encoder import FINGERPRINT_KEY

PREFIX = 'module.'  # The released code saves the model inside DistributedDataParallel.

# Published key, ours. Where the published code counts otherwise than we do, a place is named:
#   {stage}  0, 1, 2 of its Bridger; ours are the encoder's out_stages: 2, 3, 4 (ResNet) or 1, 2, 3 (ViT)
#   {after}  0, 1: one less than the stage, for what stands from the second stage on
#   {level}  3, 4, 5 of its decoder; ours are 0, 1, 2
#   {layer}  the same number on both sides
#   {rest}   whatever follows, the same on both sides
# The first line that matches counts.
KEYS: tuple[tuple[str, str], ...] = (
    ('backbone.visual.attnpool.connect.{rest}', 'backbone.pool_shortcut.{rest}'),
    ('backbone.visual.{rest}', 'backbone.tower.{rest}'),
    ('backbone.{rest}', 'text_encoder.tower.{rest}'),

    # Bridger. The zoom layers of a ViT are a convolution (0) and a normalisation (1), those of a ResNet one layer.
    ('bridger.zoom_in.{stage}.weight', 'neck.bridges.{stage}.zoom_in.project.weight'),
    ('bridger.zoom_in.{stage}.0.weight', 'neck.bridges.{stage}.zoom_in.project.weight'),
    ('bridger.zoom_in.{stage}.1.{rest}', 'neck.bridges.{stage}.zoom_in.norm.0.{rest}'),
    ('bridger.zoom_out.{stage}.weight', 'neck.bridges.{stage}.zoom_out.project.weight'),
    ('bridger.zoom_out.{stage}.0.weight', 'neck.bridges.{stage}.zoom_out.project.weight'),
    ('bridger.zoom_out.{stage}.1.{rest}', 'neck.bridges.{stage}.zoom_out.norm.0.{rest}'),
    ('bridger.linear1.{stage}.{rest}', 'neck.bridges.{stage}.words_in.{rest}'),
    ('bridger.linear2.{stage}.{rest}', 'neck.bridges.{stage}.words_out.{rest}'),
    ('bridger.ln_v.{after}.{rest}', 'neck.bridges.{after}.image_norm.{rest}'),
    ('bridger.ln_t.{after}.{rest}', 'neck.bridges.{after}.words_norm.{rest}'),
    *((f'bridger.{theirs}.{{stage}}.{part}.{{rest}}', f'neck.bridges.{{stage}}.{ours}.{our_part}.{{rest}}')
      for theirs, ours in (('fusion_v', 'image_interactor'), ('fusion_t', 'words_interactor'))
      for part, our_part in (('self_attn', 'self_attn'), ('multihead_attn', 'cross_attn'), ('linear1', 'ffn.0'),
                             ('linear2', 'ffn.3'), ('norm1', 'self_attn_norm'), ('norm2', 'cross_attn_norm'),
                             ('norm3', 'ffn_norm'))),

    # Hierarchical alignment.
    ('neck.txt_proj.{rest}', 'decode_head.text_projection.{rest}'),
    ('neck.f{level}_proj.0.{rest}', 'decode_head.hierarchical_alignment.projections.{level}.conv.{rest}'),
    ('neck.f{level}_proj.1.{rest}', 'decode_head.hierarchical_alignment.projections.{level}.norm.{rest}'),
    ('neck.fusion{level}.multihead_attn.{rest}', 'decode_head.hierarchical_alignment.gates.{level}.attention.{rest}'),
    ('neck.aggr.0.{rest}', 'decode_head.hierarchical_alignment.fuse.conv.{rest}'),
    ('neck.aggr.1.{rest}', 'decode_head.hierarchical_alignment.fuse.norm.{rest}'),
    ('neck.coordconv.0.conv1.0.{rest}', 'decode_head.hierarchical_alignment.coord_conv.conv.conv.{rest}'),
    ('neck.coordconv.0.conv1.1.{rest}', 'decode_head.hierarchical_alignment.coord_conv.conv.norm.{rest}'),
    ('neck.coordconv.1.0.{rest}', 'decode_head.hierarchical_alignment.refine.conv.{rest}'),
    ('neck.coordconv.1.1.{rest}', 'decode_head.hierarchical_alignment.refine.norm.{rest}'),

    # Global alignment.
    *((f'decoder.layers.{{layer}}.{part}.{{rest}}', f'decode_head.global_alignment.layers.{{layer}}.{our_part}.{{rest}}')
      for part, our_part in (('self_attn', 'self_attention'), ('self_attn_norm', 'self_attention_out_norm'),
                             ('multihead_attn', 'cross_attention'), ('cross_attn_norm', 'cross_attention_out_norm'),
                             ('ffn', 'ffn'), ('norm1', 'self_attention_norm'), ('norm2', 'cross_attention_norm'),
                             ('norm3', 'ffn_norm'))),
    ('decoder.norm.{rest}', 'decode_head.global_alignment.norm.{rest}'),

    # Projector.
    ('proj.vis.1.0.{rest}', 'decode_head.projector.pixel_projection.1.conv.{rest}'),
    ('proj.vis.1.1.{rest}', 'decode_head.projector.pixel_projection.1.norm.{rest}'),
    ('proj.vis.3.0.{rest}', 'decode_head.projector.pixel_projection.3.conv.{rest}'),
    ('proj.vis.3.1.{rest}', 'decode_head.projector.pixel_projection.3.norm.{rest}'),
    ('proj.vis.4.{rest}', 'decode_head.projector.pixel_projection.4.{rest}'),
    ('proj.txt.{rest}', 'decode_head.projector.kernel_projection.{rest}'),
)

# Published keys that no module of ours has, and the value they get where a checkpoint did not come from a published one:
# the temperature of CLIP's pre-training, which OpenAI's weights all have at its upper bound.
UNUSED: dict[str, float] = {'backbone.logit_scale': math.log(100)}

# Layers that are deconvolutions in the published code. With a 1x1 kernel ours is the convolution that does the same,
# whose weight has its first two axes exchanged.
DECONVOLUTIONS = re.compile(r'bridger\.(zoom_in\.2|zoom_out\.[01])(\.0)?\.weight|neck\.f5_proj\.0\.weight')

NUM_STAGES = 3
FIRST_STAGE = dict(resnet=2, vit=1)
# Heads of the Bridger in the released configs, whose widths are 64 throughout.
BRIDGER_HEADS = dict(resnet=4, vit=8)
HEAD_HEADS = 8
CLIP_HEAD_WIDTH = 64  # Of every CLIP that OpenAI published.
TINY_HEAD_WIDTH = 16  # Of text towers narrower than two of CLIP's heads, which only tests have.
RESNET_INPUT = 416  # Input size of the published models; a ResNet's shapes do not tell it.


def _shift(first_theirs: int, first_ours: int) -> tuple:
    """Number conversions, to ours and back."""
    return (lambda number: str(int(number) - first_theirs + first_ours),
            lambda number: str(int(number) - first_ours + first_theirs))


@lru_cache
def _patterns(family: str) -> tuple[tuple[str, re.Pattern, str, re.Pattern], ...]:
    """:data:`KEYS` with each side's regular expression."""
    first = FIRST_STAGE[family]

    def compiled(template: str, stages: str, after: str, levels: str) -> re.Pattern:
        pattern = re.escape(template).replace(r'\{', '{').replace(r'\}', '}')
        places = dict(stage=stages, after=after, level=levels, layer=r'0|[1-9]\d{0,3}', rest='.+')
        return re.compile(re.sub(r'\{(\w+)\}', lambda place: f'(?P<{place[1]}>{places[place[1]]})', pattern))

    ours = [str(first + index) for index in range(NUM_STAGES)]
    return tuple(
        (theirs_key, compiled(theirs_key, '[012]', '[01]', '[345]'),
         ours_key, compiled(ours_key, '|'.join(ours), '|'.join(ours[1:]), '[012]'))
        for theirs_key, ours_key in KEYS)


@lru_cache
def _numbers(family: str) -> dict[str, tuple]:
    first = FIRST_STAGE[family]
    same = (str, str)
    return dict(stage=_shift(0, first), after=_shift(0, first + 1), level=_shift(3, 0), layer=same, rest=same)


def ours_name(published: str, family: str) -> str | None:
    """Name in our model of a published key.

    Args:
        published: Key without :data:`PREFIX`.
        family: ``'resnet'`` or ``'vit'``.

    Returns:
        Our key; None if there is no place for it.
    """
    for _, pattern, ours_key, _ in _patterns(family):
        if match := pattern.fullmatch(published):
            numbers = _numbers(family)
            return ours_key.format(**{place: numbers[place][0](value) for place, value in match.groupdict().items()})
    return None


def published_name(ours: str, family: str) -> str | None:
    """Published key (without :data:`PREFIX`) of one of our names; the inverse of :func:`ours_name`.

    Args:
        ours: Key in the state dict of our model.
        family: ``'resnet'`` or ``'vit'``.

    Returns:
        The published key; None if the published models have no such weight.
    """
    # The two forms of a published zoom layer: without and with a normalisation.
    other_zoom = re.compile(r'bridger\.zoom_(in|out)\.\{stage\}' + (r'\.weight' if family == 'vit' else r'\.[01]\..*'))
    for theirs_key, _, _, pattern in _patterns(family):
        if (match := pattern.fullmatch(ours)) and not other_zoom.fullmatch(theirs_key):
            numbers = _numbers(family)
            return theirs_key.format(**{place: numbers[place][1](value) for place, value in match.groupdict().items()})
    return None


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
            raise ValueError(f'the checkpoint lacks {PREFIX}{key}: it is no complete checkpoint of the released ETRIS code')
        shape = tuple(self.state[key].shape)
        if len(shape) != ndim or 0 in shape:
            raise ValueError(f'{PREFIX}{key} has shape {shape}; {ndim} axes, none of them empty, are expected')
        return shape

    def count(self, pattern: str) -> int:
        """Number of different values of the pattern's group among the keys."""
        found = {match[1] for key in self.state if (match := re.match(pattern, key))}
        if not found:
            raise ValueError(f'the checkpoint has no keys like {PREFIX}{pattern.replace(chr(92), "")}')
        return len(found)

    def side(self, key: str) -> int:
        """Side of the square grid whose positions, and one for the class, are the rows of an embedding."""
        positions = self.of(key, 2)[0] - 1
        side = math.isqrt(max(positions, 0))
        if side < 1 or side * side != positions:
            raise ValueError(f'{PREFIX}{key} has {positions} positions besides the class, which form no square grid')
        return side

    def kernel(self, key: str) -> int:
        return self.of(key, 4)[-1]


def _divide(width: int, heads: int, what: str, remedy: str) -> int:
    if heads < 1 or width % heads:
        raise ValueError(f'{what} has width {width}, which does not divide into {heads} heads; {remedy}')
    return width // heads


def infer_sizes(state: Mapping[str, Tensor], text_heads: int | None = None, image_heads: int | None = None) -> PublishedSizes:
    """Find a published model's sizes from its weights' shapes.

    Args:
        state: Published state dict, keys without :data:`PREFIX`.
        text_heads: Attention heads of CLIP's text tower, which no shape tells. Defaults to None: 64 channels each, as in every CLIP
            and as the released code assumes; towers narrower than 128 channels, which no CLIP has, get heads of 16.
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
        raise ValueError(f'no image encoder found: neither {PREFIX}backbone.visual.proj (ViT) nor '
                         f'{PREFIX}backbone.visual.attnpool.q_proj.weight (ResNet) is in the checkpoint')
    arch = dict(
        embed_dim=shapes.of('backbone.text_projection', 2)[1],
        quick_gelu=True,
        vision_cfg=_vit_cfg(shapes, image_heads) if family == 'vit' else _resnet_cfg(shapes, image_heads),
        text_cfg=_text_cfg(shapes, text_heads))
    first = FIRST_STAGE[family]
    zoomed = sorted(int(match[1]) for key in state if (match := re.fullmatch(r'bridger\.linear1\.(\d+)\.weight', key)))
    if not zoomed or zoomed != list(range(NUM_STAGES - len(zoomed), NUM_STAGES)):
        raise ValueError(f'{PREFIX}bridger.linear1.* has stages {zoomed}; the released code has the last one, two or three of 0, 1, 2')
    weight = 'bridger.zoom_in.{}.weight' if family == 'resnet' else 'bridger.zoom_in.{}.0.weight'
    scales: list[float] = []
    for index in range(NUM_STAGES):
        kernel = shapes.kernel(weight.format(index)) if index in zoomed else (2, 1, 2)[index]
        # The last stage is enlarged, the others are reduced.
        scales.append(kernel if index == NUM_STAGES - 1 or kernel == 1 else 1 / kernel)
    full = 'bridger.fusion_v.2.linear1.weight'
    channels = shapes.of('neck.txt_proj.weight', 2)[0]
    kernel_area = (shapes.of('proj.txt.weight', 2)[0] - 1) / (channels / 2)
    kernel_size = math.isqrt(int(kernel_area))
    if kernel_size**2 != kernel_area:
        raise ValueError(f'{PREFIX}proj.txt.weight makes {kernel_area} weights for each channel, which is no square kernel')
    return PublishedSizes(
        family=family,
        arch=arch,
        stages=tuple(first + index for index in zoomed),
        bridger_dims=shapes.of('bridger.linear1.2.weight', 2)[0],
        bridger_ffn_dims=shapes.of(full, 2)[0] if family == 'resnet' else None,
        scales=tuple(scales),
        channels=channels,
        head_layers=shapes.count(r'decoder\.layers\.(\d+)\.'),
        head_ffn_dims=shapes.of('decoder.layers.0.ffn.0.weight', 2)[0],
        kernel_size=kernel_size,
        input_size=arch['vision_cfg']['image_size'] if family == 'vit' else RESNET_INPUT)


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
        mlp_ratio=hidden / width)


def _resnet_cfg(shapes: _Shapes, heads: int | None) -> dict:
    width = shapes.of('backbone.visual.layer1.0.conv1.weight', 4)[0]
    pooled = shapes.of('backbone.visual.attnpool.q_proj.weight', 2)[1]
    heads = max(1, pooled // CLIP_HEAD_WIDTH) if heads is None else heads
    return dict(
        image_size=shapes.side('backbone.visual.attnpool.positional_embedding') * 32,
        width=width,
        layers=[shapes.count(rf'backbone\.visual\.layer{stage}\.(\d+)\.') for stage in (1, 2, 3, 4)],
        head_width=_divide(pooled, heads, "CLIP's attention pool", 'give --image-heads'))


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
        mlp_ratio=hidden / width)


def released_model_cfg(sizes: PublishedSizes, bridger_heads: int | None = None, head_heads: int = HEAD_HEADS,
                       context_length: int = 17) -> dict:
    """Config of the released variant with given sizes.

    Args:
        sizes: Sizes of the model.
        bridger_heads: Heads of the Bridger's attentions. Defaults to None: 4 for ResNet, 8 for ViT, as in the released configs.
        head_heads: Heads of the decoder's attentions. Defaults to 8, as there.
        context_length: Tokens of a sentence, padding included. Defaults to 17, RefCOCO's.

    Raises:
        ValueError: If a width does not divide into its heads; the message names the option that sets them.
    """
    resnet = sizes.family == 'resnet'
    bridger_heads = BRIDGER_HEADS[sizes.family] if bridger_heads is None else bridger_heads
    _divide(sizes.bridger_dims, bridger_heads, 'the Bridger', 'give --bridger-heads')
    _divide(sizes.channels, head_heads, 'the decoder', 'give --head-heads')
    positions = dict(image='attnpool.positional_embedding' if resnet else 'positional_embedding', text='positional_embedding')
    backbone = dict(type='CLIPResNet', pool_mean_key=False, pool_shortcut=True, norm_eval=False) if resnet else dict(
        type='CLIPViT', num_stages=NUM_STAGES)
    interactor = dict(ffn_dims=sizes.bridger_ffn_dims, dropout=0.1) if resnet else dict(
        ffn_dims=None, self_attention=False, combine='multiply', zoom_norm=True, dropout=0.)
    return dict(
        type='ReferringSegmentor',
        context_length=context_length,
        data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32 if resnet else sizes.arch['vision_cfg']['patch_size']),
        backbone=dict(
            backbone, arch=sizes.arch, out_stages=sizes.out_stages, tunable_parameters=[positions['image']]),
        text_encoder=dict(
            type='CLIPTextEncoder', arch=sizes.arch, num_stages=NUM_STAGES, out_stages=tuple(range(1, NUM_STAGES + 1)),
            tunable_parameters=[positions['text']]),
        neck=dict(
            type='Bridger', stages=sizes.stages, scales=sizes.scales, embed_dims=sizes.bridger_dims, num_heads=bridger_heads,
            memory='sum', cross_inputs='input', mask_padding=False, **interactor),
        decode_head=dict(
            type='ETRISHead', channels=sizes.channels, num_heads=head_heads, text_projection=True,
            global_alignment=dict(num_layers=sizes.head_layers, ffn_dims=sizes.head_ffn_dims),
            projector=dict(kernel_size=sizes.kernel_size),
            loss_decode=dict(type='TextToPixelContrastiveLoss'), threshold=0.35),
        test_cfg=dict(mode='whole'))


class ConvertedCheckpoint(NamedTuple):
    """A published checkpoint in our layout.

    Args:
        model_cfg: Config of the model.
        sizes: What was found from the shapes.
        checkpoint: ``state_dict`` and ``meta``, to be saved.
        names: Published key -> ours, or None for what is kept aside in ``meta``.
    """

    model_cfg: dict
    sizes: PublishedSizes
    checkpoint: dict[str, Any]
    names: dict[str, str | None]


def _checked_state(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not state:
        raise ValueError('the checkpoint has no "state_dict" with weights')
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise ValueError(f'state_dict[{key!r}] is no dense tensor')
        counter = key.endswith('num_batches_tracked')
        if value.is_floating_point() == counter or value.is_complex():
            raise ValueError(f'{key} has type {value.dtype}; {"an integer" if counter else "a floating-point"} type is expected')
    return dict(state)


def _layout(published: str, value: Tensor) -> Tensor:
    """Published weight <-> ours: the same but for 1x1 deconvolutions."""
    if DECONVOLUTIONS.fullmatch(published) and tuple(value.shape[2:]) == (1, 1):
        return value.transpose(0, 1).contiguous()
    return value


def _summary(keys: list[str]) -> str:
    return ', '.join(keys[:8]) + (f' and {len(keys) - 8} more' if len(keys) > 8 else '')


def _check_against_model(model_cfg: dict, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Raise ValueError unless the state dict fits the config's model exactly.

    Args:
        model_cfg: Config of the model, which is built without memory.
        state: State dict in our layout.
        names: Our key -> the name to complain about.
    """
    with DefaultScope.overwrite_default_scope('mmetris'), torch.device('meta'):
        own = MODELS.build(model_cfg).state_dict()
    family = 'resnet' if model_cfg['backbone']['type'] == 'CLIPResNet' else 'vit'
    missing = [f'{PREFIX}{published_name(key, family)}' for key in own if key not in state]
    unexpected = [names[key] for key in state if key not in own]
    shapes = [f'{names[key]} {tuple(state[key].shape)}' for key in state if key in own and state[key].shape != own[key].shape]
    faults = [f'{label}: {_summary(keys)}' for label, keys in (
        ('no place for', unexpected), ('missing', missing), ('shapes that do not fit the rest', shapes)) if keys]
    if faults:
        raise ValueError('the checkpoint is not one of the released ETRIS code; ' + '; '.join(faults))


def from_published(checkpoint: Mapping[str, Any], bridger_heads: int | None = None, head_heads: int = HEAD_HEADS,
                   text_heads: int | None = None, image_heads: int | None = None, context_length: int = 17) -> ConvertedCheckpoint:
    """Convert a published checkpoint.

    Args:
        checkpoint: Content of the file, with ``state_dict``.
        bridger_heads, head_heads, context_length: See :func:`released_model_cfg`.
        text_heads, image_heads: See :func:`infer_sizes`.

    Raises:
        ValueError: If a key cannot be placed, one is missing, or shapes or heads do not fit.
    """
    published = _checked_state(checkpoint.get('state_dict'))
    prefix = PREFIX if all(key.startswith(PREFIX) for key in published) else ''
    plain = {key.removeprefix(prefix): value for key, value in published.items()}
    sizes = infer_sizes(plain, text_heads, image_heads)
    model_cfg = released_model_cfg(sizes, bridger_heads, head_heads, context_length)
    state: OrderedDict[str, Tensor] = OrderedDict()
    names: dict[str, str | None] = {}
    origin: dict[str, str] = {}
    unused, homeless = {}, []
    for key, value in plain.items():
        if key in UNUSED:
            unused[key], names[prefix + key] = value, None
            continue
        ours = ours_name(key, sizes.family)
        if ours is None or ours in origin or published_name(ours, sizes.family) != key:
            homeless.append(prefix + key)
            continue
        names[prefix + key], origin[ours] = ours, prefix + key
        state[ours] = _layout(key, value)
    if homeless:
        raise ValueError(f'no place for: {_summary(homeless)}. The checkpoint is not one of the released ETRIS code')
    if absent := [PREFIX + key for key in UNUSED if key not in unused]:
        raise ValueError(f'the checkpoint is not one of the released ETRIS code; missing: {_summary(absent)}')
    _check_against_model(model_cfg, state, origin)
    meta = dict(
        mmetris_version=__version__,
        published_etris=dict(
            prefix=prefix,
            keys=list(published),
            unused=unused,
            entries={key: value for key, value in checkpoint.items() if key != 'state_dict'}))
    return ConvertedCheckpoint(model_cfg, sizes, dict(meta=meta, state_dict=state), names)


def to_published(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint of the released variant back.

    Args:
        checkpoint: Content of a file of ours. From :func:`from_published` it returns to exactly what it came from. One that was
            trained here lacks what mmetris has no use for: it gets CLIP's ``logit_scale`` (ln 100), the epoch it was saved at, our order of keys,
            and no optimizer state.

    Returns:
        ``state_dict`` with keys ``module.*``, and ``epoch`` and what else the published file had.

    Raises:
        ValueError: If it is slim, or holds a model that is not of the released variant.
    """
    state = _checked_state({key: value for key, value in (checkpoint.get('state_dict') or {}).items()
                            if not key.endswith(FINGERPRINT_KEY)})
    if len(state) != len(checkpoint['state_dict']):
        raise ValueError("the checkpoint is slim: it lacks the frozen CLIP's weights. Merge it with its CLIP first "
                         '(tools/misc/merge_checkpoint.py)')
    family = 'resnet' if any(key.startswith('backbone.pool_shortcut.') for key in state) else 'vit'
    plain: dict[str, Tensor] = {}
    homeless = []
    for key, value in state.items():
        name = published_name(key, family)
        if name is None:
            homeless.append(key)
        else:
            plain[name] = _layout(name, value)
    if homeless:
        raise ValueError(f'the published layout has no place for: {_summary(homeless)}. Only models of the released variant '
                         '(configs/etris_released) can go back to it')
    meta = checkpoint.get('meta') or {}
    origin = meta.get('published_etris') or {}
    plain.update(origin.get('unused') or {key: torch.tensor(value) for key, value in UNUSED.items()})
    # Any heads will do here: only names and shapes are compared.
    sizes = infer_sizes(plain, text_heads=1, image_heads=1)
    _check_against_model(released_model_cfg(sizes, 1, 1), state, {key: key for key in state})
    prefix = origin.get('prefix', PREFIX)
    order = origin.get('keys') or [prefix + key for key in plain]
    if set(order) != {prefix + key for key in plain}:
        raise ValueError('the keys listed in meta["published_etris"] are not those of the state dict: the file was altered')
    entries = origin.get('entries', dict(epoch=meta.get('epoch', 0)))
    # A dict keeps its order: the weights return to the place they had among the entries.
    return dict(entries, state_dict={key: plain[key.removeprefix(prefix)] for key in order})
