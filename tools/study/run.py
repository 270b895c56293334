"""Do the trainings of a study, and go on where that was stopped or killed.

    python tools/study/run.py studies/shapes_tables.yaml work_dirs/shapes_tables --jobs 2
    python tools/study/run.py studies/shapes_tables.yaml work_dirs/shapes_tables --minutes 30   # the same goes on later
    python tools/study/report.py studies/shapes_tables.yaml work_dirs/shapes_tables/results.jsonl --out report

Each job is a process of ``tools/train.py`` and one of ``tools/test.py``, on one core, or on one GPU where there are
some. A job that is over is a line of JSON in ``results.jsonl`` and is not done again; ``--results`` names another such
file, say one that is committed; studies that run at the same time may share it. A training that was killed goes on from
its last checkpoint. A job that fails is told with the end of its log, does not stop the others, and is tried again at
the next start.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mmcv
import mmengine
import mmseg
import torch
from mmengine.config import Config

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from study import ROOT, Job, Study, read_lines, read_study  # noqa: E402

import mmetris  # noqa: E402
from mmetris.benchmark import describe_machine  # noqa: E402
from mmetris.evaluation.breakdown import word_types  # noqa: E402
from mmetris.utils.command_line import LAUNCHER_VARIABLE, build_without_weights, end_on_signals  # noqa: E402
from mmetris.utils.param_count import count_parameters  # noqa: E402
from mmetris.utils.work_folder import FolderInUseError, find_resumable, held, write_text  # noqa: E402

COSTS = 'costs.json'
TAIL = 15  # Lines of a log that tell of a failure.


class FailedError(Exception):
    """A process of a job has failed: ``step`` is its tool, ``log`` the end of what it said."""

    def __init__(self, step: str, log: str) -> None:
        super().__init__(step, log)
        self.step, self.log = step, log


class StoppedError(Exception):
    """The time is up, or the study was stopped."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Do the trainings of a study')
    parser.add_argument('study', type=Path, help='study file (studies/*.yaml)')
    parser.add_argument('out', type=Path, help='folder of the trainings')
    parser.add_argument('--results', type=Path, help='file of the jobs that are over; default OUT/results.jsonl')
    parser.add_argument('--jobs', type=int, default=1, help='how many at once; default 1')
    parser.add_argument('--workers', type=int, help="processes of each job that load data; default: the configs'")
    parser.add_argument('--minutes', type=float, help='stop after so many; default: when all is done')
    parser.add_argument('--only', metavar='TEXT', default='', help='only jobs with this in their names')
    parser.add_argument('--list', action='store_true', help='name the jobs that can be done now, and do none')
    parser.add_argument('--keep', action='store_true', help='keep the folders of finished jobs, with their checkpoints')
    return parser


def start_process(command: Sequence[str], variables: dict[str, str], log: Path) -> subprocess.Popen:
    """Start a process whose output goes to the end of a file.

    Args:
        command: The command.
        variables: Environment variables besides those of this process.
        log: The file.
    """
    with log.open('ab') as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


