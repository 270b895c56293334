"""Checkpoints without the frozen CLIP."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmetris.registry import HOOKS
from mmetris.utils.slim_checkpoint import slim_state_dict


@HOOKS.register_module()
class SlimCheckpointHook(Hook):
    """Save what was tuned and what is not CLIP's, with a fingerprint of the frozen CLIP in place of its weights.

    Optimizer state, moving averages and the runner's own state are saved as ever. Without this hook checkpoints are
    full.

    Raises:
        ValueError: When saving, if an encoder is frozen at random weights.
    """

    # After EMAHook, which exchanges the entries of two full state dicts.
    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        slim_state_dict(model, checkpoint['state_dict'])
        if 'ema_state_dict' in checkpoint:
            slim_state_dict(model, checkpoint['ema_state_dict'], prefix='module.')
