"""What CLIP's image and text encoders have in common: weights from one CLIP, and being frozen."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import nn

from ..peft.freeze import freeze
from .arch import ArchLike, resolve_arch
from .weights import load_clip_weights, load_tower


class ClipEncoder(BaseModule):
    """Base of CLIP's image and text encoders.

    Frozen means: no parameter asks for a gradient, dropout and BatchNorm stay in evaluation mode through :meth:`train`, so that
    BatchNorm statistics never move. Gradients still pass through to whatever was added to the features before.

    Args:
        arch: CLIP architecture, see :func:`mmetris.models.clip.resolve_arch`.
        clip_checkpoint: CLIP weights, see :func:`mmetris.models.clip.load_clip_weights`; read by :meth:`init_weights`. Defaults to None:
            random weights.
        quick_gelu: Activation of the transformers. Defaults to None: that of ``arch``.
        frozen: Whether the encoder is frozen. Defaults to True.
        tunable_parameters: Names of parameters of the tower that stay tunable although the rest is frozen.
        norm_eval: Whether BatchNorm keeps its statistics in training. Defaults to the value of ``frozen``. False lets the statistics of
            a frozen ResNet move, as in the released code.

    Raises:
        ValueError: If a name in ``tunable_parameters`` is no parameter of the tower.
    """

    part: str  # 'image' or 'text'

    def __init__(self, arch: ArchLike, clip_checkpoint: str | None = None, quick_gelu: bool | None = None, frozen: bool = True,
                 tunable_parameters: Sequence[str] = (), norm_eval: bool | None = None, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.arch = resolve_arch(arch, quick_gelu)
        self.clip_checkpoint = clip_checkpoint
        self.frozen = frozen
        self.norm_eval = frozen if norm_eval is None else norm_eval
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

    def train(self, mode: bool = True) -> ClipEncoder:
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and not self.norm_eval)
        return self