class Pool:
    """Does the jobs of a study, each in a thread that waits for its processes.

    Args:
        study: The study.
        out: Folder of the trainings.
        results: File of the jobs that are over.
        keep: Whether the folders of finished jobs are kept.
        workers: Processes of each job that load data; None leaves what the configs say.
    """

    def __init__(self, study: Study, out: Path, results: Path, keep: bool = False, workers: int | None = None) -> None:
        self.study, self.out, self.results, self.keep, self.workers = study, out, results, keep, workers
        self.lock = threading.Lock()
        self.is_stopped = False
        self.processes: set[int] = set()
        self.num_slots = max(1, torch.cuda.device_count())
        self.tried: set[str] = set()

    def ready(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs that are neither over nor tried nor waiting for others, in order, each with its value.

        Args:
            jobs: Those in question.
        """
        lines = read_lines(self.results)
        over = {line['hash'] for line in lines if 'scores' in line}
        found = []
        for job in jobs:
            if job.name not in self.tried and (job := self.study.with_value(job, lines)) is not None:
                if self.study.hash_of(job) not in over:
                    found.append(job)
        return found

    def run(self, jobs: Sequence[Job], at_once: int, end: float | None = None) -> bool:
        """Do jobs until none is left or the time is up.

        Args:
            jobs: Those in question.
            at_once: How many run side by side.
            end: When to stop, by ``time.monotonic``. Defaults to None: never.

        Returns:
            Whether none of them failed.
        """
        good = True
        running: dict[Future, tuple[Job, int]] = {}
        with ThreadPoolExecutor(at_once) as executor:
            try:
                while not self.is_stopped:
                    for job in self.ready(jobs)[: at_once - len(running)]:
                        self.tried.add(job.name)
                        busy = Counter(slot for _, slot in running.values())
                        slot = min(range(self.num_slots), key=busy.__getitem__)
                        running[executor.submit(self.do, job, slot)] = job, slot
                    if not running:
                        break
                    left = None if end is None else max(0, end - time.monotonic())
                    done, _ = wait(running, timeout=left, return_when=FIRST_COMPLETED)
                    if not done:
                        print('The time is up; the same command goes on', flush=True)
                        break
                    for future in done:
                        line = self.line_of_ended(running.pop(future)[0], future)
                        good = good and 'failed' not in line
                        self.append(line)
                        self.tell(line, jobs)
            finally:
                self.stop()
        return good

    def line_of_ended(self, job: Job, future: Future) -> dict[str, Any]:
        """The line of a job whose thread has ended, which says what failed if something did."""
        try:
            return future.result()
        except FailedError as error:
            step, log = error.step, error.log
        except Exception:  # Of this job alone, whatever it is.
            step, log = 'study', traceback.format_exc()
        return dict(job=job.name, hash=self.study.hash_of(job), failed=step, log=log)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to the results, whole or not at all, and remove the job's folder if it has succeeded."""
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.results.parent):  # Another study that runs now may share the file.
            lines = [json.dumps(one) + '\n' for one in [*read_lines(self.results), line]]
            write_text(self.results, ''.join(lines))
        if 'scores' in line and not self.keep:
            shutil.rmtree(self.out / line['job'], ignore_errors=True)

    def tell(self, line: dict[str, Any], jobs: Sequence[Job]) -> None:
        """Say on the screen how a job has ended."""
        if 'failed' in line:
            print(f'FAILED {line["job"]} ({line["failed"]}):\n{line["log"]}', flush=True)
        else:
            lines = read_lines(self.results)
            values = [self.study.with_value(job, lines) for job in jobs]
            over = {one['hash'] for one in lines if 'scores' in one}
            over &= {self.study.hash_of(job) for job in values if job is not None}
            scores = ', '.join(f'{name} {score:.2f}' for name, score in line['scores'].items() if name.endswith('mIoU'))
            print(f'[{len(over)} of {len(jobs)}] {line["job"]}: {scores}', flush=True)

    def stop(self) -> None:
        """End all processes; a training's checkpoints stay, and it goes on from there at the next start."""
        with self.lock:
            self.is_stopped = True
            for process in self.processes:
                os.kill(process, signal.SIGTERM)

    def do(self, job: Job, slot: int) -> dict[str, Any]:
        """Train and test one job.

        Args:
            job: The job, with its value where one is searched.
            slot: Number of its GPU, where there are some.

        Returns:
            Its line.

        Raises:
            FailedError: If a process fails.
            StoppedError: If the study was stopped.
        """
        folder = self.out / job.name
        cfg, cfg_hash = self.study.config_of(job), self.study.hash_of(job)
        of_folder = folder / 'hash'
        if folder.exists() and (not of_folder.is_file() or of_folder.read_text() != cfg_hash):
            shutil.rmtree(folder)  # What stands there is a training of another config.
        folder.mkdir(parents=True, exist_ok=True)
        write_text(of_folder, cfg_hash)
        for loader in () if self.workers is None else ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(loader) is not None:
                cfg[loader].update(num_workers=self.workers, persistent_workers=self.workers > 0)
        config = folder / 'config.py'
        cfg.dump(config)
        trained = folder / 'trained'
        if not trained.exists():
            wait_until_free(folder)
            self.call(folder, slot, 'train', config, '--work-dir', folder, '--resume')
            trained.touch()
        best = sorted(folder.glob('best_*.pth'), key=os.path.getmtime)
        checkpoint = best[-1] if best else find_resumable(folder)
        # A folder of its own: a test that was killed with its study may write into another for a second or two.
        tested = folder / f'test_{len(read_costs(folder))}'
        # Nothing is chosen by more than the one score.
        splits = [self.study.search['score'].partition('/')[0]] if job.is_search else self.study.test
        flags = [word for split in splits for word in ('--split', split)]
        flags += ['--work-dir', tested, '--out', tested / 'masks']
        self.call(folder, slot, 'test', config, checkpoint, *flags)
        return self.line_of(job, cfg, folder, tested, splits)

    def call(self, folder: Path, slot: int, step: str, *arguments: Any) -> None:
        """Run ``tools/<step>.py`` to its end, and note in the folder what it cost."""
        known = read_costs(folder)
        # Of a process that was killed with this one nothing is known but that there was one.
        write_text(folder / COSTS, json.dumps([*known, dict(step=step)]))
        variables = dict(
            OMP_NUM_THREADS='1',
            MKL_NUM_THREADS='1',
            PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
        )
        variables[LAUNCHER_VARIABLE] = str(os.getpid())  # It ends when this one is killed.
        if self.num_slots > 1:
            variables['CUDA_VISIBLE_DEVICES'] = str(slot)
        log = folder / f'{step}.log'
        begin = time.monotonic()
        with self.lock:
            if self.is_stopped:
                raise StoppedError
            command = [sys.executable, str(ROOT / 'tools' / f'{step}.py'), *map(str, arguments)]
            process = start_process(command, variables, log)
            self.processes.add(process.pid)
        _, status, usage = os.wait4(process.pid, 0)  # As Popen's own wait, which does not tell what it used.
        process.returncode = code = os.waitstatus_to_exitcode(status)
        with self.lock:
            self.processes.discard(process.pid)
            is_stopped = self.is_stopped
        if code:
            if is_stopped:
                raise StoppedError
            lines = log.read_text(encoding='utf-8', errors='replace').rstrip().split('\n')[-TAIL:]
            raise FailedError(step, '\n'.join([*lines, f'(exit status {code})']))
        peak = usage.ru_maxrss / (1024**2 if sys.platform == 'darwin' else 1024)
        cost = dict(
            step=step, seconds=time.monotonic() - begin, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_mb=peak
        )
        write_text(folder / COSTS, json.dumps([*known, cost]))

    def line_of(self, job: Job, cfg: Config, folder: Path, tested: Path, splits: Sequence[str]) -> dict[str, Any]:
        """What is kept of a job: who it was, its scores, its costs, what it ran on."""
        (scores,) = tested.glob('*/*.json')
        found = {}
        for name, value in json.loads(scores.read_text()).items():
            if isinstance(value, float) and not name.endswith('time'):
                found[name if '/' in name else f'{splits[0]}/{name}'] = value
        found.update(scores_of_kinds(tested / 'masks', self.study.kinds, splits))
        steps = [
            entry
            for path in sorted(folder.glob('*/vis_data/scalars.json'))
            for entry in map(json.loads, path.read_text().splitlines())
            if 'time' in entry and 'loss' in entry
        ]
        costs = [cost for cost in read_costs(folder) if cost['step'] == 'train']
        times = [step['time'] for step in steps]
        whole = all('cpu_seconds' in cost for cost in costs)
        memory = [step['memory'] for step in steps if 'memory' in step] or [cost.get('peak_mb', 0) for cost in costs]
        with self.lock:  # What is built looks up the one default scope of all threads.
            parameters = count_parameters(build_without_weights(cfg))
        return dict(
            job=job.name,
            hash=self.study.hash_of(job),
            **asdict(job),
            scores={name: round(value, 4) for name, value in found.items()},
            parameters=parameters,
            step_ms=round(1000 * statistics.median(times), 2),
            train_seconds=round(statistics.fmean(times) * max(step['step'] for step in steps), 1),
            cpu_seconds=round(sum(cost['cpu_seconds'] for cost in costs), 1) if whole else None,
            peak_mb=round(max(memory)),
            machine=dict(describe_machine('cuda' if torch.cuda.is_available() else 'cpu'), threads=1),
            versions=versions(),
            finished=time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime()),
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process is in the same block for this folder; they wait for each other.

    The lock is the folder's own, so no file is left. Where the system knows no such locks, as on Windows and on some
    network drives, nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def wait_until_free(folder: Path, seconds: float = 20) -> None:
    """Wait for a training that was killed with its study: it ends by itself within seconds.

    Args:
        folder: Its work folder.
        seconds: How long at most; then the training that comes next says what is wrong.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with held(folder):
                return
        except FolderInUseError:
            time.sleep(0.2)


def read_costs(folder: Path) -> list[dict[str, Any]]:
    """What each process of a job has cost so far; of one that was killed with the study only the ``step`` is known."""
    path = folder / COSTS
    return json.loads(path.read_text()) if path.is_file() else []


def scores_of_kinds(masks: Path, kinds: Sequence[str] | str, splits: Sequence[str]) -> dict[str, float]:
    """mIoU in percent of the sentences of each kind, as ``val/mIoU of place``.

    Args:
        masks: Folder that ``tools/test.py --out`` wrote.
        kinds: Names of kinds whose sentences come in turn by their ids, as those of Shapes do; or ``'words'``: the
            types of :func:`mmetris.evaluation.breakdown.word_types`, of which a sentence may have several.
        splits: Those tested; one alone has no folder of its own.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for path in sorted(masks.rglob('sentences*.csv')):
        split = path.stem.removeprefix('sentences').lstrip('_') or splits[0]
        with path.open(newline='', encoding='utf-8-sig') as file:
            for row in csv.DictReader(file):
                if kinds == 'words':
                    own = word_types(row['expression']) or {'none of these'}
                else:
                    own = {kinds[int(row['name'].rpartition('_')[2]) % len(kinds)]} if kinds else set()
                for kind in own:
                    groups[f'{split}/mIoU of {kind}'].append(float(row['iou']))
    return {name: statistics.fmean(values) for name, values in sorted(groups.items())}


