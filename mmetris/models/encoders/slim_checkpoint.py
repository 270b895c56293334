"""Slim checkpoints: what was tuned, and which frozen weights it belongs to.

A slim state dict lacks the weights that came with the pretrained encoders and stayed as they were; in their place
stands one fingerprint for each encoder. The encoders complete it when it is loaded (:class:`FrozenEncoder`), so every
way of loading works: the runner's ``load_from`` and ``resume``, EMA, and :func:`torch.nn.Module.load_state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from torch import Tensor, nn

from .fingerprint import Fingerprint
from .frozen_encoder import FINGERPRINT_KEY, FrozenEncoder


def _frozen_encoders(model: nn.Module, prefix: str = '') -> Iterator[tuple[str, FrozenEncoder, list[str]]]:
    """Start of the keys, encoder, and its keys that never change, for each encoder that is (partly) frozen."""
    for name, encoder in model.named_modules():
        if isinstance(encoder, FrozenEncoder) and (keys := encoder.frozen_keys()):
            yield f'{prefix}{name}.', encoder, keys


def read_pretrained(model: nn.Module) -> None:
    """Read the pretrained weights of all encoders of a model that have not read theirs.

    Whoever is about to load a slim checkpoint does this first, so that weights which are missing or others are told at
    once, and not when the encoder is first used.

    Args:
        model: Any model.

    Raises:
        FileNotFoundError: If a file of weights is not there.
        ValueError: If one does not fit its encoder.
    """
    for _, encoder, _ in _frozen_encoders(model):
        if not (encoder.has_pretrained_weights or encoder.weights_are_spread):
            encoder.read_pretrained()


def frozen_at_random(model: nn.Module) -> list[str]:
    """Names of the encoders that are frozen at weights which came from no file."""
    return [start[:-1] for start, encoder, _ in _frozen_encoders(model) if not encoder.has_pretrained_weights]


def slim_state_dict(model: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Take the frozen weights out of a state dict, in place.

    Args:
        model: The model it belongs to.
        state_dict: Its state dict, or one of a copy of it such as an exponential moving average.
        prefix: What stands before the model's own keys in it, e.g. ``'module.'``.

    Raises:
        ValueError: If the model has an encoder that is frozen at random weights: a slim checkpoint of it could never be
            completed.
    """
    for start, encoder, _ in _frozen_encoders(model):
        if not encoder.has_pretrained_weights:
            raise ValueError(
                f'{start[:-1]} is frozen at random weights, or at those of a full checkpoint, which a slim one would '
                f'lose: set its {encoder.source_argument} to the file that they come from, or save full checkpoints'
            )
    for start, encoder, keys in _frozen_encoders(model, prefix):
        for key in keys:
            state_dict.pop(start + key, None)
        state_dict[start + FINGERPRINT_KEY] = encoder.fingerprint().to_tensor()


def is_slim(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a slim one."""
    return any(key.endswith(f'.{FINGERPRINT_KEY}') for key in state_dict)


def tuned_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a slim or full state dict that is not the model's frozen encoders.

    Args:
        model: A model whose frozen encoders have their weights.
        state_dict: State dict of the same architecture.

    Returns:
        Exactly the tensors that tell two models on these encoders apart, by their keys in the model's state dict.

    Raises:
        ValueError: If the state dict belongs to other frozen weights, to another tuning method, or to another
            architecture.
    """
    state_dict = dict(state_dict)
    all_frozen: set[str] = set()
    for start, encoder, keys in _frozen_encoders(model):
        encoder.check_tuning(state_dict, start)
        own = encoder.fingerprint()
        if (saved := state_dict.pop(start + FINGERPRINT_KEY, None)) is not None:
            other = Fingerprint.from_tensor(saved)
        else:
            frozen = {key: state_dict[start + key] for key in keys if start + key in state_dict}
            other = encoder.fingerprint_of(frozen)
        if other.sha256 != own.sha256:
            raise ValueError(f'this checkpoint was tuned on the {other}, but the model has the {own}')
        all_frozen.update(start + key for key in keys)
    tuned = {key: value for key, value in state_dict.items() if key not in all_frozen}
    expected = {key: value.shape for key, value in model.state_dict().items() if key not in all_frozen}
    if wrong := sorted(key for key in {*expected, *tuned} if key not in tuned or expected.get(key) != tuned[key].shape):
        raise ValueError(
            f'this checkpoint is of another architecture: {len(wrong)} tensors are missing, left over or of '
            'another shape, '
            f'such as {", ".join(wrong[:3])}'
        )
    return tuned


def share_frozen_weights(model: nn.Module, other: nn.Module) -> None:
    """Let a second model use the frozen weights of a first one, so that they are in memory once.

    Args:
        model: A model whose frozen encoders have their weights.
        other: Another one, with encoders of the same names on the same weights; changed in place. What is tuned in
            either of them stays its own.

    Raises:
        ValueError: If an encoder is frozen at other weights, or the first model has none of its name.
    """
    read_pretrained(other)
    encoders = {start: encoder for start, encoder, _ in _frozen_encoders(model)}
    for start, encoder, _ in _frozen_encoders(other):
        if start not in encoders:
            raise ValueError(f'the first model has no frozen {start[:-1]} whose weights could be shared')
        try:
            encoder.pretrained.share(encoders[start].pretrained)
        except ValueError as error:
            raise ValueError(f'{start}{error}') from None


def merge_state_dict(model: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Put the frozen weights back into a slim state dict, in place: the inverse of :func:`slim_state_dict`.

    Args:
        model: A model whose frozen encoders have their weights, or know their files.
        state_dict: The slim state dict.
        prefix: What stands before the model's own keys in it, e.g. ``'module.'``.

    Raises:
        FileNotFoundError: If a file of frozen weights is not there.
        ValueError: If the state dict was tuned on other weights.
    """
    read_pretrained(model)
    for start, encoder, _ in _frozen_encoders(model, prefix):
        encoder.complete(state_dict, start)
