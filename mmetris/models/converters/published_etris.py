"""Checkpoints of the released ETRIS code, to ours and back.

What a checkpoint does not say by its keys and shapes (attention heads, length of the sentences) is given by the caller;
what mmetris has no use for (the temperature of CLIP's pre-training, the epoch, the optimizer) travels in the converted
checkpoint's ``meta``, so that the way back is exact to the bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.version import __version__

from ..encoders.frozen_encoder import FINGERPRINT_KEY
from .etris_keys import PREFIX, UNUSED, exchange_layout, ours_name, published_name
from .etris_sizes import HEAD_HEADS, PublishedSizes, infer_sizes, released_model_cfg


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


def from_published(
    checkpoint: Mapping[str, Any],
    bridger_heads: int | None = None,
    head_heads: int = HEAD_HEADS,
    text_heads: int | None = None,
    image_heads: int | None = None,
    context_length: int = 17,
) -> ConvertedCheckpoint:
    """Convert a published checkpoint.

    Args:
        checkpoint: Content of the file, with ``state_dict``.
        bridger_heads, head_heads, context_length: See :func:`released_model_cfg`.
        text_heads, image_heads: See :func:`infer_sizes`.

    Raises:
        ValueError: If a key cannot be placed, one is missing, or shapes or heads do not fit.
    """
    published = _checked_state(checkpoint)
    prefix = PREFIX if all(key.startswith(PREFIX) for key in published) else ''
    plain = {key.removeprefix(prefix): value for key, value in published.items()}
    sizes = infer_sizes(plain, text_heads, image_heads)
    model_cfg = released_model_cfg(sizes, bridger_heads, head_heads, context_length)
    state: OrderedDict[str, Tensor] = OrderedDict()
    names: dict[str, str | None] = {}
    origin: dict[str, str] = {}
    unused, homeless = {}, []
    for key, value in plain.items():
        ours = ours_name(key, sizes.family)
        if key in UNUSED:
            unused[key], names[prefix + key] = value, None
        elif ours is None or published_name(ours, sizes.family) != key:
            homeless.append(prefix + key)
        else:
            names[prefix + key], origin[ours] = ours, prefix + key
            state[ours] = exchange_layout(key, value)
    missing = [PREFIX + key for key in UNUSED if key not in unused]
    _check_against_model(model_cfg, state, origin, homeless, missing)
    meta = dict(
        mmetris_version=__version__,
        published_etris=dict(
            prefix=prefix,
            keys=list(published),
            unused=unused,
            entries={key: value for key, value in checkpoint.items() if key != 'state_dict'},
        ),
    )
    return ConvertedCheckpoint(model_cfg, sizes, dict(meta=meta, state_dict=state), names)


def to_published(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint of the released variant back.

    Args:
        checkpoint: Content of a file of ours. One from :func:`from_published` returns to exactly what it came from. One
            that was trained here lacks what mmetris has no use for: it gets CLIP's ``logit_scale`` (ln 100), the epoch
            that it was saved at, our order of keys, and no optimizer state.

    Returns:
        ``state_dict`` with keys ``module.*``, ``epoch``, and what else the published file had.

    Raises:
        ValueError: If it is slim, or holds a model that is not of the released variant.
    """
    state = _checked_state(checkpoint, slim_remedy=True)
    family = 'resnet' if any(key.startswith('backbone.pool_shortcut.') for key in state) else 'vit'
    names = {key: published_name(key, family) for key in state}
    if homeless := [key for key, name in names.items() if name is None]:
        raise ValueError(
            f'the published layout has no place for: {_listed(homeless)}. Only models of the released '
            'variant (configs/etris_released) can go back to it'
        )
    plain = {name: exchange_layout(name, state[key]) for key, name in names.items() if name is not None}
    # Any heads will do here: only names and shapes are compared.
    sizes = infer_sizes(plain, text_heads=1, image_heads=1)
    _check_against_model(released_model_cfg(sizes, 1, 1), state, {key: key for key in state})

    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    origin = meta.get('published_etris')
    if origin is None:
        epoch = meta.get('epoch', 0)
        origin = dict(
            prefix=PREFIX,
            unused={key: torch.tensor(value) for key, value in UNUSED.items()},
            entries=dict(epoch=epoch),
            keys=[PREFIX + key for key in (*plain, *UNUSED)],
        )
    try:
        everything = {origin['prefix'] + key: value for key, value in {**plain, **origin['unused']}.items()}
        if set(origin['unused']) != set(UNUSED) or set(origin['keys']) != set(everything):
            raise ValueError('keys are not those of the state dict')
        return dict(origin['entries'], state_dict={key: everything[key] for key in origin['keys']})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'meta["published_etris"] of the checkpoint was altered ({error}); without it the way back '
            'works, with default values'
        ) from error


def _checked_state(checkpoint: Mapping[str, Any], slim_remedy: bool = False) -> dict[str, Tensor]:
    """The state dict of a checkpoint, if it is one of dense tensors of the usual types."""
    state = checkpoint.get('state_dict')
    if not isinstance(state, Mapping) or not state:
        raise ValueError('the checkpoint has no "state_dict" with weights')
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f'state_dict[{key!r}] is no tensor with a name')
        if slim_remedy and key.endswith(f'.{FINGERPRINT_KEY}'):
            raise ValueError(
                "the checkpoint is slim: it lacks the frozen CLIP's weights. Merge it with its CLIP first "
                '(tools/misc/merge_checkpoint.py)'
            )
        counter = key.endswith('num_batches_tracked')
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise ValueError(f'{key} is no dense tensor of real numbers')
        if value.is_floating_point() == counter:
            kind = 'an integer' if counter else 'a floating-point'
            raise ValueError(f'{key} has type {value.dtype}; {kind} type is expected')
    return dict(state)


def _check_against_model(
    model_cfg: dict,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    homeless: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> None:
    """Raise ValueError unless the state dict fits the config's model exactly.

    Args:
        model_cfg: Config of the model, which is built without memory.
        state: State dict in our layout.
        names: Our key -> the name to complain about.
        homeless, missing: Further names to complain about.
    """
    with DefaultScope.overwrite_default_scope('mmetris'), torch.device('meta'):
        own = MODELS.build(model_cfg).state_dict()
    family = 'resnet' if model_cfg['backbone']['type'] == 'CLIPResNet' else 'vit'
    homeless = [*homeless, *(names[key] for key in state if key not in own)]
    missing = [*missing, *(f'{PREFIX}{published_name(key, family)}' for key in own if key not in state)]
    shapes = [
        f'{names[key]} {tuple(value.shape)}'
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    faults = [
        f'{label}: {_listed(keys)}'
        for label, keys in (
            ('no place for', homeless),
            ('missing', missing),
            ('shapes that do not fit the others', shapes),
        )
        if keys
    ]
    if faults:
        raise ValueError('the checkpoint is not one of the released ETRIS code; ' + '; '.join(faults))


def _listed(keys: Sequence[str]) -> str:
    return ', '.join(keys[:8]) + (f' and {len(keys) - 8} more' if len(keys) > 8 else '')
