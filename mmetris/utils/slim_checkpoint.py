"""Slim checkpoints: what was tuned, and which frozen CLIP it belongs to.

A slim state dict lacks the weights that came from CLIP and stayed as they were; in their place stands one fingerprint for each
encoder. The encoders complete it when it is loaded (:class:`mmetris.models.clip.encoder.ClipEncoder`), so every way of loading
works: the runner's ``load_from`` and ``resume``, EMA, and :func:`torch.nn.Module.load_state_dict`.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from torch import Tensor, nn

from mmetris.models.clip.encoder import FINGERPRINT_KEY, ClipEncoder


def slim_state_dict(model: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Take the frozen CLIP out of a state dict, in place.

    Args:
        model: The model it belongs to.
        state_dict: Its state dict, or one of a copy of it such as an exponential moving average.
        prefix: What stands before the model's own keys in it, e.g. ``'module.'``.

    Raises:
        ValueError: If the model has a frozen encoder without CLIP weights: a slim checkpoint of it could never be completed.
    """
    for name, encoder in model.named_modules():
        if not isinstance(encoder, ClipEncoder) or not (keys := encoder.clip_keys()):
            continue
        if not encoder.has_clip_weights:
            raise ValueError(f'{name} is frozen at random weights, which a slim checkpoint would lose: set its clip_checkpoint, '
                             'or save full checkpoints')
        start = f'{prefix}{name}.'
        for key in keys:
            state_dict.pop(start + key, None)
        state_dict[start + FINGERPRINT_KEY] = encoder.clip_fingerprint().to_tensor()


def is_slim(state_dict: MutableMapping[str, Tensor]) -> bool:
    """Whether a state dict is a slim one."""
    return any(key.endswith(f'.{FINGERPRINT_KEY}') for key in state_dict)
