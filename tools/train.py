"""Train a model from a config: ``python tools/train.py configs/etris/etris_vitb16_refcoco.py``."""

from __future__ import annotations

import mmetris.threads  # noqa: F401  PyTorch reads what it sets when it is imported

# isort: split

import argparse
import errno
from contextlib import nullcontext
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmetris.utils.checkpoint_io import CheckpointNotSavedError, NonFiniteLossError
from mmetris.utils.command_line import (
    add_compile_hook,
    add_config_arguments,
    add_launcher_arguments,
    check_checkpoint,
    check_counts,
    check_pipelines,
    checkpoint_to_resume,
    end_on_signals,
    end_processes,
    is_main_process,
    load_config,
    prepare_mixed_precision,
    prepare_processes,
    prepare_strategy,
    set_work_dir,
    use_atomic_checkpoints,
    uses_deepspeed,
)
from mmetris.utils.starting import ToolParser, start
from mmetris.utils.work_folder import LAST_CHECKPOINT, FolderInUseError, held, remove_training


def build_parser() -> argparse.ArgumentParser:
    """The command line, with MMSegmentation's flags."""
    parser = ToolParser(description='Train a referring segmentation model')
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a name, from the newest whole one in the work folder',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help="start anew in a work folder that holds a training: that one's checkpoints are removed",
    )
    parser.add_argument(
        '--amp', action='store_true', help='train with automatic mixed precision; in float16, which needs a GPU'
    )
    parser.add_argument(
        '--amp-dtype', choices=['float16', 'bfloat16'], help='--amp in this type; bfloat16 runs on CPUs too'
    )
    parser.add_argument('--compile', action='store_true', help='torch.compile for Bridger, both encoders and decoder')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="multiply the learning rate by the total batch / the config's base_batch_size",
    )
    add_launcher_arguments(parser)
    return parser


def check_work_dir(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """End the program with one line if the work folder holds another training, which this one would be mixed with."""
    if cfg.get('resume') or not (Path(cfg.work_dir) / LAST_CHECKPOINT).exists():
        return
    if not args.overwrite:
        parser.error(
            f'{cfg.work_dir} holds a training: go on with --resume, take another --work-dir, or start anew with '
            '--overwrite, which removes its checkpoints'
        )
    if cfg.get('load_from') and Path(cfg.load_from).resolve().parent == Path(cfg.work_dir).resolve():
        parser.error(f'--overwrite would remove {cfg.load_from}, from which training starts: take another --work-dir')


@end_on_signals()
def main() -> None:
    """Read the config, apply the flags, train."""
    parser = build_parser()
    args = parser.parse_args()
    cfg = load_config(parser, args)
    check_counts(parser, cfg)
    check_pipelines(parser, cfg, ('train_dataloader', 'val_dataloader'))
    set_work_dir(parser, cfg, args)
    use_atomic_checkpoints(cfg)

    if args.amp or args.amp_dtype:
        prepare_mixed_precision(parser, cfg, args)

    resume = args.resume or ('auto' if cfg.get('resume') and not cfg.get('load_from') else None)
    was_read = False
    if resume is not None:
        checkpoint = checkpoint_to_resume(parser, cfg) if resume == 'auto' else resume
        if checkpoint is None:
            # The first start of a job that restarts itself: the config's own load_from still counts.
            print_log(f'--resume: no checkpoint in {cfg.work_dir} yet, training starts from the beginning')
        else:
            cfg.resume = True
            cfg.load_from = checkpoint
            was_read = resume == 'auto'
    if cfg.get('load_from') and not was_read and not uses_deepspeed(cfg):  # its folders DeepSpeed reads itself
        content = check_checkpoint(parser, cfg.load_from, '--resume' if resume else f'load_from of {args.config}')
        if cfg.resume and content is not None and not {'meta', 'message_hub', 'optimizer'} <= content.keys():
            parser.error(
                f'--resume: {cfg.load_from} holds weights without the state of a training (optimizer, iteration), as '
                'the best checkpoint does. Go on from another one, or start anew from its weights: '
                f'--cfg-options load_from={cfg.load_from}'
            )

    check_work_dir(parser, cfg, args)

    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            parser.error(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}')
        cfg.auto_scale_lr.enable = True

    prepare_strategy(parser, cfg, args)
    if args.compile:
        add_compile_hook(parser, cfg, args)
    prepare_processes(parser, cfg, args)
    try:
        # The first process writes; the others are ended by their launcher when it cannot.
        with held(cfg.work_dir) if is_main_process() else nullcontext():
            if args.overwrite and is_main_process() and not cfg.resume:
                remove_training(cfg.work_dir)
            start(parser, cfg, 'train')
            end_processes()
    except FolderInUseError as error:
        parser.exit(2, f'error: {error}\n')
    except CheckpointNotSavedError as error:
        parser.exit(1, f'error: {error}\n' if is_main_process() else None)
    except NonFiniteLossError as error:  # Of any process: the others know nothing of it.
        parser.exit(1, f'error: {error}\n')
    except RuntimeError as error:
        if not str(error).startswith('DataLoader worker'):
            raise
        # PyTorch names the process and the signal; the kernel ends what takes too much memory by SIGKILL.
        parser.exit(
            1,
            f'error: a process that loads data died: {str(error).splitlines()[0]} If it was killed for its memory, '
            'take fewer (train_dataloader.num_workers); --resume goes on from the last checkpoint\n',
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # The log is mostly what needs room next.
        parser.exit(1, f'error: {error}. The checkpoints are as they were: make room and go on with --resume\n')


if __name__ == '__main__':
    main()
