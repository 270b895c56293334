"""MMEngine's activation checkpointing, with every gradient."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmetris.engine.activation_checkpointing import checkpoint_activations
from mmetris.engine.unwrapping import model_of
from mmetris.registry import HOOKS


@HOOKS.register_module()
class ActivationCheckpointHook(Hook):
    """Let the modules of the config's ``activation_checkpointing`` keep the gradients of all that is tuned in them.

    The runner turns them on in PyTorch's reentrant way, which gives no gradient to what is tuned in a module whose
    input asks for none: the first tuned block of a frozen encoder. See :func:`checkpoint_activations`.
    """

    def before_train(self, runner: Runner) -> None:
        """Take over what the runner has turned on."""
        if modules := runner.cfg.get('activation_checkpointing'):
            checkpoint_activations(model_of(runner), modules)
