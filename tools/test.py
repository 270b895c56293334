"""Score a checkpoint: ``python tools/test.py configs/etris/etris_vitb16_refcoco.py work_dirs/.../best.pth``."""

from __future__ import annotations

import mmetris.threads  # noqa: F401  PyTorch reads what it sets when it is imported

# isort: split

import argparse

from mmengine.config import Config

from mmetris.apis.model_zoo import is_training_free
from mmetris.utils.autocast import DTYPES, set_test_dtype
from mmetris.utils.checkpoint_io import MisfitError
from mmetris.utils.command_line import (
    add_compile_hook,
    add_config_arguments,
    add_launcher_arguments,
    check_checkpoint,
    check_pipelines,
    drop_strategy,
    end_processes,
    has_bridged_model,
    is_main_process,
    load_config,
    prepare_processes,
    set_work_dir,
)
from mmetris.utils.config_types import type_name
from mmetris.utils.starting import ToolParser, start


def build_parser() -> argparse.ArgumentParser:
    """The command line, with MMSegmentation's flags and ``--split``."""
    parser = ToolParser(description='Test a referring segmentation model')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint',
        nargs='?',
        default='-',
        help='checkpoint file or address; none, or -, for a model without training',
    )
    parser.add_argument(
        '--split',
        action='append',
        metavar='NAME',
        help="split to test, instead of the config's; again for more: --split val --split testB",
    )
    parser.add_argument('--work-dir', help='folder for log and scores (JSON); default work_dirs/<config name>')
    parser.add_argument(
        '--out', metavar='DIR', help='folder for the predicted masks (PNG, 0 and 1) and a table of their IoU'
    )
    parser.add_argument('--show', action='store_true', help='show every picture in a window')
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='folder in <work dir>/<time stamp> for pictures of image, sentence and both masks',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a shown picture stays; default 2')
    parser.add_argument(
        '--dtype',
        choices=DTYPES,
        help="what the model computes in (its test_cfg.dtype); default the config's, or float32",
    )
    parser.add_argument('--compile', action='store_true', help='torch.compile for Bridger, both encoders and decoder')
    parser.add_argument('--tta', action='store_true', help="augment by the config's tta_model and tta_pipeline")
    add_launcher_arguments(parser)
    return parser


def draw_predictions(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Switch the config's visualization hook on, to a window, a folder or both."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        parser.error(f'--show and --show-dir need default_hooks.visualization in {args.config}')
    hook.draw = True
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir and type_name(hook) == 'RefSegVisualizationHook':
        hook.out_dir = args.show_dir
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def choose_splits(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Make the test loop read ``args.split``."""
    if 'split' not in cfg.test_dataloader.dataset:
        parser.error(f'--split: the test data set of {args.config} has no "split"')
    if type_name(cfg.test_cfg) == 'SplitTestLoop':
        cfg.test_cfg.splits = args.split
    elif len(args.split) == 1:
        cfg.test_dataloader.dataset.split = args.split[0]
    else:
        parser.error(f"--split: several splits need test_cfg = dict(type='SplitTestLoop', ...) in {args.config}")


def choose_dtype(parser: argparse.ArgumentParser, cfg: Config, args: argparse.Namespace) -> None:
    """Make the model predict in ``args.dtype``."""
    if not has_bridged_model(cfg):
        parser.error(
            f'--dtype is for a ReferringSegmentor or ClassNameSegmentor, and {args.config} has a '
            f"{type_name(cfg.model)}; test_cfg.fp16=True of MMEngine's test loop is for any model"
        )
    set_test_dtype(cfg, args.dtype)


def save_masks(cfg: Config, folder: str) -> None:
    """Give every metric that can write masks its folder, as MMSegmentation's ``--out`` does."""
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    for evaluator in evaluators:
        evaluator.output_dir = folder
        evaluator.keep_results = True


def print_scores(scores: dict[str, float]) -> None:
    """One line for each split: ``testA: oIoU 60.12, mIoU 63.45, Pr@0.5 71.00, samples 5657``."""
    by_split: dict[str, list[str]] = {}
    for key, score in scores.items():
        split, _, name = key.rpartition('/')
        by_split.setdefault(split, []).append(f'{name} {score:.2f}' if isinstance(score, float) else f'{name} {score}')
    for split, words in by_split.items():
        print(f'{split or "test"}: {", ".join(words)}', flush=True)


def main() -> None:
    """Read the config, apply the flags, test."""
    parser = build_parser()
    args = parser.parse_args()
    cfg = load_config(parser, args)
    check_pipelines(parser, cfg, ('test_dataloader',))
    training_free = args.checkpoint == '-'
    if not training_free:
        check_checkpoint(parser, args.checkpoint, 'checkpoint')
    elif not is_training_free(cfg):
        parser.error(f'a checkpoint is needed: the model of {args.config} has to be trained')
    set_work_dir(parser, cfg, args)
    cfg.load_from = None if training_free else args.checkpoint
    cfg.resume = False

    if args.split:
        choose_splits(parser, cfg, args)
    if args.show or args.show_dir:
        draw_predictions(parser, cfg, args)
    if args.out:
        save_masks(cfg, args.out)
    if args.dtype:
        choose_dtype(parser, cfg, args)
    if args.compile:
        add_compile_hook(parser, cfg, args)
    if args.tta:
        if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
            parser.error(f'--tta needs tta_model and tta_pipeline in {args.config}')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.tta_model.module = cfg.model
        cfg.model = cfg.tta_model

    # What is missing in a checkpoint would be tested at random values.
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='mmetris.StrictLoadHook')]
    drop_strategy(cfg)  # without gradients and optimizer every process holds the whole model
    prepare_processes(parser, cfg, args)
    try:
        scores = start(parser, cfg, 'test')
    except MisfitError as error:
        parser.exit(1, f'error: {error}\n' if is_main_process() else None)
    if is_main_process():
        print_scores(scores)
    end_processes()


if __name__ == '__main__':
    main()
