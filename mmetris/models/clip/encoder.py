"""What CLIP's image and text encoders have in common: a tower and weights of one CLIP."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import Transformer
from torch import Tensor, nn

from ..encoders.frozen_encoder import FrozenEncoder
from ..encoders.roles import Role, transformer_roles
from ..layers.quick_gelu import set_activation
from .dual_encoder import DualEncoder

# Places in a Transformer of CLIP's, whose blocks are called one by one.
TRANSFORMER_PASSED_BY = ('', 'transformer', 'transformer.resblocks')


def clip_transformer_roles(transformer: Transformer) -> dict[str, Role]:
    """Roles of the modules in a Transformer of CLIP's, the tower's ``transformer``."""
    return transformer_roles([f'transformer.resblocks.{index}' for index in range(len(transformer.resblocks))])


class ClipEncoder(FrozenEncoder):
    """Base of CLIP's image and text encoders.

    The activation is that of ``clip``. Where the config leaves it open and the weights turn out to be of the other one,
    the tower follows the weights, with a warning; checkpoints then say so (key ``quick_gelu``), since whoever loads one
    may read no file of CLIP.

    Args:
        clip: The CLIP that the encoder is a side of; its ``checkpoint`` is read by :meth:`init_weights`.
        tower: That side, with random weights.
        **kwargs: Further arguments of :class:`FrozenEncoder`.
    """

    part: str  # 'image' or 'text'
    # What a model may say once for both sides.
    shared_arguments: tuple[str, ...] = ('arch', 'clip_checkpoint', 'quick_gelu')

    def __init__(self, clip: DualEncoder, tower: nn.Module, **kwargs: Any) -> None:
        super().__init__(tower, f'{self.part} encoder {clip.name}', clip.checkpoint, **kwargs)
        self.arch = clip

    @property
    def normalisation(self) -> dict[str, tuple[float, ...]]:
        """``mean`` and ``std`` of the images that it was trained on, RGB, on the scale 0..255."""
        return {
            name: tuple(255 * value for value in values)
            for name, values in (('mean', self.arch.mean), ('std', self.arch.std))
        }

    @property
    def clip_checkpoint(self) -> str | None:
        """File or tag of CLIP's weights, None for random ones."""
        return self.source

    def load_tower(self, source: str) -> None:
        quick_gelu = self.arch.load(self.pretrained.tensors(), self.part)
        if quick_gelu != self.arch.quick_gelu:
            self._follow(quick_gelu)

    def _follow(self, quick_gelu: bool) -> None:
        """Compute with this activation, whatever ``arch`` assumes, and say so in the state dict."""
        set_activation(self.tower, quick_gelu)
        device = next(self.tower.parameters()).device
        self.register_buffer('quick_gelu', torch.tensor(quick_gelu, device=device))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        said = state_dict.get(f'{prefix}quick_gelu')
        if said is not None:
            self._follow(bool(said))
        elif hasattr(self, 'quick_gelu'):
            state_dict[f'{prefix}quick_gelu'] = self.quick_gelu
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
