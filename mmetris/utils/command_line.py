"""What the tools share: reading a config with early, one-line errors, and starting processes also where no GPU is.

The checks here answer mistakes of the command line (a missing file, a misspelt key) before any model is built.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import barrier, is_distributed
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from torch import nn

from mmetris.registry import MODELS, RUNNERS
from mmetris.utils.checkpoint_io import check_finite, read_checkpoint
from mmetris.utils.config_options import add_cfg_options, merge_options, read_config
from mmetris.utils.config_types import is_kind_of, type_name
from mmetris.utils.downloads import weights_path
from mmetris.utils.quiet import hide_warnings, quiet_screen
from mmetris.utils.work_folder import find_resumable, out_dir_of

LAUNCHER_VARIABLE = 'MMETRIS_LAUNCHER'  # Where who starts processes that are to end with it tells them its own number.


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two arguments that every tool has: ``config`` and ``--cfg-options``."""
    parser.add_argument('config', help='config file, or the name of one that comes with mmetris ("mmetris models")')
    add_cfg_options(parser)


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher`` and ``--local-rank``, and export the rank the way MMEngine expects to find it."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # Older launchers pass the rank as an argument, newer ones as the LOCAL_RANK variable.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """Read ``args.config`` and merge ``args.cfg_options`` into it.

    A missing or broken file and an option that would have no effect end the program with one line (exit status 2); see
    :func:`~mmetris.utils.config_options.merge_options`.

    Args:
        parser: Where errors are reported.
        args: Parsed arguments of :func:`add_config_arguments`; ``config`` becomes the file's path.

    Returns:
        The merged config.
    """
    from mmetris.apis.model_zoo import complete_clip_paths, config_path  # imports models, which most here do not need

    try:
        args.config = str(config_path(args.config))
        cfg = read_config(args.config)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if args.cfg_options:
        try:
            merge_options(cfg, args.cfg_options)
        except (ValueError, ImportError) as error:
            parser.error(f'--cfg-options: {error}')
    # MIM starts the tools in any folder, where `pretrained/` is not the package's.
    complete_clip_paths(cfg.get('model', {}))
    return cfg


def check_checkpoint(parser: argparse.ArgumentParser, path: str, option: str) -> dict[str, Any]:
    """End the program with one line if a checkpoint is missing, damaged, not finite, or more than plain data.

    What is named by its address is fetched first; the training then finds it here.

    Returns:
        What is in it.
    """
    try:
        file = weights_path(path)
        if not file.is_file():
            parser.error(f'{option}: checkpoint not found: {path}')
        content = read_checkpoint(file)
        check_finite(content.get('state_dict', content), path)
    except (ValueError, FileNotFoundError) as error:
        parser.error(f'{option}: {error}')
    return content


def use_atomic_checkpoints(cfg: Config) -> None:
    """Have checkpoints saved by :class:`mmetris.engine.hooks.AtomicCheckpointHook` where a config has MMEngine's hook.

    Args:
        cfg: The config; ``default_hooks.checkpoint`` keeps its settings, and its type where it is another hook's.
    """
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if hooks is None:
        hooks = cfg.default_hooks = ConfigDict()
    hook = hooks.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))  # MMEngine's own default.
    if isinstance(hook, dict) and hook.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook):
        hook['type'] = 'mmetris.AtomicCheckpointHook'


def checkpoint_to_resume(parser: argparse.ArgumentParser, cfg: Config) -> str | None:
    """The newest whole checkpoint of the work folder, or None if there is none yet.

    Args:
        parser: Where it is reported that all of them are damaged.
        cfg: The config, with its ``work_dir``.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    out_dir = out_dir_of(hook.get('out_dir') if isinstance(hook, dict) else None, cfg.work_dir)
    try:
        found = find_resumable(cfg.work_dir, out_dir, say=print_log if is_main_process() else lambda line: None)
    except ValueError as error:
        parser.error(f'--resume: {error}')
    return None if found is None else str(found)


# Numbers of train_cfg that MMEngine takes as they come: it would train no step, or divide by zero after the first.
COUNTS = ('max_epochs', 'max_iters', 'val_interval')


