"""MMEngine's LoggerHook, whose file of test scores one process writes."""

from __future__ import annotations

from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner

from mmetris.registry import HOOKS


@HOOKS.register_module()
class MainProcessLoggerHook(LoggerHook):
    """:class:`mmengine.hooks.LoggerHook`, for tests on several processes.

    There all processes write the scores into one JSON file at the same time. Each has its own times beside them, so the
    texts differ in length, and the file may end with the rest of a longer one. Arguments are those of the base.
    """

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the scores, in the main process."""
        if is_main_process():
            super().after_test_epoch(runner, metrics)
