"""Let trainings of two processes end undisturbed, and count those whose processes do not end with 0.

    python tools/dev/ending_test.py /tmp/endings --times 100      # goes on where it was stopped

A toy model is trained for an epoch by ``tools/train.py`` in two processes, which are forked from this one and end as
Python ends: with its threads, its group of processes and its libraries taken down. Of 92 such trainings that ended
within their group 5 had been aborted (SIGABRT, "terminate called without an active exception"), which the launcher
reports as a failure. ``tools/train.py`` leaves the group and ends its threads first; ``--stay`` switches that off, to
see a difference.
Each training adds a line of JSON to ``endings.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path

import kill_test  # beside this file
import mmengine.config.config
import mmengine.runner.runner
import torch
from mmengine.config import Config


def train(config: Path, work_dir: Path, rank: int, port: int, stay: bool) -> None:
    """Train in a forked process, then end it as Python does.

    Args:
        config: The config.
        work_dir: The work folder, whose log takes what is printed.
        rank: Number of the process, of two.
        port: Of the group.
        stay: Whether the process ends within the group.
    """
    output = os.open(f'{work_dir}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    if stay:
        import mmetris.utils.command_line

        mmetris.utils.command_line.end_processes = lambda: None
    kill_test.run_train(config, work_dir, 2, resume=False)()
    sys.exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, train, count.

    Args:
        arguments: Of the command line. Defaults to those of this process.

    Returns:
        How many trainings had a process that did not end with 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='where everything goes; a campaign in it goes on')
    parser.add_argument('--times', type=int, default=100, help='how many trainings')
    parser.add_argument('--stay', action='store_true', help='end within the group, as before')
    args = parser.parse_args(arguments)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    mmengine.config.config.FormatCode = lambda text, **kwargs: (text, True)
    mmengine.runner.runner.collect_env = dict
    kill_test.write_inputs(folder)
    cfg = Config.fromfile(folder / 'ddp.py')
    cfg.merge_from_dict(dict(train_cfg=dict(max_epochs=1)))
    cfg.dump(folder / 'short.py')
    record = folder / 'endings.jsonl'
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
    for number in range(len(done), args.times):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        work_dir = folder / f'run_{number}'
        ids = []
        for rank in range(2):
            if child := os.fork():
                ids.append(child)
            else:
                train(folder / 'short.py', work_dir, rank, port, args.stay)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ids]
        one = dict(number=number, codes=codes, stay=args.stay, saved=(work_dir / 'epoch_1.pth').is_file())
        done.append(one)
        with record.open('a') as file:
            file.write(json.dumps(one) + '\n')
        print(one, flush=True)
    bad = [one for one in done if any(one['codes']) or not one['saved']]
    print(
        f'{len(done)} trainings, {len(bad)} ended badly: {dict(Counter(code for one in done for code in one["codes"]))}'
    )
    return len(bad)


if __name__ == '__main__':
    sys.exit(1 if main() else 0)
