"""Kill trainings at every step of saving and at random times, and see that each resumes to the same end.

    python tools/dev/kill_test.py /tmp/kills --kills 100                  # goes on where it was stopped
    python tools/dev/kill_test.py /tmp/kills --variants epoch --kills 20

A toy model of the tests is trained for seconds by ``tools/train.py``, in processes that are forked from this one: what
they import is imported once. For each kind of training (epochs, iterations, moving averages, two processes, FSDP) an
undisturbed run is made first, and its accesses to checkpoints are listed: ``open``, ``fsync``, ``rename``, ``remove``.
Then one run after the other is killed (SIGKILL) in front of one of these, or when a file is half written, or at a
random time; every third is killed once more while it goes on. After that it is resumed until it ends. Lost is a run
that

- cannot be resumed, or starts from the beginning although a checkpoint had its name;
- ends with other weights than the undisturbed one;
- has another best score, or a best file that is missing, doubled, damaged, or was saved with another score;
- lacks the validation of an epoch, or has another score for it;
- leaves unfinished or outdated files behind.

Each kill adds a line of JSON to ``kills.jsonl``, each loss keeps its folder. No code of the package knows of this.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import runpy
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401
import mmengine.config.config
import mmengine.runner.runner
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmengine.config import Config  # noqa: E402

import mmetris.apis  # noqa: E402
import mmetris.datasets  # noqa: E402
import mmetris.engine.strategies  # noqa: E402
import mmetris.evaluation  # noqa: E402
import mmetris.visualization  # noqa: E402, F401  forked, not imported by each run
from mmetris.utils.checkpoint_io import read_checkpoint  # noqa: E402

SAVED = re.compile(r'(epoch_|iter_|last_checkpoint|validation_scores)')
EPOCHS, STEPS = 4, 2  # Epochs of a run, and iterations of an epoch.
LIMIT = 900  # Seconds for a run that takes a few: other work may keep the machine busy.
EMA = [dict(type='EpochSeedHook'), dict(type='SlimCheckpointHook'), dict(type='EMAHook', momentum=0.3)]
BY_ITERATION = {
    'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=EPOCHS * STEPS, val_interval=STEPS),
    'train_dataloader.sampler': dict(_delete_=True, type='EpochInfiniteSampler', shuffle=True),
    'default_hooks.checkpoint': dict(by_epoch=False, interval=STEPS),
    'default_hooks.logger': dict(log_metric_by_epoch=False),
    'log_processor': dict(by_epoch=False),
    'param_scheduler': [],
}
SLOWLY = {'optim_wrapper.optimizer.lr': 3e-4}  # At the other rate, two processes score 0 for ever.
SHARDED = dict(SLOWLY, strategy=dict(type='mmetris.RefSegFSDPStrategy'), runner_type='mmetris.RefSegFlexibleRunner')
# Name: processes, and what differs from a training by epochs in one process.
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    'epoch': (1, {}),
    'iter': (1, BY_ITERATION),
    'ema': (1, dict(custom_hooks=EMA)),
    'ddp': (2, SLOWLY),
    'fsdp': (2, SHARDED),
}


def write_inputs(folder: Path) -> None:
    """Write the data set, a CLIP of random weights and a config for each variant.

    Args:
        folder: Where to.
    """
    from mmetris.datasets.shapes import ShapesSpec, write_shapes
    from tests import toy
    from tests.test_models.test_encoders.test_slim_checkpoint import save_clip

    if (folder / 'fsdp.py').is_file():
        return
    write_shapes(folder / 'shapes', ShapesSpec(num_train=1, num_val=1, num_test_a=1, num_test_b=1))
    clip = str(save_clip(folder / 'clip.pth'))
    model = toy.model_cfg('vit', backbone=dict(clip_checkpoint=clip))
    model['text_encoder']['clip_checkpoint'] = clip
    for name, (processes, changes) in VARIANTS.items():
        cfg = Config.fromfile(ROOT / 'configs/etris/etris_tiny_shapes.py')
        loader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=f'{folder}/shapes/'))
        cfg.merge_from_dict(
            dict(
                model=dict(model, _delete_=True),
                train_dataloader=dict(loader, batch_size=4 // STEPS // processes),
                val_dataloader=dict(loader, batch_size=2),
                test_dataloader=dict(loader, batch_size=2),
                train_cfg=dict(max_epochs=EPOCHS, val_interval=1),
                default_hooks=dict(visualization=dict(draw=False)),
                # At this rate the score rises twice and falls once.
                optim_wrapper=dict(optimizer=dict(lr=0.01)),
                param_scheduler=[],
            )
        )
        cfg.merge_from_dict(changes)
        cfg.dump(folder / f'{name}.py')


class Victim:
    """Counts a process's accesses to checkpoints, and ends it at one of them.

    Args:
        log: Where the accesses are listed.
        at: Number of the access at which it kills itself, from 0; None for none.
        half: Whether what was written by then is cut in half, as a kill in the middle of writing leaves it.
    """

    def __init__(self, log: Path, at: int | None = None, half: bool = False) -> None:
        self.log, self.at, self.half = log, at, half
        self.count = 0
        self.names: dict[int, str] = {}
        self.inside = False

    def watch(self) -> None:
        """Begin."""
        fsync = os.fsync

        def watched(handle: int) -> None:
            self.saw('fsync', os.readlink(f'/proc/self/fd/{handle}'))
            fsync(handle)

        os.fsync = watched
        sys.addaudithook(self.audit)

    def audit(self, event: str, args: tuple) -> None:
        """Python tells of each access before it happens."""
        if self.inside or event not in ('open', 'os.rename', 'os.remove', 'shutil.rmtree'):
            return
        if event == 'open' and not (isinstance(args[1], str) and set(args[1]) & set('wax+')):
            return
        self.saw(event, *(os.fspath(path) for path in args[:2] if isinstance(path, (str, os.PathLike))))

    def saw(self, event: str, *paths: str) -> None:
        """Note an access, or end here."""
        if not paths or not (SAVED.search(Path(paths[0]).name) or event == 'fsync'):
            return
        self.inside = True
        if self.at == self.count:
            if self.half and Path(paths[0]).is_file():
                os.truncate(paths[0], os.path.getsize(paths[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.log, 'a') as file:
            file.write(f'{event} {Path(paths[0]).name}\n')
        self.count += 1
        self.inside = False


def start(
    train: Callable[[], Any], log: Path, processes: int = 1, victim: Callable[[], Victim] | None = None
) -> list[int]:
    """Run a function in forked processes, with the variables of a launcher.

    Args:
        train: What each process does.
        log: Where what is printed goes, behind what is there.
        processes: How many.
        victim: Makes what watches the first process.

    Returns:
        Process ids.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ids = []
    sys.stdout.flush()
    for rank in range(processes):
        if child := os.fork():
            ids.append(child)
            continue
        code = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(output, 'a', buffering=1)  # pytest has put others there
            torch.set_num_threads(1)
            if processes > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
                os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            if victim is not None and rank == 0:
                victim().watch()
            train()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # This is where the process ends.
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return ids