def check_counts(parser: argparse.ArgumentParser, cfg: Config) -> None:
    """End the program with one line if ``train_cfg`` asks for less than one epoch, step or interval.

    Args:
        parser: Where errors are reported.
        cfg: The config.
    """
    for name in COUNTS:
        value = (cfg.get('train_cfg') or {}).get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            message = f'train_cfg.{name}={value!r} must be a whole number of at least 1'
            if name == 'val_interval':
                message += '; without validation: val_cfg=None val_dataloader=None val_evaluator=None'
            parser.error(message)


def check_pipelines(parser: argparse.ArgumentParser, cfg: Config, loaders: Sequence[str]) -> None:
    """End the program with one line if a data set's pipeline is empty: images would never be read.

    Args:
        parser: Where errors are reported.
        cfg: The config.
        loaders: Names of the data loaders, e.g. ``train_dataloader``.
    """
    for name in loaders:
        dataset = (cfg.get(name) or {}).get('dataset') or {}
        if 'pipeline' in dataset and not dataset['pipeline']:
            parser.error(f'{name}.dataset.pipeline is empty: no image would be read (configs/_base_/datasets has one)')


def set_work_dir(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Work folder: the command line, then the config's ``work_dir``, then ``work_dirs/<config name>``.

    Args:
        parser: Where errors are reported.
        cfg: The config, whose ``work_dir`` is set.
        args: ``config`` and ``work_dir``.
    """
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    check_folder(parser, '--work-dir', cfg.work_dir)


def check_folder(parser: argparse.ArgumentParser, flag: str, folder: str | os.PathLike) -> None:
    """End the program with one line if no folder can be where results go, since a file is there.

    Args:
        parser: Where errors are reported.
        flag: What named it.
        folder: Which need not be there yet.
    """
    path = Path(folder).absolute()
    nearest = next(one for one in (path, *path.parents) if one.exists())
    if not nearest.is_dir():
        parser.error(f'{flag} {folder}: {nearest} is a file, not a folder')


def prepare_mixed_precision(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Let the optimizer's wrapper compute in mixed precision.

    Args:
        parser: Where errors are reported.
        cfg: The config; ``optim_wrapper`` becomes MMEngine's ``AmpOptimWrapper`` for float16, and
            :class:`mmetris.engine.BFloat16OptimWrapper` for bfloat16.
        args: ``config`` and ``amp_dtype``, which may be None: float16, unless the config has bfloat16 already.
    """
    wrapper = cfg.optim_wrapper
    kind = type_name(wrapper)
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'BFloat16OptimWrapper'):
        own = ', whose type is set in strategy.bf16 or strategy.fp16' if kind == 'DeepSpeedOptimWrapper' else ''
        parser.error(f'--amp replaces an OptimWrapper, and {args.config} has a {kind}{own}')
    if (args.amp_dtype or ('bfloat16' if kind == 'BFloat16OptimWrapper' else 'float16')) == 'float16':
        if not has_accelerator():
            parser.error('--amp in float16 needs a GPU, and none is visible; --amp-dtype bfloat16 runs on CPUs too')
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        if args.amp_dtype:
            wrapper.dtype = args.amp_dtype
        return
    if torch.cuda.is_available() and not has_bfloat16():
        parser.error(
            f'--amp-dtype bfloat16: {torch.cuda.get_device_name()} does not compute in bfloat16; '
            'take --amp-dtype float16'
        )
    for key in ('loss_scale', 'dtype', 'use_fsdp'):  # An AmpOptimWrapper's own.
        wrapper.pop(key, None)
    wrapper.type = 'mmetris.BFloat16OptimWrapper'


def has_bridged_model(cfg: Config) -> bool:
    """Whether a config's model is a :class:`BridgedModel`: a ReferringSegmentor, a ClassNameSegmentor, or derived."""
    from mmetris.models.trunk import BridgedModel  # Models take seconds to import, and few commands ask.

    init_default_scope(cfg.get('default_scope', 'mmetris'))
    return is_kind_of(cfg.model, BridgedModel, MODELS)


