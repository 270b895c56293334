"""A checkpoint that is tested is the model's own."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner

from mmetris.engine.unwrapping import model_of
from mmetris.registry import HOOKS
from mmetris.utils.checkpoint_io import MisfitError


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fill the model exactly: what is missing in it would be tested at random values.

    MMEngine loads what fits and warns. ``tools/test.py`` adds this hook; for ``load_from`` of a training it is no
    mistake that a part is missing.

    Raises:
        MisfitError: When a checkpoint is loaded, if keys are missing, unexpected or of another shape (a slim
            checkpoint's frozen weights are not missing), or weights are not finite.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load it once more, strictly.

        Args:
            runner: The runner.
            checkpoint: What was read.
        """
        from mmetris.apis.model import load_weights  # It imports the models, which a hook's import need not.

        model = model_of(runner)
        try:
            load_weights(model.module if isinstance(model, BaseTTAModel) else model, checkpoint, str(runner._load_from))
        except ValueError as error:
            raise MisfitError(str(error)) from error


__all__ = ['StrictLoadHook']
