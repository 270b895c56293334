"""Read CLIP weights from OpenAI archives, open_clip and safetensors files, or an open_clip tag.

Nothing here runs code from a file: pickles are read as checkpoints are, restricted to plain data; TorchScript archives
are read for their tensors, and not loaded as programs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmetris.utils.checkpoint_io import check_finite, read_checkpoint, read_safetensors
from mmetris.utils.downloads import Fetched, NotFetchedError, fetch_first_hub_file
from mmetris.utils.encoder_files import encoder_path, how_to_get
from mmetris.utils.torchscript_weights import is_torchscript, read_torchscript

from ..layers.position_embedding import resize_position_embedding
from .arch import CUSTOM, QUICK_GELU_SUFFIX

if TYPE_CHECKING:
    from .dual_encoder import DualEncoder

# Sizes that OpenAI stores beside the weights, and the temperature of pre-training; no tower has them.
_NOT_WEIGHTS = frozenset({'input_resolution', 'context_length', 'vocab_size', 'logit_scale', 'logit_bias'})


@dataclass(frozen=True)
class ClipWeights:
    """One CLIP model's weights.

    Args:
        source: File or tag they came from, for messages.
        image: State dict of the image tower (without the prefix ``visual.``).
        text: State dict of the text tower.
        quick_gelu: Activation they were trained with, where the source tells; else None.
        logit_scale: Logarithm of the factor that pre-training had for cosines, where the source tells; else None.
    """

    source: str
    image: dict[str, Tensor]
    text: dict[str, Tensor]
    quick_gelu: bool | None
    logit_scale: float | None = None


def load_clip_weights(source: str, arch: DualEncoder) -> ClipWeights:
    """Read CLIP weights.

    Args:
        source: A file (OpenAI ``.pt`` archive, open_clip ``.pt`` / ``.pth`` / ``.bin`` state dict, ``.safetensors``)
            or its address (see :func:`~mmetris.utils.encoder_files.encoder_path`),
            or an open_clip tag such as ``'openai'`` or ``'laion2b_s34b_b88k'``, which is fetched into the hub's
            cache.
        arch: Architecture the weights are meant for; a tag is looked up under its name.

    Raises:
        FileNotFoundError: If ``source`` is neither a file nor a tag of ``arch``; says what to put where.
        ValueError: If the file cannot be read as a state dict, or holds no CLIP weights.
    """
    path = encoder_path(source)
    if path.is_file():
        return _read_file(str(path.resolve()), path.stat().st_mtime_ns)
    return _read_tag(source, arch)


@lru_cache(maxsize=1)  # Both towers of a model ask for the same file, one after the other.
def _read_file(path: str, mtime_ns: int) -> ClipWeights:
    del mtime_ns  # Only part of the cache's key: a file that has changed is read again.
    quick_gelu = None
    if path.endswith('.safetensors'):
        state, metadata = read_safetensors(path)
        if 'quick_gelu' in metadata:
            quick_gelu = metadata['quick_gelu'].lower() == 'true'
    elif is_torchscript(path):
        state = read_torchscript(path)
        quick_gelu = True  # Only OpenAI publishes CLIP as TorchScript, and always with QuickGELU.
    else:
        state = _read_pickle(path)
        if 'input_resolution' in state:  # The state dict of such an archive.
            quick_gelu = True
    return _split(path, state, quick_gelu)


def tagged_file(tag: str, arch: DualEncoder) -> tuple[Fetched, bool]:
    """The file of an open_clip tag, fetched into the hub's cache as open_clip does it (of two forms, safetensors), and
    whether it was trained with QuickGELU.

    Args:
        tag: The tag, such as ``'openai'``.
        arch: Whose weights they are.

    Raises:
        FileNotFoundError: If there is no such tag, or it cannot be fetched.
        ValueError: If what came is not what the hub announced.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    tag_cfg = get_pretrained_cfg(arch.name, tag)
    if not tag_cfg:
        tags = list_pretrained_tags_by_model(arch.name)
        known = how_to_get(tag)
        raise FileNotFoundError(
            f'CLIP weights {tag!r}: no such file, and no open_clip tag of {arch.name}. '
            + ('' if known is None else f'{known[0].upper()}{known[1:]}. ')
            + "Put OpenAI's archive (such as ViT-B-16.pt or RN101.pt) or "
            'a .safetensors / .pth state dict at that path, or set clip_checkpoint to '
            + (
                f'one of the tags {", ".join(tags)}.'
                if tags
                else 'an existing file (an architecture given by sizes has no tags).'
            )
        )
    quick_gelu = bool(tag_cfg.get('quick_gelu', False))
    repo, _, file = tag_cfg.get('hf_hub', '').rpartition('/')  # Without a name behind the slash: open_clip's own.
    safe = str(Path(file).with_suffix('.safetensors')) if file else HF_SAFE_WEIGHTS_NAME
    try:
        if repo:
            return fetch_first_hub_file(repo, (safe, file or HF_WEIGHTS_NAME)), quick_gelu
        path = Path(download_pretrained(tag_cfg))  # An address, which open_clip keeps in a cache of its own.
        return Fetched(path, path.stat().st_size, 0, 'nothing'), quick_gelu
    except ValueError:
        raise
    except Exception as error:  # Whatever open_clip raises without a network.
        raise NotFetchedError(
            f'CLIP weights {tag!r} of {arch.name} are not on this machine: {error}. Without a network: fetch that file '
            'elsewhere and set clip_checkpoint to it'
        ) from error