def add_compile_hook(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Let the run compile what costs time, unless the config does so already.

    Args:
        parser: Where errors are reported.
        cfg: The config; ``custom_hooks`` gets a :class:`mmetris.engine.hooks.CompileHook`.
        args: ``config``.
    """
    if not has_bridged_model(cfg):
        parser.error(
            f'--compile is for a ReferringSegmentor or ClassNameSegmentor, and {args.config} has a '
            f'{type_name(cfg.model)}; compile=True of MMEngine is for any model'
        )
    if 'strategy' in cfg:
        parser.error(f'--compile does not go with the strategy of {args.config}; train with DDP, or leave it out')
    hooks = list(cfg.get('custom_hooks') or [])
    if all(type_name(hook) != 'CompileHook' for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type='mmetris.CompileHook')]


def prepare_strategy(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Check that the config's ``strategy`` can run, or leave it out where there is nothing to spread.

    Args:
        parser: Where errors are reported.
        cfg: The config; without a launcher FSDP's ``strategy`` and its ``runner_type`` are taken out of it. DeepSpeed
            is refused then: its optimizer's wrapper cannot train without its strategy.
        args: ``config``, and the parsed arguments of :func:`add_launcher_arguments`.
    """
    kind = type_name(cfg.get('strategy'))
    if uses_deepspeed(cfg):
        if problem := _deepspeed_problem():
            parser.error(
                f'{args.config} trains with {kind}, and {problem}: `pip install deepspeed==0.16.9`, or take '
                "strategy=dict(type='mmetris.RefSegFSDPStrategy'), which needs PyTorch alone"
            )
        if args.launcher == 'none':
            parser.error(
                f'{args.config} trains with {kind}, which needs a launcher, for one process too: '
                f'bash tools/dist_train.sh {args.config} 1'
            )
    elif kind and args.launcher == 'none':
        print_log(f'{kind} spreads a model over processes, and this is one: it is left out')
        drop_strategy(cfg)


def uses_deepspeed(cfg: Config) -> bool:
    """Whether a config's ``strategy`` is MMEngine's ``DeepSpeedStrategy``."""
    return type_name(cfg.get('strategy')).endswith('DeepSpeedStrategy')


def _deepspeed_problem() -> str | None:
    """Why MMEngine could not use DeepSpeed, in words, or None."""
    if importlib.util.find_spec('deepspeed') is None:
        return 'the package deepspeed is not installed'
    if importlib.util.find_spec('deepspeed.runtime.fp16.onebit') is None:
        return 'the installed deepspeed no longer has the 1-bit optimizers, which MMEngine imports'
    return None


def drop_strategy(cfg: Config) -> None:
    """Take ``strategy`` and the runner that reads it out of a config: MMEngine's ordinary runner is left.

    Args:
        cfg: The config, changed in place.
    """
    if cfg.pop('strategy', None) is not None:
        cfg.pop('runner_type', None)


def prepare_processes(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Set the launcher; on a machine without a GPU, join the process group over gloo instead of NCCL.

    MMEngine selects a CUDA device before it joins the group, which fails without one; it leaves a group alone that
    exists already, so this joins first. Where there are GPUs nothing changes, but one too few is reported in one line.

    Args:
        parser: Where errors are reported.
        cfg: The config; ``launcher`` is set and, without a GPU, ``env_cfg.dist_cfg.backend`` and ``model_wrapper_cfg``.
        args: Parsed arguments of :func:`add_launcher_arguments`.
    """
    cfg.launcher = args.launcher
    local_rank = int(os.environ.setdefault('LOCAL_RANK', str(args.local_rank)))
    end_with_launcher()
    if args.launcher != 'pytorch':
        return
    if 'RANK' not in os.environ:
        parser.error('--launcher pytorch needs a launcher around it: use tools/dist_train.sh or tools/dist_test.sh')
    backend = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend', 'nccl')
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            parser.error(f'process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} are visible')
    elif backend in ('nccl', 'gloo') and not _other_accelerator():
        if is_main_process():
            print_log(f'No CUDA device: {os.environ["WORLD_SIZE"]} processes on the CPU, joined over gloo')
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        # MMEngine's own wrapping names a CUDA device for each process.
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.model_wrapper_cfg = wrapper | dict(cfg.get('model_wrapper_cfg', {}), device_ids=None)
        torch.distributed.init_process_group('gloo')


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """The runner that a config names, by default MMEngine's ordinary one; it starts quietly.

    Args:
        cfg: The whole config; the model, its wrapper and the logger are made from it here.
    """
    import mmetris.datasets  # noqa: F401  Imports MMSeg's quietly, before a config in MMSeg's scope imports them.

    hide_warnings()
    settle_loaders(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    quiet_screen(runner.logger)
    return runner


def settle_loaders(cfg: Config) -> None:
    """Take out of the data loaders' configs what PyTorch refuses without processes of their own.

    Args:
        cfg: The config; loaders whose ``num_workers`` is 0 lose ``persistent_workers``, ``prefetch_factor`` and
            ``multiprocessing_context``.
    """
    for phase in ('train', 'val', 'test'):
        loader = cfg.get(f'{phase}_dataloader')
        if isinstance(loader, dict) and not loader.get('num_workers'):
            for key in ('persistent_workers', 'prefetch_factor', 'multiprocessing_context'):
                loader.pop(key, None)


def build_without_weights(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` on the meta device: full structure, no memory, no weight file.

    A model that reads numbers of a tensor while it is built, as MMSeg's Swin does, takes memory after all: the CPU's.

    Args:
        cfg: A config with ``model`` and ``default_scope``.
    """
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg.model))  # MMSeg's segmentors write into their config.
    except (NotImplementedError, RuntimeError):
        return MODELS.build(cfg.model)


