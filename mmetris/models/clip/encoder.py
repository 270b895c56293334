"""What CLIP's image and text encoders have in common: a tower and weights of one CLIP."""

from __future__ import annotations

from torch import nn

from ..encoders.frozen_encoder import FrozenEncoder
from .arch import ClipArch
from .weights import load_clip_weights, load_tower


class ClipEncoder(FrozenEncoder):
    """Base of CLIP's image and text encoders.

    Args:
        clip: The CLIP that the encoder is a side of.
        tower: That side, with random weights.
        clip_checkpoint: CLIP weights, see :func:`mmetris.models.clip.load_clip_weights`; read by
            :meth:`init_weights`. Defaults to None: random weights.
        **kwargs: Further arguments of :class:`FrozenEncoder`.
    """

    part: str  # 'image' or 'text'
    # What a model may say once for both sides.
    shared_arguments: tuple[str, ...] = ('arch', 'clip_checkpoint', 'quick_gelu')

    def __init__(self, clip: ClipArch, tower: nn.Module, clip_checkpoint: str | None = None, **kwargs) -> None:
        super().__init__(tower, f'{self.part} encoder {clip.name}', clip_checkpoint, **kwargs)
        self.arch = clip

    @property
    def clip_checkpoint(self) -> str | None:
        """File or tag of CLIP's weights, None for random ones."""
        return self.source

    def load_tower(self, source: str) -> None:
        weights = load_clip_weights(source, self.arch)
        load_tower(self.tower, getattr(weights, self.part), weights, self.arch, self.part)