def run_train(config: Path, work_dir: Path, processes: int, resume: bool) -> Callable[[], None]:
    """``tools/train.py`` as :func:`start` takes it.

    Args:
        config: The config.
        work_dir: The work folder.
        processes: How many it is started in.
        resume: Whether with ``--resume``.
    """

    def train() -> None:
        flags = ['--resume'] * resume + ['--launcher', 'pytorch'] * (processes > 1)
        sys.argv = ['train.py', str(config), '--work-dir', str(work_dir), *flags]
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')

    return train


def wait(ids: list[int], seconds: float = 120) -> bool:
    """Wait for processes as a launcher does: when one fails, the others are killed.

    Args:
        ids: Process ids.
        seconds: How long; then all are killed.

    Returns:
        Whether all ended well.
    """
    left, good = set(ids), True
    end = time.monotonic() + seconds
    while left:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                left.discard(child)
                good = good and status == 0
        if left and (not good or time.monotonic() > end):
            good = False
            for child in left:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return good


def facts(work_dir: Path) -> dict[str, Any]:
    """What is compared between two runs: final weights, best score, best file, scores of each validation.

    Args:
        work_dir: Of a run that has ended.
    """
    found: dict[str, Any] = dict(files=sorted(path.name for path in work_dir.glob('*') if not path.is_dir()))
    found['files'] += sorted(path.name for path in work_dir.glob('.*'))
    last = Path((work_dir / 'last_checkpoint').read_text()).name
    checkpoint = read_checkpoint(work_dir / last)
    info = checkpoint['message_hub']['runtime_info']
    best = [read_checkpoint(path) for path in work_dir.glob('best_*.pth')]
    found |= dict(
        last=last,
        weights=checkpoint['state_dict'],
        average=checkpoint.get('ema_state_dict'),
        best_score=float(info['best_score']),
        best_file=Path(info['best_ckpt']).name,
        best_saved=[float(one['message_hub']['runtime_info']['best_score']) for one in best],
        best_weights=[one['state_dict'] for one in best],
    )
    logged: dict[str, dict] = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            scores = json.loads(line)
            if 'mIoU' in scores:
                logged[str(scores['step'])] = {name: scores[name] for name in ('mIoU', 'oIoU')}
    return found | dict(logged=logged, noted=sorted(json.loads((work_dir / 'validation_scores.json').read_text())))


