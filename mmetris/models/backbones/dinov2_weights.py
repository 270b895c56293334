"""Weights of DINOv2 from its own files and from timm's, which keep the same numbers otherwise.

timm's towers with registers have no position of the class token: it is part of the token there. Without registers the
two are alike, but for ``mask_token``, which only pre-training reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmetris.utils.checkpoint_io import check_finite, read_checkpoint
from mmetris.utils.encoder_files import encoder_path, how_to_get

# Weights of pre-training or classification that no tower has.
_NOT_IN_TOWERS = ('mask_token', 'head.weight', 'head.bias')
_WRAPPERS = ('state_dict', 'model')


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm's ``vit_*_patch14_dinov2`` or ``vit_*_patch14_reg4_dinov2`` with DINOv2's own keys.

    Args:
        state: The state dict; one of DINOv2's is returned as it is.
    """
    own = dict(state)
    if (registers := own.pop('reg_token', None)) is not None:
        own['register_tokens'] = registers
        grid = own['pos_embed']
        own['pos_embed'] = torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)
    return own


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with DINOv2's own keys as timm has it.

    Args:
        state: The state dict, without ``mask_token``.
    """
    theirs = dict(state)
    if (registers := theirs.pop('register_tokens', None)) is not None:
        positions = theirs['pos_embed']
        theirs['reg_token'] = registers
        theirs['cls_token'], theirs['pos_embed'] = theirs['cls_token'] + positions[:, :1], positions[:, 1:]
    return theirs


def read_dinov2(source: str) -> dict[str, Tensor]:
    """Read the weights of a tower.

    Args:
        source: DINOv2's own ``.pth``, or a ``.pth`` or ``.safetensors`` file with its keys or timm's; or its address
            (see :func:`~mmetris.utils.encoder_files.encoder_path`).

    Returns:
        DINOv2's own keys and tensors in single precision.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, holds no DINOv2, or NaN or Inf.
    """
    path = encoder_path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"DINOv2's weights not found: {source}. "
            + (
                how_to_get(source)
                or 'Put dinov2_vitb14_reg4_pretrain.pth (or the file of another size) there; "mmetris download '
                'dinov2-vitb14_reg" fetches it'
            )
            + ', or let checkpoint name the file'
        )
    state = read_checkpoint(path)
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not {'pos_embed', 'cls_token', 'patch_embed.proj.weight'} <= set(state):
        raise ValueError(f'{source} holds no DINOv2: pos_embed, cls_token and others are missing')
    weights = {key: value.float() for key, value in state.items() if key not in _NOT_IN_TOWERS}
    check_finite(weights, source)
    return from_timm(weights)


def fill_tower(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str, architecture: str) -> None:
    """Copy weights into a tower, refusing anything that does not fit exactly.

    Args:
        own: Tensors of the tower by name, to be filled in place.
        weights: Those of the file.
        source: Where they came from, for messages.
        architecture: What the tower is called.

    Raises:
        ValueError: If keys are missing or left over, or shapes differ.
    """
    shapes = [
        f'{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}'
        for key, value in own.items()
        if key in weights and weights[key].shape != value.shape
    ]
    faults = [
        f'{label}: {", ".join(found[:3])}{f" and {len(found) - 3} more" if len(found) > 3 else ""}'
        for label, found in (
            ('missing', [key for key in own if key not in weights]),
            ('not expected', [key for key in weights if key not in own]),
            ('other shape', shapes),
        )
        if found
    ]
    if faults:
        raise ValueError(
            f'{source} does not fit the {architecture}: {"; ".join(faults)}. Set arch to that of the file, or '
            'checkpoint to weights of that architecture'
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(weights[key])
