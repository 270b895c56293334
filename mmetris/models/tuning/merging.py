"""Tuning methods put into the weights that they change, so that a model costs what the plain one costs."""

from __future__ import annotations

from torch import nn

from ..encoders.frozen_encoder import FrozenEncoder


def merge_tuning(model: nn.Module) -> list[str]:
    """Merge all tuning methods of a model into its encoders' weights, in place, where that is exact.

    Exact but for rounding: the sums are made in double precision, and stored in the weights' own. The encoders' weights
    are then no longer those of their files: full checkpoints are to be saved of such a model.

    Args:
        model: A model with :class:`FrozenEncoder` in it, in evaluation.

    Returns:
        What was merged: ``'text_encoder.tuning.lora'``.

    Raises:
        ValueError: If a method cannot be merged, or there is none; nothing is merged then.
    """
    encoders = {name: module for name, module in model.named_modules() if isinstance(module, FrozenEncoder)}
    methods = [
        (f'{encoder_name}.tuning.{name}'.lstrip('.'), encoder, name)
        for encoder_name, encoder in encoders.items()
        for name in encoder.tuning
    ]
    if not methods:
        raise ValueError(f'{type(model).__name__} has no tuning method to merge')
    for path, encoder, name in methods:
        encoder.ensure_pretrained()
        try:
            encoder.tuning[name].check_mergeable()
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None
    for _, encoder, name in methods:
        encoder.tuning[name].merge()
        del encoder.tuning[name]
        encoder.tuning_changed()
        # No file holds these weights any longer.
        encoder.source, encoder.has_pretrained_weights = None, False
    return [path for path, _, _ in methods]