def differences(found: Any, expected: Any, name: str = '') -> list[str]:
    """Names of what differs, of containers the parts."""
    if isinstance(expected, torch.Tensor):
        # Sums over processes may come in another order.
        same = found.shape == expected.shape and torch.allclose(found.double(), expected.double(), rtol=0, atol=1e-6)
        return [] if same else [name]
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        return [part for key in expected for part in differences(found[key], expected[key], f'{name}.{key}')]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return [
            part for index, pair in enumerate(zip(found, expected)) for part in differences(*pair, f'{name}[{index}]')
        ]
    if isinstance(expected, float):
        return [] if abs(found - expected) < 1e-4 else [f'{name}: {found} for {expected}']
    return [] if found == expected else [f'{name}: {str(found)[:300]} for {str(expected)[:300]}']


class Campaign:
    """Undisturbed runs of one variant and what is killed beside them.

    Args:
        folder: Where all of it is.
        variant: Name of the variant.
    """

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant
        self.processes = VARIANTS[variant][0]
        self.config = folder / f'{variant}.py'
        whole = folder / f'{variant}_whole'
        steps = folder / f'{variant}_steps.txt'
        timed = folder / f'{variant}_seconds.txt'
        if not timed.is_file():
            shutil.rmtree(whole, ignore_errors=True)
            steps.unlink(missing_ok=True)
            began = time.monotonic()
            if not wait(self.start(whole, False, lambda: Victim(steps)), LIMIT):
                sys.exit(f'the undisturbed run of {variant} failed: see {whole}.log')
            timed.write_text(str(time.monotonic() - began))
        self.steps = steps.read_text().splitlines()
        self.seconds = float(timed.read_text())
        self.expected = facts(whole)

    def start(self, work_dir: Path, resume: bool, victim: Callable[[], Victim] | None = None) -> list[int]:
        """Start the training of this variant; see :func:`start`."""
        train = run_train(self.config, work_dir, self.processes, resume)
        return start(train, Path(f'{work_dir}.log'), self.processes, victim)

    def plans(self) -> list[dict[str, Any]]:
        """One kill for each step, one for each half-written file, and random times between them."""
        at_steps = [dict(step=index, name=name) for index, name in enumerate(self.steps)]
        halves = [dict(plan, half=True) for plan in at_steps if plan['name'].startswith('fsync .')]
        plans = at_steps + halves
        random.Random(0).shuffle(plans)
        return plans

    def kill(self, number: int, plan: dict[str, Any]) -> dict[str, Any]:
        """Kill a run as planned, resume it to its end, and compare.

        Args:
            number: Of this kill; every third run is killed a second time, at a random step.
            plan: ``step`` or ``seconds``, ``half``.
        """
        work_dir = self.folder / f'{self.variant}_{number}'
        shutil.rmtree(work_dir, ignore_errors=True)
        log = Path(f'{work_dir}.log')
        log.unlink(missing_ok=True)
        chance = random.Random(f'{self.variant} {number}')
        kills = self.kill_once(work_dir, plan)
        had = sorted(path.name for path in work_dir.glob('*_[0-9]*.pth')) if work_dir.is_dir() else []
        if number % 3 == 2:
            kills += self.kill_once(work_dir, dict(step=chance.randrange(len(self.steps)), half=chance.random() < 0.3))
        problems = []
        if not wait(self.start(work_dir, True), LIMIT):
            problems.append(f'the resumed run failed, or did not end in {LIMIT} s')
        if any(not name.startswith('best_') for name in had) and 'starts from the beginning' in log.read_text():
            problems.append(f'started from the beginning beside {had}')
        try:
            problems += differences(facts(work_dir), self.expected)
        except (OSError, ValueError, KeyError) as error:
            problems.append(repr(error))
        if not problems:
            shutil.rmtree(work_dir)
            log.unlink()
        return dict(variant=self.variant, number=number, **plan, kills=kills, had=had, problems=problems)

    def kill_once(self, work_dir: Path, plan: dict[str, Any]) -> int:
        """Start a run and kill it.

        Returns:
            1, or 0 if it ended before.
        """
        first = not work_dir.is_dir()
        seen = self.folder / f'{self.variant}_seen.txt'
        seen.unlink(missing_ok=True)
        ids = self.start(work_dir, not first, lambda: Victim(seen, plan.get('step'), plan.get('half', False)))
        if 'seconds' in plan:
            time.sleep(plan['seconds'])
            os.kill(ids[-1 if plan.get('last_rank') else 0], signal.SIGKILL)
        return int(not wait(ids))


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, kill, count.

    Args:
        arguments: Of the command line. Defaults to those of this process.

    Returns:
        How many runs were lost.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='where everything goes; a campaign in it goes on')
    parser.add_argument('--kills', type=int, default=100, help='runs to kill, of all variants together')
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--minutes', type=float, default=1e9, help='stop after this time')
    args = parser.parse_args(arguments)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # Two thirds of a run's time: laying out the config's text, and asking compilers for their versions.
    mmengine.config.config.FormatCode = lambda text, **kwargs: (text, True)
    mmengine.runner.runner.collect_env = dict
    write_inputs(folder)
    record = folder / 'kills.jsonl'
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    numbers = Counter(one['variant'] for one in done)
    campaigns = [Campaign(folder, variant) for variant in args.variants]
    end = time.monotonic() + 60 * args.minutes
    turn = 0
    while len(done) < args.kills and time.monotonic() < end:
        campaign = campaigns[turn % len(campaigns)]
        turn += 1
        number = numbers[campaign.variant]
        numbers[campaign.variant] += 1
        plans = campaign.plans()
        chance = random.Random(f'time {campaign.variant} {number}')
        at_random = dict(seconds=round(campaign.seconds * chance.random(), 3), last_rank=chance.random() < 0.5)
        plan = at_random if number % 4 == 3 else plans[(number - number // 4) % len(plans)]
        began = time.monotonic()
        result = campaign.kill(number, plan)
        done.append(result)
        with record.open('a') as file:
            file.write(json.dumps(result) + '\n')
        state = '; '.join(result['problems']) or 'resumed to the same end'
        print(f'{campaign.variant} {number} {plan}: {state} ({time.monotonic() - began:.1f} s)', flush=True)
    lost = [one for one in done if one['problems']]
    kills = sum(one['kills'] for one in done)
    by_variant = ', '.join(f'{name} {number}' for name, number in Counter(one['variant'] for one in done).items())
    print(f'{kills} kills of {len(done)} runs ({by_variant}): {len(lost)} lost')
    return len(lost)


if __name__ == '__main__':
    sys.exit(1 if main() else 0)