def _read_tag(tag: str, arch: DualEncoder) -> ClipWeights:
    fetched, quick_gelu = tagged_file(tag, arch)
    path = fetched.path
    weights = _read_file(str(path), path.stat().st_mtime_ns)
    return ClipWeights(f'{arch.name} {tag!r} ({path})', weights.image, weights.text, quick_gelu, weights.logit_scale)


def _read_pickle(path: str) -> dict[str, Tensor]:
    state = read_checkpoint(path)
    for key in ('state_dict', 'model'):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    return dict(state)


def _split(source: str, state: Mapping[str, Tensor], quick_gelu: bool | None) -> ClipWeights:
    """Divide a whole CLIP state dict into its two towers, in single precision."""
    image, text, logit_scale = {}, {}, None
    for key, value in state.items():
        key = key.removeprefix('module.')
        if key == 'logit_scale' and isinstance(value, Tensor) and value.numel() == 1:
            logit_scale = float(value)
        if key in _NOT_WEIGHTS or key.startswith('text_decoder.') or not isinstance(value, Tensor):
            continue
        value = value.float() if value.is_floating_point() else value
        if key.startswith('visual.'):
            image[key.removeprefix('visual.')] = value
        else:
            text[key.removeprefix('text.')] = value
    text.pop('attn_mask', None)  # Older open_clip files store the causal mask.
    if not image or not text:
        raise ValueError(
            f'{source} holds no CLIP model: keys visual.* and those of a text tower are expected, found '
            f'{sorted(state)[:5]}'
        )
    check_finite(image | text, source)
    return ClipWeights(source, image, text, quick_gelu, logit_scale)


def load_tower(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], weights: ClipWeights, arch: DualEncoder, part: str
) -> bool:
    """Copy weights into a tower, refusing anything that does not fit exactly.

    Args:
        own: Tensors of the tower by their names in the file, to be filled in place.
        state: Its part of ``weights``.
        weights: Where it came from; its activation is compared with that of ``arch``.
        arch: What the tower was built from.
        part: ``'image'`` or ``'text'``, for messages.

    A ViT given by its sizes may have another image size than the weights: their positions are resized once, here.

    Returns:
        The activation that the tower is to have (True: QuickGELU): the one that was asked for, else that of the
        weights, with a warning where this is not what ``arch`` assumes.

    Raises:
        ValueError: If keys are missing or left over, or shapes differ: the file belongs to another architecture.
    """
    state = _with_resized_positions(own, state, arch)
    # The counters of BatchNorm are absent from OpenAI's files and play no part in a frozen tower.
    missing = [key for key in own if key not in state and not key.endswith('num_batches_tracked')]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f'{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}'
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or unexpected or shapes:
        faults = [
            f'{label}: {", ".join(keys[:3])}{f" and {len(keys) - 3} more" if len(keys) > 3 else ""}'
            for label, keys in (('missing', missing), ('not expected', unexpected), ('other shape', shapes))
            if keys
        ]
        raise ValueError(
            f'{weights.source} does not fit the {part} encoder {arch.name} '
            f'({_describe(weights)}): {"; ".join(faults)}. Set arch to that of the file, or clip_checkpoint '
            f'to weights of {arch.name}.'
        )
    with torch.no_grad():
        for key, value in own.items():
            if key in state:
                value.copy_(state[key])
    if part == 'image' and (arch.is_resnet or arch.is_timm):
        return arch.quick_gelu  # It has ReLUs, or what timm's config says, whatever its text tower has.
    return _activation(weights, arch, part)