def versions() -> dict[str, str]:
    """Versions of the packages above PyTorch, and this checkout's commit where there is git."""
    found = {module.__name__: module.__version__ for module in (mmetris, mmseg, mmcv, mmengine)}
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True)
    return dict(found, commit=commit.stdout.strip())


def make_data(study: Study) -> None:
    """Draw the data sets of a study that are not there.

    Raises:
        RuntimeError: If a command fails.
    """
    for folder, command in study.data.items():
        if (
            not (ROOT / folder).exists()
            and subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT).returncode
        ):
            raise RuntimeError(f'data {folder}: python {command} failed')


@end_on_signals()
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left of a study; 1 if a job failed."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        study = read_study(args.study)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if args.jobs < 1:
        parser.error(f'--jobs {args.jobs} must be at least 1')
    out = args.out.resolve()
    pool = Pool(study, out, (args.results or out / 'results.jsonl').resolve(), args.keep, args.workers)
    jobs = [job for job in study.jobs() if args.only in job.name]
    if args.list:
        for job in pool.ready(jobs):
            print(job.name)
        return 0
    end = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    try:
        with held(out):
            make_data(study)
            return 0 if pool.run(jobs, args.jobs, end) else 1
    except FolderInUseError as error:
        parser.exit(2, f'error: {error}\n')
    except RuntimeError as error:
        parser.exit(1, f'error: {error}\n')


if __name__ == '__main__':
    sys.exit(main())
