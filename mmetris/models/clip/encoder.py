"""What CLIP's image and text encoders have in common: weights from one CLIP, and being frozen."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..peft.freeze import freeze
from .dual_encoder import ArchLike, resolve_arch
from .fingerprint import ClipFingerprint, fingerprint
from .weights import load_clip_weights, load_tower

# Where a slim checkpoint keeps the fingerprint, below the encoder's prefix, instead of the weights it stands for.
FINGERPRINT_KEY = 'clip_fingerprint'


class ClipEncoder(BaseModule):
    """Base of CLIP's image and text encoders.

    Frozen means: no parameter asks for a gradient, dropout and BatchNorm stay in evaluation mode through
    :meth:`train`, so that BatchNorm statistics never move. Gradients still pass through to whatever was
    added to the features before.

    Args:
        arch: CLIP architecture, see :func:`mmetris.models.clip.resolve_arch`.
        clip_checkpoint: CLIP weights, see :func:`mmetris.models.clip.load_clip_weights`; read by
            :meth:`init_weights`. Defaults to None: random weights.
        quick_gelu: Activation of the transformers. Defaults to None: that of ``arch``.
        frozen: Whether the encoder is frozen. Defaults to True.
        tunable_parameters: Names of parameters of the tower that stay tunable although the rest is frozen.
        norm_eval: Whether BatchNorm keeps its statistics in training. Defaults to the value of ``frozen``. False lets
            the statistics of a frozen ResNet move, as in the released code.

    Raises:
        ValueError: If a name in ``tunable_parameters`` is no parameter of the tower.
    """

    part: str  # 'image' or 'text'

    def __init__(
        self,
        arch: ArchLike,
        clip_checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        frozen: bool = True,
        tunable_parameters: Sequence[str] = (),
        norm_eval: bool | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = resolve_arch(arch, quick_gelu)
        self.clip_checkpoint = clip_checkpoint
        self.frozen = frozen
        self.norm_eval = frozen if norm_eval is None else norm_eval
        self.has_clip_weights = False
        self._fingerprint: tuple[list, ClipFingerprint] | None = None
        self._remembered: tuple[list[str], ClipFingerprint] | None = None
        self.tower = self.build_tower()
        if frozen:
            freeze(self.tower, except_=tunable_parameters)
        self.train()

    def build_tower(self) -> nn.Module:
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load the CLIP weights, if any were named."""
        super().init_weights()
        if self.clip_checkpoint is not None:
            weights = load_clip_weights(self.clip_checkpoint, self.arch)
            load_tower(self.tower, getattr(weights, self.part), weights, self.arch, self.part)
            self.has_clip_weights = True

    def train(self, mode: bool = True) -> ClipEncoder:
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and not self.norm_eval)
        return self

    def clip_keys(self) -> list[str]:
        """Keys of this module's state dict that are CLIP's own and never change: what a slim checkpoint leaves out.

        Tunable parameters are not among them, nor are BatchNorm statistics that move (``norm_eval=False``).
        """
        if self._remembered is not None:
            return self._remembered[0]
        if not self.frozen:
            return []
        fixed = {name for name, parameter in self.tower.named_parameters() if not parameter.requires_grad}
        if self.norm_eval:
            fixed |= {name for name, _ in self.tower.named_buffers()}
        return [f'tower.{key}' for key in self.tower.state_dict() if key in fixed]

    def clip_fingerprint(self) -> ClipFingerprint:
        """Identity of the weights under :meth:`clip_keys`; hashed again only after they have changed."""
        if self._remembered is not None:
            return self._remembered[1]
        state = self.state_dict()
        weights = self.hashed({key: state[key] for key in self.clip_keys()})
        version = [(value.data_ptr(), value._version) for value in weights.values()]
        if self._fingerprint is None or self._fingerprint[0] != version:
            # The file's name only: a checkpoint is passed on, a path on somebody's machine is not.
            source = Path(self.clip_checkpoint).name if self.clip_checkpoint else 'random weights'
            self._fingerprint = (version, fingerprint(f'{self.part} encoder {self.arch.name} from {source}', weights))
        return self._fingerprint[1]

    @property
    def weights_are_spread(self) -> bool:
        """Whether :meth:`remember_clip` was called, by a wrapper that spreads the weights over processes."""
        return self._remembered is not None

    def remember_clip(self) -> None:
        """Keep keys and fingerprint of the frozen CLIP as they are now, since its weights will not be at hand.

        For wrappers such as FSDP, which spread the weights over processes.
        """
        self._remembered = (self.clip_keys(), self.clip_fingerprint())

    def remember_loaded(self, weights: Mapping[str, Tensor]) -> None:
        """Keep the fingerprint of frozen weights that are about to be loaded, after :meth:`remember_clip`.

        Args:
            weights: Those under :meth:`clip_keys`, by their keys; none of a slim checkpoint.
        """
        if weights:
            loaded = fingerprint(f'{self.part} encoder {self.arch.name} inside a checkpoint', self.hashed(weights))
            if loaded.sha256 != self._remembered[1].sha256:
                self._remembered = (self._remembered[0], loaded)

    @staticmethod
    def hashed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the weights that the fingerprint covers: all but BatchNorm's counters, which not every file has."""
        return {key: value for key, value in weights.items() if not key.endswith('num_batches_tracked')}

    def complete(self, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
        """Put the frozen CLIP that is here into a slim state dict, in place, where its fingerprint stood.

        Args:
            state_dict: A slim state dict; a full one is left as it is.
            prefix: What stands before this module's own keys in it.

        Raises:
            ValueError: If it was tuned on another CLIP than this one, or there is none here.
        """
        saved = state_dict.pop(prefix + FINGERPRINT_KEY, None)
        if saved is None:
            return
        if not self.has_clip_weights and self.clip_checkpoint is not None:
            self.init_weights()
        expected, own = ClipFingerprint.from_tensor(saved), self.clip_fingerprint()
        if expected.sha256 != own.sha256:
            raise ValueError(
                f'this checkpoint holds only what was tuned, on the {expected}, but the model has the {own}. '
                f'Set clip_checkpoint of the {self.part} encoder to the CLIP that it was tuned on.'
            )
        if self._remembered is not None:
            return  # The weights are where they belong, in shares; FSDP leaves alone what a state dict does not name.
        own_state = self.state_dict()
        for key in self.clip_keys():
            state_dict.setdefault(prefix + key, own_state[key])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args, **kwargs) -> None:
        self.complete(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