def is_main_process() -> bool:
    """Whether this is the first of all processes, as the launchers' variables tell it before any group exists."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))) == 0


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Within it SIGTERM, by which schedulers preempt, and SIGINT end the program by ``SystemExit`` and one line.

    What is being written is dropped on the way out. A second signal ends the program at once. Of several processes the
    first one says the line; the others have nothing to finish.
    """
    owner = os.getpid()
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # A loader's process has inherited this.
            os.kill(os.getpid(), number)
        if not is_main_process():
            os._exit(128 + number)
        received.append(number)
        name = signal.Signals(number).name
        print(f'{name}: training ends; --resume goes on from the last checkpoint', file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except BaseException:
        if received:  # Some packages catch everything, and raise an error of theirs in its place.
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_launcher(interval: float = 2.0) -> None:
    """Have this process end soon after its launcher (tools/dist_*.sh) is gone, in whatever it waits for then.

    A launcher that is killed cannot end its processes: they would wait for each other in the rendezvous for ever, or
    train on where nobody looks. The system gives them another parent in that moment, which a thread looks for.

    Args:
        interval: Seconds between two looks.
    """
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is None:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(interval)
        print(f'The launcher (process {launcher}) is gone: this process ends, too', file=sys.stderr, flush=True)
        os._exit(1)  # The main thread may stand in a call that no exception reaches.

    threading.Thread(target=watch, name='end_with_launcher', daemon=True).start()


def end_processes() -> None:
    """Wait for the other processes, then leave the group, if there is one, and end its threads.

    A process that exits with threads of the group may abort (SIGABRT): a thread that lets go of the last tensor of a
    finished exchange then needs an interpreter that is no longer there. The launcher stops the others for that, and
    with them the main process, which may still be writing a checkpoint. Destroying the group stops no thread as long
    as a distributed wrapper holds it, and the runner that holds the wrapper is a reference cycle. FSDP's cycles lead
    through C++ and stay; what its threads hold is let go of in the time that this takes.
    """
    if is_distributed():
        barrier()
        torch.distributed.destroy_process_group()
        gc.collect()


def has_accelerator() -> bool:
    """Whether mixed precision can run: CUDA or one of the accelerators MMEngine knows."""
    return torch.cuda.is_available() or _other_accelerator()


def has_bfloat16() -> bool:
    """Whether the current GPU computes in bfloat16 itself; PyTorch emulates it, slowly, on older ones."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _other_accelerator() -> bool:
    from mmengine import device

    return any(getattr(device, f'is_{name}_available', bool)() for name in ('mlu', 'npu', 'musa'))
