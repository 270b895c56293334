"""The end of a training, or of one step, whose loss or weights are no numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor

from mmetris.registry import HOOKS
from mmetris.utils.checkpoint_io import NonFiniteLossError, listed, not_finite

POLICIES = ('raise', 'skip')
_NAMED_SAMPLES = 8  # Of a larger batch the message names the first ones.


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Look at each loss before it is propagated back: NaN or Inf would be in all weights after the step.

    The error names iteration, learning rate, images and sentences of this process's batch, and weights that are not
    finite themselves. MMEngine would train on, save ``nan`` and end as if nothing had been. Weights that the last step
    before a checkpoint ruined are not saved either.

    Args:
        policy: 'raise' ends the training with :class:`~mmetris.utils.checkpoint_io.NonFiniteLossError`; 'skip' leaves
            the batch out in all processes (no gradients, no step of the optimizer, losses not logged), warns, and
            counts in the log how many were. Defaults to 'raise'.
        patience: With 'skip', how many batches may be left out one after the other before it is an error after
            all: then it is not the batch. Defaults to 10.

    Raises:
        ValueError: If ``policy`` or ``patience`` has no such value, or at the start of a training by FSDP or
            DeepSpeed with 'skip': their forward pass waits for its backward pass.
    """

    # Before MMEngine's RuntimeInfoHook puts the losses of a step into the log.
    priority = 'HIGHEST'

    def __init__(self, policy: str = 'raise', patience: int = 10) -> None:
        if policy not in POLICIES:
            raise ValueError(f'policy of FiniteLossHook must be one of {", ".join(POLICIES)}, but is {policy!r}')
        if patience < 1:
            raise ValueError(f'patience of FiniteLossHook must be at least 1, but is {patience}')
        self.policy = policy
        self.patience = patience
        self.skipped = 0
        self._in_a_row = 0
        self._batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Stand between model and optimizer: all of MMEngine's model wrappers hand the loss to ``update_params``.

        Args:
            runner: The runner.
        """
        kind = type(runner.model).__name__
        if self.policy == 'skip' and any(word in kind for word in ('FullySharded', 'DeepSpeed', 'ColossalAI')):
            raise ValueError(f"FiniteLossHook(policy='skip') does not go with {kind}: take policy='raise'")
        wrapper = runner.optim_wrapper
        update = wrapper.update_params

        def update_if_finite(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if self._is_finite(loss):
                self._in_a_row = 0
                update(loss, *args, **kwargs)
            else:
                self._refuse(runner, loss)

        wrapper.update_params = update_if_finite

    def after_train(self, runner: Runner) -> None:
        """Give the optimizer's wrapper its own method back.

        Args:
            runner: The runner.
        """
        vars(runner.optim_wrapper).pop('update_params', None)
        self._batch = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, whose samples an error names.

        Args:
            runner: The runner.
            batch_idx: Not used.
            data_batch: What the data loader gave.
        """
        self._batch = data_batch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the losses of a batch that was left out away from the log's averages.

        Args:
            runner: The runner.
            batch_idx: Not used.
            data_batch: Not used.
            outputs: Losses by name, emptied for such a batch.
        """
        if self._in_a_row and outputs is not None:
            outputs.clear()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite.

        Args:
            runner: The runner.
            checkpoint: What is about to be saved.

        Raises:
            NonFiniteLossError: If a weight or a statistic is NaN or infinite.
        """
        if names := not_finite(checkpoint.get('state_dict', {})):
            raise NonFiniteLossError(
                f'The weights after iteration {runner.iter} are not saved, since they are not finite: {listed(names)}; '
                f'learning rate {_learning_rate(runner)}. The checkpoints before are as they were'
            )

    def _is_finite(self, loss: Tensor) -> bool:
        finite = torch.isfinite(loss.detach()).all()
        if self.policy == 'skip':
            # A process that went on alone would wait for the gradients of the others for ever.
            agreed = finite.to(torch.int32)
            all_reduce(agreed, 'min')
            return bool(agreed)
        return bool(finite)

    def _refuse(self, runner: Runner, loss: Tensor) -> None:
        own = 'of another process' if torch.isfinite(loss).all() else f'{float(loss.detach().float().sum())}'
        what = (
            f'The loss of {_step(runner)} is {own}; learning rate {_learning_rate(runner)}. '
            f'Batch of this process: {_describe(self._batch)}.'
        )
        if names := not_finite(dict(runner.model.named_parameters())):
            what += f' Weights that are not finite: {listed(names)}.'
        if self.policy == 'raise' or names or self._in_a_row >= self.patience:
            before = f' {self._in_a_row} batches before it were left out, too.' if self._in_a_row else ''
            advice = (
                'the learning rate is too high, or what was loaded is not finite'
                if names
                else "look at these samples, or leave such batches out: FiniteLossHook(policy='skip') in custom_hooks"
            )
            raise NonFiniteLossError(f'{what}{before} Nothing of it was saved; {advice}')
        self._in_a_row += 1
        self.skipped += 1
        runner.logger.warning(f'{what} It is left out, the {self.skipped}. of this run')


def _step(runner: Runner) -> str:
    iteration = f'iteration {runner.iter + 1}'
    return iteration if isinstance(runner.train_loop, IterBasedTrainLoop) else f'epoch {runner.epoch + 1}, {iteration}'


def _learning_rate(runner: Runner) -> str:
    rates = {value for values in runner.optim_wrapper.get_lr().values() for value in values}
    return ' to '.join(f'{value:g}' for value in sorted({min(rates), max(rates)}))


def _describe(batch: Any) -> str:
    """Images and sentences of a batch, as far as it has data samples."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not isinstance(samples, Iterable):
        return 'not known'
    samples = list(samples)
    named = []
    for sample in samples[:_NAMED_SAMPLES]:
        expression = getattr(sample, 'expression', None)
        named.append(f'{getattr(sample, "img_path", "?")}' + ('' if expression is None else f' "{expression}"'))
    more = len(samples) - len(named)
    return '; '.join(named) + (f'; and {more} more' if more else '')


__all__ = ['FiniteLossHook']
