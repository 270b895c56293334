"""Checkpoints of published codes, to ours and back: what is the same for each of them.

A code is a :class:`PublishedCode`: its keys, its sizes, its config. What a checkpoint does not say by its keys and
shapes (attention heads, length of the sentences) is given by the caller; what mmetris has no use for (the temperature
of CLIP's pre-training, the epoch, the optimizer) travels in the converted checkpoint's ``meta``, so that the way back
is exact to the bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.version import __version__

from ..encoders.frozen_encoder import FINGERPRINT_KEY, TUNED_BY_KEY, FrozenEncoder
from .key_map import KeyMap
from .published_sizes import PublishedSizes
from .shared_keys import PREFIX, PUBLISHED_PARTS

Sizes = TypeVar('Sizes', bound=PublishedSizes)


class ConvertedCheckpoint(NamedTuple):
    """A published checkpoint in our layout.

    Args:
        model_cfg: Config of the model.
        sizes: What was found from the shapes.
        checkpoint: ``state_dict`` and ``meta``, to be saved.
        names: Published key -> ours, or None for what is kept aside in ``meta``.
        origin: What is kept aside: ``prefix``, ``keys``, ``unused`` and ``entries`` of the published file.
    """

    model_cfg: dict
    sizes: PublishedSizes
    checkpoint: dict[str, Any]
    names: dict[str, str | None]
    origin: dict[str, Any]


def same_layout(published: str, weight: Tensor) -> Tensor:
    """A weight as it is, for codes whose modules are built as ours are."""
    return weight


@dataclass(frozen=True)
class PublishedCode(Generic[Sizes]):
    """How the checkpoints of one published code are laid out.

    Args:
        name: What messages call it.
        variant: Which of our models can go back to it, likewise.
        meta_key: Entry of a converted checkpoint's ``meta`` for what only the way back needs.
        keys: Map of the keys, for a family of image encoders.
        unused: Published keys that no module of ours has, which are looked up before the map, and the value that each
            gets where a checkpoint did not come from a published one.
        infer_sizes: Called as ``infer_sizes(state, text_heads, image_heads)`` with a published state dict, keys without
            :data:`~mmetris.models.converters.shared_keys.PREFIX`.
        model_cfg: Called with the sizes and the options of :meth:`from_published`; the config of our model.
        way_back: Options of ``model_cfg`` that every state dict of ours suits, for the way back, where only names and
            shapes are compared.
        exchange_layout: Called with a published key and a weight, in either direction. Defaults to
            ``same_layout``.
        unused_parts: Beginnings of further published keys that no module of ours has. They may be missing, and are
            missing where a checkpoint did not come from a published one. Defaults to none.
    """

    name: str
    variant: str
    meta_key: str
    keys: Callable[[str], KeyMap]
    unused: Mapping[str, float]
    infer_sizes: Callable[[Mapping[str, Tensor], int | None, int | None], Sizes]
    model_cfg: Callable[..., dict]
    way_back: Mapping[str, int]
    exchange_layout: Callable[[str, Tensor], Tensor] = same_layout
    unused_parts: tuple[str, ...] = ()

    def from_published(
        self,
        checkpoint: Mapping[str, Any],
        text_heads: int | None = None,
        image_heads: int | None = None,
        **options: Any,
    ) -> ConvertedCheckpoint:
        """Convert a published checkpoint.

        Args:
            checkpoint: Content of the file, with ``state_dict``.
            text_heads: Attention heads of CLIP's text tower. Defaults to None: by its width.
            image_heads: Likewise of the image tower. Defaults to None: by its width.
            **options: Of this code's ``model_cfg``.

        Raises:
            ValueError: If a key cannot be placed, one is missing, or shapes or heads do not fit.
        """
        published = _checked_state(checkpoint)
        prefix = PREFIX if all(key.startswith(PREFIX) for key in published) else ''
        plain = {key.removeprefix(prefix): value for key, value in published.items()}
        self._check_whose(plain)
        sizes = self.infer_sizes(plain, text_heads, image_heads)
        model_cfg = self.model_cfg(sizes, **options)
        keys = self.keys(sizes.family)
        state: OrderedDict[str, Tensor] = OrderedDict()
        names: dict[str, str | None] = {}
        unused: dict[str, Tensor] = {}
        homeless = []
        for key, value in plain.items():
            ours = keys.ours(key)
            if key in self.unused or key.startswith(self.unused_parts):
                unused[key], names[prefix + key] = value, None
            elif ours is None:
                homeless.append(prefix + key)
            else:
                names[prefix + key] = ours
                state[ours] = self.exchange_layout(key, value)
        missing = [PREFIX + key for key in self.unused if key not in unused]
        origin = {ours: key for key, ours in names.items() if ours is not None}
        told = self._check_against_model(sizes, model_cfg, state, origin, homeless, missing)
        state.update(told)
        kept = dict(
            prefix=prefix,
            keys=list(published),
            unused=unused,
            entries={key: value for key, value in checkpoint.items() if key != 'state_dict'},
        )
        meta = {'mmetris_version': __version__, self.meta_key: kept}
        return ConvertedCheckpoint(model_cfg, sizes, dict(meta=meta, state_dict=state), names, kept)

    def to_published(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a checkpoint of ours back.

        Args:
            checkpoint: Content of a file of ours. One from :meth:`from_published` returns to exactly what it came from.
                One that was trained here lacks what mmetris has no use for: it gets CLIP's ``logit_scale`` (ln 100),
                the epoch that it was saved at, our order of keys, and no optimizer state.

        Returns:
            ``state_dict`` with keys ``module.*``, ``epoch``, and what else the published file had.

        Raises:
            ValueError: If it is slim, or holds a model that is none of this code's.
        """
        state = _checked_state(checkpoint, is_ours=True)
        family = 'resnet' if any(key.startswith('backbone.tower.layer1.') for key in state) else 'vit'
        keys = self.keys(family)
        names = {key: keys.published(key) for key in state}
        if homeless := [key for key, name in names.items() if name is None]:
            raise ValueError(
                f'the published layout has no place for: {_listed(homeless)}. Only {self.variant} can go back to it'
            )
        plain = {name: self.exchange_layout(name, state[key]) for key, name in names.items() if name is not None}
        sizes = self.infer_sizes(plain, 1, 1)
        model_cfg = self.model_cfg(sizes, **self.way_back)
        self._check_against_model(sizes, model_cfg, state, {key: key for key in state})

        meta = checkpoint.get('meta')
        meta = meta if isinstance(meta, Mapping) else {}
        origin = meta.get(self.meta_key)
        if origin is None:
            origin = dict(
                prefix=PREFIX,
                unused={key: torch.tensor(value) for key, value in self.unused.items()},
                entries=dict(epoch=meta.get('epoch', 0)),
                keys=[PREFIX + key for key in (*plain, *self.unused)],
            )
        try:
            everything = {origin['prefix'] + key: value for key, value in {**plain, **origin['unused']}.items()}
            kept = {key for key in origin['unused'] if not key.startswith(self.unused_parts)}
            if kept != set(self.unused) or set(origin['keys']) != set(everything):
                raise ValueError('keys are not those of the state dict')
            return dict(origin['entries'], state_dict={key: everything[key] for key in origin['keys']})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'meta["{self.meta_key}"] of the checkpoint was altered ({error}); without it the way back '
                'works, with default values'
            ) from error

    def _check_against_model(
        self,
        sizes: Sizes,
        model_cfg: dict,
        state: Mapping[str, Tensor],
        names: Mapping[str, str],
        homeless: Sequence[str] = (),
        missing: Sequence[str] = (),
    ) -> dict[str, Tensor]:
        """Raise ValueError unless the state dict fits the config's model exactly.

        Args:
            sizes: Sizes of the model.
            model_cfg: Its config; it is built without memory.
            state: State dict in our layout.
            names: Our key -> the name to complain about.
            homeless, missing: Further names to complain about.

        Returns:
            What the model's own state dict has besides: by which tuning methods it is tuned.
        """
        with DefaultScope.overwrite_default_scope('mmetris'), torch.device('meta'):
            model = MODELS.build(model_cfg)
        own = {key: value for key, value in model.state_dict().items() if not key.endswith(f'.{TUNED_BY_KEY}')}
        keys = self.keys(sizes.family)
        homeless = [*homeless, *(names[key] for key in state if key not in own)]
        missing = [*missing, *(f'{PREFIX}{keys.published(key)}' for key in own if key not in state)]
        shapes = [
            f'{names[key]} {tuple(value.shape)}'
            for key, value in state.items()
            if key in own and value.shape != own[key].shape
        ]
        faults = [
            f'{label}: {_listed(found)}'
            for label, found in (
                ('no place for', homeless),
                ('missing', missing),
                ('shapes that do not fit the others', shapes),
            )
            if found
        ]
        if faults:
            raise ValueError(f'the checkpoint is not one of {self.name}; ' + '; '.join(faults))
        encoders = ((name, part) for name, part in model.named_children() if isinstance(part, FrozenEncoder))
        return {f'{name}.{TUNED_BY_KEY}': told for name, part in encoders if (told := part.told_tuning()) is not None}

    def _check_whose(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError if keys tell of another published code, and none of this one."""
        found = dict(whose for part, whose in PUBLISHED_PARTS.items() if any(key.startswith(part) for key in state))
        if found and self.name not in found:
            name, converter = next(iter(found.items()))
            raise ValueError(f'the checkpoint is not one of {self.name}, but of {name}: convert it by {converter}')


def _checked_state(checkpoint: Mapping[str, Any], is_ours: bool = False) -> dict[str, Tensor]:
    """The state dict of a checkpoint, if it is one of dense tensors of the usual types."""
    state = checkpoint.get('state_dict')
    if not isinstance(state, Mapping) or not state:
        raise ValueError('the checkpoint has no "state_dict" with weights')
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f'state_dict[{key!r}] is no tensor with a name')
        if is_ours and key.endswith(f'.{TUNED_BY_KEY}'):
            continue
        if is_ours and key.endswith(f'.{FINGERPRINT_KEY}'):
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
    return {key: value for key, value in state.items() if not is_ours or not key.endswith(f'.{TUNED_BY_KEY}')}


def _listed(keys: Sequence[str]) -> str:
    return ', '.join(keys[:8]) + (f' and {len(keys) - 8} more' if len(keys) > 8 else '')
