"""Several tuned models over one frozen CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmetris.models.encoders.slim_checkpoint import tuned_weights


class TaskSwitcher:
    """Hold the tuned weights of several tasks and put one of them at a time onto one model.

    The frozen CLIP is in memory once. Each task adds its tuned part only (for ETRIS on ViT-B/16 24 M of 173 M
    parameters), and switching copies no more than that.

    Args:
        model: A model whose frozen CLIP is loaded, e.g. from :func:`mmetris.apis.init_model`.

    Example:
        >>> switcher = TaskSwitcher(model)
        >>> switcher.add('refcoco', torch.load('refcoco_slim.pth')['state_dict'])
        >>> switcher.add('g-ref', torch.load('g-ref_slim.pth')['state_dict'])
        >>> with switcher.use('refcoco'):
        ...     model.test_step(data)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.current: str | None = None
        self._tasks: dict[str, dict[str, Tensor]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which they came."""
        return tuple(self._tasks)

    def add(self, name: str, state_dict: Mapping[str, Tensor]) -> None:
        """Add a task's slim or full state dict; of a full one, the CLIP inside is compared and dropped.

        Raises:
            ValueError: If the name is taken, or the weights were tuned on another CLIP or belong to another
                architecture.
        """
        if name in self._tasks:
            raise ValueError(f'there is a task {name!r} already; remove it first')
        device = next(self.model.parameters()).device
        self._tasks[name] = {
            key: value.detach().to(device, copy=True) for key, value in tuned_weights(self.model, state_dict).items()
        }

    def remove(self, name: str) -> None:
        """Forget a task and free its memory.

        Raises:
            KeyError: If there is no such task.
        """
        self._task(name)
        del self._tasks[name]
        if self.current == name:
            self.current = None

    @torch.no_grad()
    def switch(self, name: str) -> None:
        """Put a task's weights onto the model.

        Raises:
            KeyError: If there is no such task.
        """
        task = self._task(name)
        if name == self.current:
            return
        own = self.model.state_dict()
        for key, value in task.items():
            own[key].copy_(value)
        self.current = name

    @contextmanager
    def use(self, name: str) -> Iterator[nn.Module]:
        """The model with a task's weights; afterwards the task before is back.

        Raises:
            KeyError: If there is no such task.
        """
        before = self.current
        self.switch(name)
        try:
            yield self.model
        finally:
            if before is not None:
                self.switch(before)

    def _task(self, name: str) -> dict[str, Tensor]:
        if name not in self._tasks:
            raise KeyError(f'no task {name!r}; there are {list(self._tasks)}')
        return self._tasks[name]
