"""Several tuned models over one frozen CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmetris.models.encoders.slim_checkpoint import share_frozen_weights, tuned_weights


class _Task(NamedTuple):
    model: nn.Module
    weights: dict[str, Tensor]


class TaskSwitcher:
    """Hold the tuned weights of several tasks, and put one of them at a time onto a model.

    The frozen CLIP is in memory once. Each task adds its tuned part only (for ETRIS on ViT-B/16 24 M of 173 M
    parameters), and switching copies no more than that. Tasks that were tuned by other methods, or have other heads,
    bring a model of their own, which then shares the CLIP.

    Args:
        model: A model whose frozen CLIP is loaded, e.g. from :func:`mmetris.apis.init_model`.

    Example:
        >>> switcher = TaskSwitcher(model)
        >>> switcher.add('refcoco', torch.load('refcoco_slim.pth')['state_dict'])
        >>> switcher.add('g-ref', torch.load('g-ref_slim.pth')['state_dict'])
        >>> switcher.add('by lora', torch.load('lora_slim.pth')['state_dict'], model=init_model('lora_config.py'))
        >>> with switcher.use('refcoco') as model:
        ...     model.test_step(data)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.current: str | None = None
        self._tasks: dict[str, _Task] = {}
        self._on_model: dict[int, str] = {}  # Whose weights a model has now.

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which they came."""
        return tuple(self._tasks)

    def add(self, name: str, state_dict: Mapping[str, Tensor], model: nn.Module | None = None) -> None:
        """Add a task's slim or full state dict; of a full one, the CLIP inside is compared and dropped.

        Args:
            name: What the task is called.
            state_dict: Its weights.
            model: The model that they are of, on the same CLIP; its frozen weights become those of the switcher's own
                model, so that what it held of them is free. Several tasks may have it. Defaults to None: the
                switcher's own.

        Raises:
            ValueError: If the name is taken, or the weights were tuned on another CLIP, by another method or belong to
                another architecture.
        """
        if name in self._tasks:
            raise ValueError(f'there is a task {name!r} already; remove it first')
        model = self.model if model is None else model
        device = next(self.model.parameters()).device
        weights = {key: value.detach().to(device, copy=True) for key, value in tuned_weights(model, state_dict).items()}
        if model is not self.model:
            model.to(device)
            share_frozen_weights(self.model, model)
        self._tasks[name] = _Task(model, weights)

    def remove(self, name: str) -> None:
        """Forget a task and free its memory.

        Raises:
            KeyError: If there is no such task.
        """
        task = self._task(name)
        del self._tasks[name]
        if self._on_model.get(id(task.model)) == name:
            del self._on_model[id(task.model)]
        if self.current == name:
            self.current = None

    @torch.no_grad()
    def switch(self, name: str) -> nn.Module:
        """Put a task's weights onto its model.

        Returns:
            The model.

        Raises:
            KeyError: If there is no such task.
        """
        task = self._task(name)
        if self._on_model.get(id(task.model)) != name:
            own = task.model.state_dict()
            for key, value in task.weights.items():
                own[key].copy_(value)
            self._on_model[id(task.model)] = name
        self.current = name
        return task.model

    @contextmanager
    def use(self, name: str) -> Iterator[nn.Module]:
        """The model with a task's weights; afterwards the task before is back.

        Raises:
            KeyError: If there is no such task.
        """
        before = self.current
        model = self.switch(name)
        try:
            yield model
        finally:
            if before is not None:
                self.switch(before)

    def _task(self, name: str) -> _Task:
        if name not in self._tasks:
            raise KeyError(f'no task {name!r}; there are {list(self._tasks)}')
        return self._tasks[name]
