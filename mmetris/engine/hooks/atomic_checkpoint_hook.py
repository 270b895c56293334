"""Checkpoints of which a kill at any moment leaves one that the training goes on from."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmetris.registry import HOOKS
from mmetris.utils.checkpoint_io import (
    CheckpointNotSavedError,
    put_in_place,
    read_checkpoint,
    remove,
    save_checkpoint,
    unfinished_path,
)
from mmetris.utils.work_folder import (
    LAST_CHECKPOINT,
    SCORES,
    find_resumable,
    out_dir_of,
    problem_of,
    read_scores,
    remove_unfinished,
    write_scores,
    write_text,
)

_REPLACED = 'replaced_ckpts'  # In the message hub: best checkpoints that are removed once this one is whole.


def validation_is_due(runner: Runner) -> bool:
    """Whether the training loop validates after what it has done so far.

    Args:
        runner: A runner in training, between two epochs, or two iterations of a training by iterations.
    """
    loop = runner.train_loop
    if runner.val_loop is None or not hasattr(loop, '_decide_current_val_interval'):
        return False
    loop._decide_current_val_interval()
    if isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter, loop.max_iters
    elif loop.iter != loop.epoch * len(loop.dataloader):
        return False  # Resumed from within an epoch, or the epochs had another length: their ends were validated.
    else:
        done, last = loop.epoch, loop.max_epochs
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with its arguments, whose checkpoints survive a kill at any moment.

    Each checkpoint is written under another name (``.epoch_3.pth.unfinished``), synced to the disk and renamed; then
    ``last_checkpoint`` is written the same way; then the older one is removed. So there is always one to resume from.
    The best checkpoint is replaced in the same order, after the checkpoint that knows of its score.

    A resumed training

    - removes what was being written;
    - compares the best score with the file it belongs to: what is really there counts, by the score it was saved with;
    - validates where the kill came between an epoch and the end of its validation. Which are over stands in
      ``validation_scores.json`` of the work folder.

    A full disk, or any other error of writing, ends the training in all processes with
    :class:`CheckpointNotSavedError`; the checkpoints before are as they were.

    Backends other than the local disk (``out_dir='s3://...'``) write as MMEngine does; the older checkpoint goes after
    the new one there too.
    """

    keep_ckpt_ids: deque[int]
    _replaced: list[str]
    _is_unsaved = False  # Whether the best scores are others than the checkpoint has that was resumed.
    _trains = False  # `runner.val()` by itself has no training whose best checkpoint this could be.

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint to resume from, where MMEngine would take whatever ``last_checkpoint`` names.

        Args:
            runner: The runner.
        """
        if runner._resume and runner._load_from is None:
            found = find_resumable(runner.work_dir, out_dir_of(self.out_dir, runner.work_dir), runner.logger.info)
            runner._load_from = None if found is None else str(found)

    def before_train(self, runner: Runner) -> None:
        """Tidy up after a kill, and make up for what it cut off.

        Args:
            runner: The runner.
        """
        super().before_train(runner)
        self._trains = True
        self._replaced = []
        if not self._is_local:
            return
        if is_main_process():
            for folder in {str(self.out_dir), runner.work_dir}:
                for path in remove_unfinished(Path(folder)):
                    runner.logger.info(f'{path} was being written when the last run ended; it is removed')
            # Of iterations that this run has not reached, or of an earlier training in this folder.
            scores = read_scores(runner.work_dir)
            reached = {step: scores[step] for step in scores if step <= runner.iter and runner.iter > 0}
            if reached != scores:
                write_scores(runner.work_dir, reached)
        if runner.iter == 0:
            return
        self.last_ckpt = self._here(runner.message_hub.get_info('last_ckpt'))
        lost = self._agree_with_files(runner)
        is_over = broadcast(runner.iter in read_scores(runner.work_dir))
        if (lost or not is_over) and validation_is_due(runner):
            runner.logger.info(f'Iteration {runner.iter} was not validated to its end before the kill: made up for now')
            runner.val_loop.run()
        if self._is_unsaved and self.last_ckpt is not None:
            # There may be no other checkpoint to come: the training may be over but for this.
            done = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(runner, done, dict(epoch=runner.epoch, iter=runner.iter))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Save the best checkpoint, then note that this validation is over. Outside of a training neither.

        Args:
            runner: The runner.
            metrics: Scores by name.
        """
        if not self._trains:
            return
        super().after_val_epoch(runner, metrics)

        def note() -> None:
            if is_main_process():
                write_scores(runner.work_dir, read_scores(runner.work_dir) | {runner.iter: metrics})

        if self._is_local and runner.iter > 0:
            _all_or_error(note, Path(runner.work_dir) / SCORES)

    @property
    def _is_local(self) -> bool:
        # `file_client_args`, which MMEngine still takes, gives a client around the backend.
        backend = getattr(self.file_backend, 'client', self.file_backend)
        return isinstance(backend, LocalBackend) and '://' not in str(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :], self.max_keep_ckpts)
            # With those that are there until this one is: a run resumed from it removes them, if this one cannot.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info(_REPLACED, list(self._replaced))
        last = Path(runner.work_dir) / LAST_CHECKPOINT
        self._save(
            runner,
            name,
            then=lambda: write_text(last, str(self.last_ckpt)),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            **self.args,
        )
        if is_main_process():
            for number in outdated:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(number)))
        self._remove_replaced(runner)
        self._is_unsaved = False
        if self.max_keep_ckpts > 0:
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        done, unit = (runner.epoch, 'epoch') if self.by_epoch else (runner.iter, 'iter')
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        is_better = False
        for indicator, rule in zip(self.key_indicators, self.rules):
            if indicator not in metrics:
                raise ValueError(
                    f'save_best={indicator!r} of default_hooks.checkpoint is none of the scores of validation: '
                    f'{", ".join(metrics) or "there are none"}. The checkpoint of this {unit} is saved: name one of '
                    'them and go on with --resume'
                )
            score_key, path_key = self._info_keys(indicator)
            score = metrics[indicator]
            before = runner.message_hub.get_info(score_key, self.init_value_map[rule])
            if score is None or not self.is_better_than[indicator](score, before):
                continue
            is_better = True
            name = self._best_name(indicator, self.filename_tmpl.format(done))
            path = self.file_backend.join_path(self.out_dir, name)
            self._replace_best(indicator, path)
            runner.message_hub.update_info(score_key, score)
            runner.message_hub.update_info(path_key, path)
            self._save(runner, name, save_optimizer=False, save_param_scheduler=False, meta=meta, by_epoch=False)
            runner.logger.info(
                f'The best checkpoint with {score:0.4f} {indicator} at {done} {unit} is saved to {name}.'
            )
        if is_better and self.last_ckpt is not None:
            # Once more, with the score and the name of the best one.
            self._save_checkpoint_with_step(runner, done, meta)
        elif is_better:
            self._remove_replaced(runner)

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        if not os.path.isfile(ckpt_path):
            runner.logger.warning(f'{ckpt_path} is no file on this machine and is not published')
            return
        content = {
            key: value for key, value in read_checkpoint(ckpt_path).items() if key in (self.published_keys or ())
        }
        published = f'{os.path.splitext(ckpt_path)[0]}-{hashlib.sha256(pickle.dumps(content)).hexdigest()[:8]}.pth'
        save_checkpoint(published, content)
        runner.logger.info(f'The checkpoint ({ckpt_path}) is published to {published}.')

    def _save(self, runner: Runner, name: str, then: Callable[[], None] | None = None, **kwargs: Any) -> None:
        """Let the runner write a checkpoint, and give it its name when all processes have written their part.

        Args:
            runner: The runner.
            name: Name of the checkpoint in ``out_dir``.
            then: What the first process does when the checkpoint has its name.
            **kwargs: For the runner's ``save_checkpoint``.
        """
        path = Path(str(self.out_dir)) / name
        temporary = unfinished_path(path)

        def write() -> None:
            kwargs['backend_args'] = self.backend_args
            runner.save_checkpoint(
                self.out_dir, temporary.name if self._is_local else name, self.file_client_args, **kwargs
            )

        def finish() -> None:
            if is_main_process():
                if self._is_local:
                    put_in_place(temporary, path)
                if then is not None:
                    then()

        try:
            # Between the two each process knows of the others: a part that is missing gives no whole.
            for step in (write, finish):
                _all_or_error(step, path)
        except BaseException:  # A signal that ends the program, too.
            if is_main_process():
                remove(temporary)
            raise

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    # The best checkpoint.

    def _info_keys(self, indicator: str) -> tuple[str, str]:
        """Where MMEngine's message hub has a best score and its file."""
        if len(self.key_indicators) == 1:
            return 'best_score', 'best_ckpt'
        return f'best_score_{indicator}', f'best_ckpt_{indicator}'

    @staticmethod
    def _best_name(indicator: str, name: str) -> str:
        return f'best_{indicator}_{name}'.replace('/', '_')

    def _best_path(self, indicator: str) -> str | None:
        return self.best_ckpt_path if len(self.key_indicators) == 1 else self.best_ckpt_path_dict.get(indicator)

    def _set_best_path(self, indicator: str, path: str | None) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[indicator] = path

    def _replace_best(self, indicator: str, path: str | None) -> None:
        """Name another file the best one; the one before goes when a checkpoint knows of it."""
        before = self._best_path(indicator)
        if before is not None and before != path and self._is_here(before):
            self._replaced.append(before)
        self._set_best_path(indicator, path)

    def _remove_replaced(self, runner: Runner) -> None:
        for path in self._replaced:
            if is_main_process():
                self._remove(path)
                runner.logger.info(f'The previous best checkpoint {path} is removed')
        self._replaced = []

    def _agree_with_files(self, runner: Runner) -> bool:
        """Have the best scores agree with the best files that are really there.

        Args:
            runner: A runner that was resumed.

        Returns:
            Whether a score was given up, since its file is gone.
        """
        hub = runner.message_hub
        lost = False
        for indicator, rule in zip(self.key_indicators, self.rules) if self.save_best else ():
            score_key, path_key = self._info_keys(indicator)
            recorded = self._here(self._best_path(indicator))
            found, said = broadcast(
                self._find_best(indicator, rule, hub.get_info(score_key), recorded, runner.iter)
                if is_main_process()
                else None
            )
            for line in said:
                runner.logger.warning(line)
            self._set_best_path(indicator, recorded)
            if found is not None:
                score, path = found
                self._is_unsaved = self._is_unsaved or path != recorded
                self._replace_best(indicator, path)
                hub.update_info(score_key, score)
                hub.update_info(path_key, path)
            elif recorded is not None:
                lost = self._is_unsaved = True
                self._set_best_path(indicator, None)
                hub.runtime_info.pop(score_key, None)
                hub.runtime_info.pop(path_key, None)
        best = {self._best_path(indicator) for indicator in self.key_indicators} if self.save_best else set()
        for path in map(self._here, hub.get_info(_REPLACED) or []):
            if is_main_process() and path is not None and path not in best and self._is_here(path):
                self._remove(path)
        return lost

    def _is_here(self, path: str | None) -> bool:
        """Whether a file is this training's own: what is elsewhere belongs to the one that it goes on from."""
        return path is not None and os.path.dirname(path) == str(self.out_dir).rstrip('/')

    def _here(self, path: str | None) -> str | None:
        """The file of that name in this training's folder, if there is one; else the path."""
        if path is None:
            return None
        here = self.file_backend.join_path(self.out_dir, os.path.basename(path))
        return here if os.path.exists(here) else path

    def _find_best(
        self, indicator: str, rule: str | None, score: float | None, recorded: str | None, iteration: int
    ) -> tuple[tuple[float, str] | None, list[str]]:
        """Score and file of the best checkpoint that is there, and what to say about it."""
        said: list[str] = []
        found = None
        score_key = self._info_keys(indicator)[0]
        if recorded is not None and score is not None:
            own = _saved_score(Path(recorded), score_key, since=0)
            problem = problem_of(Path(recorded)) if own is None else None
            if problem is None:
                found = (score if own is None else own, recorded)
            else:
                said.append(f'The best checkpoint, with {score:0.4f} {indicator}, is lost: {problem}')
        if rule is None:
            return found, said
        # Beside a whole one, only what was saved after the checkpoint that is resumed, which does not know of it.
        since = 0 if found is None else iteration
        candidates = Path(str(self.out_dir)).glob(self._best_name(indicator, self.filename_tmpl.format('*')))
        for path in sorted(candidates):
            saved = None if str(path) == recorded else _saved_score(path, score_key, since)
            if saved is not None and (found is None or self.is_better_than[indicator](saved, found[0])):
                found = (saved, self.file_backend.join_path(self.out_dir, path.name))
        if found is not None and found[1] != recorded:
            said.append(f'{found[1]} is there and counts as the best checkpoint, with {found[0]:0.4f} {indicator}')
        return found, said


def _saved_score(path: Path, key: str, since: int) -> float | None:
    """The score that a best checkpoint was saved with, if it is whole and was saved at that iteration or later."""
    if not path.is_file():
        return None
    try:
        content = read_checkpoint(path)
        score = content['message_hub']['runtime_info'][key]
        return score if content['meta']['iter'] >= since else None
    except (KeyError, TypeError, ValueError):
        return None


def broadcast(value: Any) -> Any:
    """The first process's value, in all processes.

    Args:
        value: What the first process knows; not used in the others.
    """
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _all_or_error(step: Callable[[], None], path: Path) -> None:
    """Take a step of saving in all processes; what goes wrong with the disk in one of them ends all."""
    problem = None
    try:
        step()
    except OSError as error:
        problem = error.strerror or str(error)
    problems = [problem for problem in all_gather_object(problem) if problem is not None]
    if problems:
        raise CheckpointNotSavedError(
            f'{path} was not saved: {problems[0]}. {_free_space(path.parent)}The checkpoints before it are as they '
            'were: make room and go on with --resume'
        )


def _free_space(folder: Path) -> str:
    try:
        return f'{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free in {folder}. '
    except OSError:
        return ''


__all__ = ['AtomicCheckpointHook', 'validation_is_due']