def _activation(weights: ClipWeights, arch: DualEncoder, part: str) -> bool:
    """Whether a tower is to have QuickGELU. A wrong activation does not show in keys or shapes."""
    names = {True: 'QuickGELU', False: 'the exact GELU'}
    if weights.quick_gelu is None and not arch.activation_is_given:
        print_log(
            f'{weights.source} does not tell its activation; the {part} encoder {arch.name} is built with '
            f'{names[arch.quick_gelu]}. Set quick_gelu=True or False to say it.',
            logger='current',
            level=logging.WARNING,
        )
    if weights.quick_gelu is None or weights.quick_gelu == arch.quick_gelu:
        return arch.quick_gelu
    fault = f'{weights.source} was trained with {names[weights.quick_gelu]} (quick_gelu={weights.quick_gelu}), '
    remedy = f'Set quick_gelu={weights.quick_gelu} on both encoders'
    if weights.quick_gelu and arch.name != CUSTOM:
        remedy += f', or arch={arch.name + QUICK_GELU_SUFFIX!r} where open_clip has that name'
    if arch.activation_is_given:
        fault += f'the {part} encoder is built with {names[arch.quick_gelu]}, as was asked for: features will be off'
    else:
        fault += f'arch={arch.name!r} by itself means {names[arch.quick_gelu]}: the {part} encoder follows the weights'
    print_log(f'{fault}. {remedy}.', logger='current', level=logging.WARNING)
    return arch.quick_gelu if arch.activation_is_given else weights.quick_gelu


def _with_resized_positions(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], arch: DualEncoder
) -> Mapping[str, Tensor]:
    """The state dict with a ViT's positions on the grid of ``arch``'s image size, where sizes were asked for and not
    a name."""
    key = 'positional_embedding'
    if arch.name != CUSTOM or 'class_embedding' not in own or key not in state or state[key].shape == own[key].shape:
        return state
    side = round((len(own[key]) - 1) ** 0.5)
    try:
        return {**state, key: resize_position_embedding(state[key], (side, side))}
    except ValueError:  # No square grid, so no CLIP; the comparison of shapes says the rest.
        return state


def _describe(weights: ClipWeights) -> str:
    """What a file holds, e.g. ``'it holds a ViT of width 768, patch 32, 12 blocks; text width 512'``."""
    image, text = weights.image, weights.text
    words = 'another text tower'
    if 'token_embedding.weight' in text:
        words = f'text width {text["token_embedding.weight"].shape[1]}'
    if 'class_embedding' in image and 'conv1.weight' in image:
        blocks = 1 + _last(image, 'transformer.resblocks.')
        width, _, patch, _ = image['conv1.weight'].shape
        return f'it holds a ViT of width {width}, patch {patch}, {blocks} blocks; {words}'
    stages = [1 + _last(image, f'layer{index}.') for index in (1, 2, 3, 4)]
    if not all(stages):
        return f'it holds another image tower; {words}'
    return f'it holds a ResNet of {stages} blocks; {words}'


def _last(state: Mapping[str, Tensor], prefix: str) -> int:
    """Highest number that follows a prefix in the keys; -1 if there is none."""
    return max((int(key.removeprefix(prefix).split('.')[0]) for key in state if key.startswith(prefix)), default=-1)
