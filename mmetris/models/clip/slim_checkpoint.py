"""Slim checkpoints: what was tuned, and which frozen CLIP it belongs to.

A slim state dict lacks the weights that came from CLIP and stayed as they were; in their place stands one fingerprint
for each encoder. The encoders complete it when it is loaded (:class:`mmetris.models.clip.encoder.ClipEncoder`), so
every way of loading works: the runner's ``load_from`` and ``resume``, EMA, and
:func:`torch.nn.Module.load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from torch import Tensor, nn

from mmetris.models.clip.encoder import FINGERPRINT_KEY, ClipEncoder
from mmetris.models.clip.fingerprint import ClipFingerprint, fingerprint


def _frozen_encoders(model: nn.Module, prefix: str = '') -> Iterator[tuple[str, ClipEncoder, list[str]]]:
    """Start of the keys, encoder, and its keys that are CLIP's, for each encoder that is (partly) frozen."""
    for name, encoder in model.named_modules():
        if isinstance(encoder, ClipEncoder) and (keys := encoder.clip_keys()):
            yield f'{prefix}{name}.', encoder, keys


def unknown_clips(model: nn.Module) -> list[str]:
    """Names of the encoders that are frozen at weights which came from no CLIP file."""
    return [start[:-1] for start, encoder, _ in _frozen_encoders(model) if not encoder.has_clip_weights]


def slim_state_dict(model: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Take the frozen CLIP out of a state dict, in place.

    Args:
        model: The model it belongs to.
        state_dict: Its state dict, or one of a copy of it such as an exponential moving average.
        prefix: What stands before the model's own keys in it, e.g. ``'module.'``.

    Raises:
        ValueError: If the model has a frozen encoder without CLIP weights: a slim checkpoint of it could never be
            completed.
    """
    if unknown := unknown_clips(model):
        raise ValueError(
            f'{unknown[0]} is frozen at random weights, which a slim checkpoint would lose: set its clip_checkpoint, '
            'or save full checkpoints'
        )
    for start, encoder, keys in _frozen_encoders(model, prefix):
        for key in keys:
            state_dict.pop(start + key, None)
        state_dict[start + FINGERPRINT_KEY] = encoder.clip_fingerprint().to_tensor()


def is_slim(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a slim one."""
    return any(key.endswith(f'.{FINGERPRINT_KEY}') for key in state_dict)


def tuned_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a slim or full state dict that is not the model's frozen CLIP.

    Args:
        model: A model whose frozen CLIP is loaded.
        state_dict: State dict of the same architecture.

    Returns:
        Exactly the tensors that tell two models on this CLIP apart, by their keys in the model's state dict.

    Raises:
        ValueError: If the state dict belongs to another CLIP, or to another architecture.
    """
    state_dict, clip_keys = dict(state_dict), set()
    for start, encoder, keys in _frozen_encoders(model):
        own = encoder.clip_fingerprint()
        if (saved := state_dict.pop(start + FINGERPRINT_KEY, None)) is not None:
            other = ClipFingerprint.from_tensor(saved)
        else:
            frozen = {key: state_dict[start + key] for key in keys if start + key in state_dict}
            other = fingerprint('CLIP inside this checkpoint', encoder.hashed(frozen))
        if other.sha256 != own.sha256:
            raise ValueError(f'this checkpoint was tuned on the {other}, but the model has the {own}')
        clip_keys.update(start + key for key in keys)
    tuned = {key: value for key, value in state_dict.items() if key not in clip_keys}
    expected = {key: value.shape for key, value in model.state_dict().items() if key not in clip_keys}
    if wrong := sorted(key for key in {*expected, *tuned} if key not in tuned or expected.get(key) != tuned[key].shape):
        raise ValueError(
            f'this checkpoint is of another architecture: {len(wrong)} tensors are missing, left over or of '
            'another shape, '
            f'such as {", ".join(wrong[:3])}'
        )
    return tuned


def merge_state_dict(model: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Put the frozen CLIP back into a slim state dict, in place: the inverse of :func:`slim_state_dict`.

    Args:
        model: A model whose frozen CLIP is loaded, or that knows its file.
        state_dict: The slim state dict.
        prefix: What stands before the model's own keys in it, e.g. ``'module.'``.

    Raises:
        ValueError: If it was tuned on another CLIP.
    """
    for start, encoder, _ in _frozen_encoders(model, prefix):
        encoder.complete(state_dict, start)
