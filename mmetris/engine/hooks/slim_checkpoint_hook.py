"""Checkpoints without the frozen CLIP."""

from __future__ import annotations

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmetris.engine.unwrapping import model_of
from mmetris.models.encoders.slim_checkpoint import frozen_at_random, is_slim, read_pretrained, slim_state_dict
from mmetris.registry import HOOKS


@HOOKS.register_module()
class SlimCheckpointHook(Hook):
    """Save what was tuned and what is not CLIP's, with a fingerprint of the frozen CLIP in place of its weights.

    Optimizer state, moving averages and the runner's own state are saved as ever. Without this hook checkpoints are
    full. They are full as well, with a warning at the start, where an encoder is frozen at random weights, which
    nothing could bring back.
    """

    # After EMAHook, which exchanges the entries of two full state dicts.
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        if unknown := frozen_at_random(model_of(runner)):
            print_log(
                f'{" and ".join(unknown)} frozen at random weights (no file of them is set): checkpoints will be full',
                logger='current',
                level=logging.WARNING,
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Have the encoders read the weights that a slim checkpoint lacks, before it is loaded."""
        if is_slim(checkpoint.get('state_dict', {})):
            read_pretrained(model_of(runner))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = model_of(runner)
        if frozen_at_random(model):
            return
        slim_state_dict(model, checkpoint['state_dict'])
        if 'ema_state_dict' in checkpoint:
            slim_state_dict(model, checkpoint['ema_state_dict'], prefix='module.')
