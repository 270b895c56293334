"""How an optimizer takes its steps: what MMEngine has no wrapper for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.optim import OptimWrapper
from torch import nn

from mmetris.registry import OPTIM_WRAPPERS
from mmetris.utils.autocast import autocast_to


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` with losses computed in bfloat16, by autocast.

    Parameters, gradients and optimizer states stay float32. The loss is not scaled, as it must be for float16: bfloat16
    has float32's range. It runs on CPUs too, which MMEngine's ``AmpOptimWrapper`` refuses. Gradients are accumulated
    and clipped by the base class, whose arguments it takes.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Where the losses of a step are computed.

        Args:
            model: The model, perhaps in a wrapper of several processes.
        """
        # By the model's device: MMEngine's own function would take a GPU that the model is not on.
        device_type = next(model.parameters()).device.type
        with super().optim_context(model), autocast_to('bfloat16', device_type):
            yield


__all__ = ['BFloat16OptimWrapper']
