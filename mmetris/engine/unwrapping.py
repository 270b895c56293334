"""The model inside whatever spreads a training over processes."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def model_of(runner: Runner) -> nn.Module:
    """A runner's model, without the wrapper of DDP, FSDP or another one.

    Args:
        runner: The runner.
    """
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
