"""Identity of a frozen encoder, so that weights tuned on one are never put onto another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Fingerprint(NamedTuple):
    """Name and hash of the frozen weights of one encoder.

    Args:
        name: Architecture and source of the weights, for people.
        sha256: Hash over names, shapes and single-precision values of the frozen weights.
    """

    name: str
    sha256: str

    def to_tensor(self) -> Tensor:
        """As bytes in a tensor, which every format of checkpoints can hold."""
        return torch.tensor(list(json.dumps(self._asdict()).encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: Tensor) -> Fingerprint:
        """The inverse of :meth:`to_tensor`.

        Raises:
            ValueError: If the bytes are no fingerprint.
        """
        try:
            return cls(**json.loads(bytes(data.tolist())))
        except (TypeError, ValueError) as error:
            raise ValueError('the fingerprint of a frozen encoder in this checkpoint is damaged') from error

    def __str__(self) -> str:
        return f'{self.name} ({self.sha256[:12]})'


def fingerprint(name: str, weights: Mapping[str, Tensor]) -> Fingerprint:
    """Hash weights, whatever their device, dtype and order.

    Args:
        name: What people call these weights.
        weights: The tensors by name.
    """
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key].detach().float().cpu().contiguous()
        digest.update(f'{key}{tuple(value.shape)}'.encode())
        digest.update(value.numpy().tobytes())
    return Fingerprint(name, digest.hexdigest())
