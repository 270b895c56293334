"""``torch.compile`` for a whole run."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmetris.engine.compiling import compile_parts
from mmetris.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile Bridger (with both encoders) and decoder before training, validation or test begin.

    MMEngine's own setting ``compile=True`` compiles the whole training step, in which samples, losses and logging break
    the graph in many places. Here each part is one graph.

    Args:
        options: Arguments of :func:`torch.compile`. Defaults to None: torch's.

    Raises:
        ValueError: When the run begins, if the model has no Bridger and decoder as parts of its own, or is spread over
            processes (FSDP), whose gathering would break the graphs again.
    """

    def __init__(self, options: dict | None = None) -> None:
        self.options = dict(options or {})

    def before_run(self, runner: Runner) -> None:
        """Mark the parts; the first iteration compiles them."""
        model = runner.model
        while not hasattr(model, 'neck') and isinstance(getattr(model, 'module', None), nn.Module):
            model = model.module  # Of DDP, or of test-time augmentation.
        if any(getattr(part, 'weights_are_spread', False) for part in model.modules()):
            raise ValueError(
                'CompileHook does not go with FSDP, which gathers weights in between: leave it out, or train with DDP'
            )
        compile_parts(model, **self.options)
        runner.logger.info(
            'Bridger and decoder are compiled at their first call, which takes minutes, and again where sizes change'
        )
