"""What autocast is set to, by every release of torch."""

from __future__ import annotations

import torch


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Type that autocast computes in at this place of the program, None where it is off.

    Args:
        device_type: ``'cpu'``, ``'cuda'``, ...
    """
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4 and newer
        return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
    if device_type == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
