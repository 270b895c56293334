"""A pretrained encoder that stays as it is, while something beside it is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.utils.tensor_memo import TensorMemo

from ..layers.shortcut import has_tuning_hooks
from .fingerprint import Fingerprint, fingerprint
from .frozen_weights import FrozenWeights
from .prompted_tokens import PromptedTokens
from .roles import Role

# Where a slim checkpoint keeps the fingerprint, below the encoder's prefix, instead of the weights it stands for. The
# name is that of the first such encoders, and is in their checkpoints.
FINGERPRINT_KEY = 'clip_fingerprint'
TOWER = 'tower'
# Where a checkpoint says by which methods it was tuned, below the encoder's prefix.
TUNED_BY_KEY = 'tuned_by'


class _Remembered(NamedTuple):
    names: dict[str, str]  # key in the encoder's state dict -> name in the tower
    fingerprint: Fingerprint


class FrozenEncoder(BaseModule):
    """Base of encoders whose weights come from elsewhere; it knows neither their architecture nor their stages.

    The pretrained module is ``tower``. Frozen means: none of its parameters asks for a gradient, and dropout and
    BatchNorm in it stay in evaluation mode through :meth:`train`, so that statistics never move. Gradients still pass
    through to whatever was added to the features before. All this holds for the tensors and modules that the tower has
    when the encoder is built (:class:`FrozenWeights`): what is added to it later is trained, and what it is wrapped in
    changes nothing.

    Tuning methods stand beside the tower, in ``tuning``, so that the tower's keys are those of its weight files.

    Args:
        tower: The pretrained module, with random weights so far.
        architecture: What people call it, for messages: ``'image encoder RN101'``.
        source: File or tag of the pretrained weights, read by :meth:`init_weights`. Defaults to None: random weights.
        frozen: Whether the encoder is frozen. Defaults to True.
        tunable_parameters: Names of parameters of the tower that are tuned although the rest is frozen.
        norm_eval: Whether BatchNorm keeps its statistics in training. Defaults to the value of ``frozen``. False lets
            the statistics of a frozen ResNet move, as in the released code.
        token_channels: Width of the tokens, for a tower of tokens that :attr:`prompts` can be put in front of. Defaults
            to None: it has none.
        tokens_before: How many tokens stand before the prompts. Defaults to 1: the class token, or [SOS].
        tuning: Configs of :class:`~mmetris.models.tuning.TuningMethod` by the names that they get in tables and
            checkpoints. Defaults to None: none.

    Attributes:
        tower: The pretrained module.
        pretrained: Its :class:`FrozenWeights`.
        tuning: The tuning methods by name.
        prompts: :class:`PromptedTokens` in front of its tokens, or None.
        no_prompts: Why there are none, in words.
        roles: :class:`Role` of the modules that tuning methods ask for, by its name: ``'attention'``, ``'ffn'``,
            ``'block'`` (of a Transformer), ``'conv'`` (the spatial one of a residual block).
        passed_by: Modules of the tower that are never called, since stages call what is in them one by one.

    Raises:
        ValueError: If a name in ``tunable_parameters`` is no parameter of the tower, or a tuning method does not suit
            it.
    """

    roles: Mapping[str, Role] = MappingProxyType({})
    passed_by: tuple[str, ...] = ('',)
    no_prompts = 'has no tokens to put prompts in front of'
    # What the argument for ``source`` is called in configs, for messages.
    source_argument = 'clip_checkpoint'

    def __init__(
        self,
        tower: nn.Module,
        architecture: str,
        source: str | None = None,
        frozen: bool = True,
        tunable_parameters: Sequence[str] = (),
        norm_eval: bool | None = None,
        token_channels: int | None = None,
        tokens_before: int = 1,
        tuning: Mapping[str, dict] | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.architecture, self.source = architecture, source
        self.frozen = frozen
        self.has_pretrained_weights = False
        self.tower = tower
        self.pretrained = FrozenWeights(tower, frozen, tunable_parameters, norm_eval)
        self.prompts = None if token_channels is None else PromptedTokens(token_channels, tokens_before)
        self._fingerprints = TensorMemo()
        self._remembered: _Remembered | None = None
        self._awaited: Fingerprint | None = None
        self.tuning = ModuleDict({name: MODELS.build(dict(cfg)) for name, cfg in (tuning or {}).items()})
        for method in self.tuning.values():
            method.bind(self)
        self._check_called()
        self.tuning_changed()
        self.train()

    def _check_called(self) -> None:
        for name in self.passed_by:
            if has_tuning_hooks(self.tower.get_submodule(name)):
                raise ValueError(
                    f'{name or "the tower itself"!r} is no place for a tuning method: {type(self).__name__} does not '
                    'call it, but the modules in it one by one; name these'
                )

    def tuning_changed(self) -> None:
        """Have checkpoints say by which methods they are tuned; to be called after :attr:`tuning` was changed."""
        if self.tuning:
            self.register_buffer(TUNED_BY_KEY, self.told_tuning())
        elif hasattr(self, TUNED_BY_KEY):
            delattr(self, TUNED_BY_KEY)

    def told_tuning(self) -> Tensor | None:
        """What checkpoints say of the tuning methods, as a tensor of bytes; None where there are none."""
        told = json.dumps(self._tuned_by()).encode()
        return torch.tensor(list(told), dtype=torch.uint8) if self.tuning else None

    def _tuned_by(self) -> dict[str, str]:
        return {name: method.describe() for name, method in self.tuning.items()}

    @property
    def norm_eval(self) -> bool:
        """Whether BatchNorm of the tower keeps its statistics in training."""
        return self.pretrained.norm_eval

    def init_weights(self) -> None:
        """Read the pretrained weights, if any were named, and make the initial weights of what is added."""
        super().init_weights()
        self.read_pretrained()

    def read_pretrained(self) -> None:
        """Read the pretrained weights, if any were named.

        Raises:
            FileNotFoundError: If they are not there.
            ValueError: If they do not fit the tower, or a slim checkpoint that was loaded before belongs to others.
        """
        if self.source is not None:
            self.load_tower(self.source)
            self.has_pretrained_weights = True
        if (awaited := self._awaited) is not None:
            self._awaited = None
            self._compare(awaited)

    def load_tower(self, source: str) -> None:
        """Read the tower's weights from their source.

        Args:
            source: File or tag.
        """
        raise NotImplementedError(f'{type(self).__name__} does not say how its tower is read from {source}')

    def ensure_pretrained(self) -> None:
        """Read the pretrained weights that a slim checkpoint counts on, unless it was done before; encoders call it
        before they compute.

        Loading a state dict reads no other file. Whoever builds a model and loads its slim checkpoint without
        :meth:`init_weights` in between, as MMSeg's ``init_model`` does, has the tower's weights read here.
        """
        if self._awaited is not None:
            self.read_pretrained()

    def train(self, mode: bool = True) -> FrozenEncoder:
        super().train(mode)
        self.pretrained.train(mode)
        return self

    def frozen_keys(self) -> list[str]:
        """Keys of this module's state dict that are pretrained and never change: what a slim checkpoint leaves out.

        Tunable parameters are not among them, nor are BatchNorm statistics that move (``norm_eval=False``), nor is
        anything that was added to the tower.
        """
        return list(self._frozen_names())

    def _frozen_names(self) -> dict[str, str]:
        return self.pretrained.keys_in(self) if self._remembered is None else self._remembered.names

    def fingerprint(self) -> Fingerprint:
        """Identity of the weights under :meth:`frozen_keys`; hashed again only after they have changed."""
        if self._remembered is not None:
            return self._remembered.fingerprint
        self.ensure_pretrained()
        weights = hashed(self.pretrained.fixed())
        # The file's name only: a checkpoint is passed on, a path on somebody's machine is not.
        source = Path(self.source).name if self.source else 'random weights'
        name = f'{self.architecture} from {source}'
        return self._fingerprints.get((name, *weights), weights.values(), lambda: _fingerprint_of(name, weights))

    @property
    def weights_are_spread(self) -> bool:
        """Whether :meth:`remember` was called, by a wrapper that spreads the weights over processes."""
        return self._remembered is not None

    def remember(self) -> None:
        """Keep keys and fingerprint of the frozen weights as they are now, since they will not be at hand.

        For wrappers such as FSDP, which spread the weights over processes.
        """
        self._remembered = _Remembered(self._frozen_names(), self.fingerprint())

    def remember_loaded(self, weights: Mapping[str, Tensor]) -> None:
        """Keep the fingerprint of frozen weights that are about to be loaded, after :meth:`remember`.

        Args:
            weights: Those under :meth:`frozen_keys`, by their keys; none of a slim checkpoint.
        """
        if weights and self._remembered is not None:
            loaded = self.fingerprint_of(weights)
            if loaded.sha256 != self._remembered.fingerprint.sha256:
                self._remembered = self._remembered._replace(fingerprint=loaded)

    def fingerprint_of(self, weights: Mapping[str, Tensor]) -> Fingerprint:
        """Fingerprint that :meth:`fingerprint` would give if these were the frozen weights.

        Args:
            weights: Those under :meth:`frozen_keys`, by their keys.
        """
        names = self._frozen_names()
        named = {names[key]: value for key, value in weights.items()}
        return _fingerprint_of(f'{self.architecture} inside a checkpoint', hashed(named))

    def complete(self, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
        """Put the frozen weights that are here into a slim state dict, in place, where their fingerprint stood.

        No file is read for it. Where the pretrained weights are not here yet, they are awaited, and compared when they
        are read.

        Args:
            state_dict: A slim state dict; a full one is left as it is.
            prefix: What stands before this module's own keys in it.

        Raises:
            ValueError: If it was tuned on other weights than these, or there are none and none to come.
        """
        saved = state_dict.pop(prefix + FINGERPRINT_KEY, None)
        if saved is None:
            if any(key.startswith(f'{prefix}{TOWER}.') for key in state_dict):
                self._awaited = None  # A full one: all weights are here with it.
            return
        expected = Fingerprint.from_tensor(saved)
        if self._remembered is None and not self.has_pretrained_weights and self.source is not None:
            self._awaited = expected
        else:
            self._compare(expected)
        if self._remembered is not None:
            return  # The weights are where they belong, in shares; FSDP leaves alone what a state dict does not name.
        own_state = self.state_dict()
        for key in self.frozen_keys():
            state_dict.setdefault(prefix + key, own_state[key])

    def check_tuning(self, state_dict: Mapping[str, Tensor], prefix: str = '') -> None:
        """Check that a state dict was tuned by the methods that are here, if by any.

        Args:
            state_dict: Slim or full.
            prefix: What stands before this module's own keys in it.

        Raises:
            ValueError: If it was tuned by others, or by the same ones with other arguments or at other places.
        """
        start = f'{prefix}tuning.'
        theirs = {key.removeprefix(start) for key in state_dict if key.startswith(start)}
        own, own_methods = set(self.tuning.state_dict()), self._tuned_by()
        saved = state_dict.get(prefix + TUNED_BY_KEY)
        if saved is None and not theirs:
            return
        if saved is None:
            methods = {name: own_methods.get(name, name) for name in sorted({key.partition('.')[0] for key in theirs})}
        else:
            methods = json.loads(bytes(saved.tolist()))
        if methods != own_methods:
            raise ValueError(
                f'this checkpoint was tuned by {_listed(methods)}, but the {self.architecture} has '
                f'{_listed(own_methods)}; let tuning= of that encoder name the same methods'
            )
        if wrong := sorted(theirs ^ own):
            raise ValueError(
                f'this checkpoint was tuned by {_listed(methods)} like the {self.architecture}, but at other places: '
                f'{len(wrong)} tensors are missing or left over, such as tuning.{wrong[0]}'
            )

    def _compare(self, expected: Fingerprint) -> None:
        own = self.fingerprint()
        if expected.sha256 != own.sha256:
            raise ValueError(
                f'this checkpoint holds only what was tuned, on the {expected}, but the model has the {own}. '
                f'Let {self.source_argument} of that encoder name the weights that it was tuned on.'
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.check_tuning(state_dict, prefix)
        state_dict.pop(prefix + TUNED_BY_KEY, None)
        if self.tuning:
            state_dict[prefix + TUNED_BY_KEY] = self.get_buffer(TUNED_BY_KEY)
        self.complete(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _listed(methods: Mapping[str, str]) -> str:
    """Tuning methods for a message: ``lora: LoRA(alpha=4.0)``."""
    return ', '.join(f'{name}: {told}' for name, told in methods.items()) or 'no tuning method'


def hashed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the weights that a fingerprint covers: all but BatchNorm's counters, which not every file has."""
    return {key: value for key, value in weights.items() if not key.endswith('num_batches_tracked')}


def _fingerprint_of(name: str, weights: Mapping[str, Tensor]) -> Fingerprint:
    return fingerprint(name, {f'{TOWER}.{key}': value for key, value in weights.items()})
