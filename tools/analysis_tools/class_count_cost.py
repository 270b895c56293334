"""Time of an image against the number of classes.

    python tools/analysis_tools/class_count_cost.py configs/semseg/etris_vitb16_ade20k-512x512.py

Times do not depend on the weights, so random ones are used, and no CLIP is needed. The vocabularies are cut from
ADE20K's 150 names and take turns, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from mmengine.registry import init_default_scope
from mmseg.utils import get_classes

from mmetris.models import ClassNameSegmentor
from mmetris.registry import MODELS
from mmetris.utils.command_line import add_config_arguments, load_config
from mmetris.utils.config_types import is_kind_of, type_name
from mmetris.utils.starting import in_one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Time of an image against the number of classes')
    add_config_arguments(parser)
    parser.add_argument('--classes', type=int, nargs='+', default=[2, 150], help='numbers of classes; default 2 150')
    parser.add_argument('--size', type=int, nargs=2, default=[512, 512], metavar=('H', 'W'), help='default 512 512')
    parser.add_argument('--repeats', type=int, default=5, help='timed rounds, of which the median counts; default 5')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser


@torch.no_grad()
def time_vocabularies(model: torch.nn.Module, image: torch.Tensor, counts: list[int], repeats: int) -> list[float]:
    """Median seconds of one prediction, from normalised image to a class for each pixel.

    Args:
        model: A ClassNameSegmentor in evaluation mode.
        image: (1, 3, H, W).
        counts: Numbers of classes, at most 150.
        repeats: Rounds.

    Returns:
        Seconds for each of ``counts``. Encoding the names, which happens once for a vocabulary, is not in them.
    """
    seconds: list[list[float]] = [[] for _ in counts]
    for turn in range(repeats + 1):
        for index, count in enumerate(counts):
            model.set_vocabulary(dict(classes=get_classes('ade20k')[:count]))
            model.text_encoder.stage_features()
            _synchronize(image.device)
            started = time.perf_counter()
            model.predict(image)
            _synchronize(image.device)
            if turn > 0:  # the first round warms up
                seconds[index].append(time.perf_counter() - started)
    return [statistics.median(values) for values in seconds]


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def main() -> None:
    """Read the config, time, print one line for each number of classes."""
    parser = build_parser()
    args = parser.parse_args()
    cfg = load_config(parser, args)
    init_default_scope('mmetris')
    if not is_kind_of(cfg.model, ClassNameSegmentor, MODELS):
        parser.error(f'{args.config} has a {type_name(cfg.model)}, not a ClassNameSegmentor')
    if not all(2 <= count <= 150 for count in args.classes):
        parser.error(f'--classes {args.classes}: 2 to 150 each')
    cfg.model.vocabulary = dict(classes='ade20k')
    cfg.model.test_cfg = dict(mode='whole')
    with in_one_line(parser):
        model = MODELS.build(cfg.model).to(args.device).eval()
    image = torch.randn(1, 3, *args.size, device=args.device)
    times = time_vocabularies(model, image, args.classes, args.repeats)
    print(f'{cfg.model.get("text_mode", "joint")}, {args.size[0]}x{args.size[1]}, {args.device}')
    for count, value in zip(args.classes, times):
        print(f'{count:4d} classes  {1000 * value:9.1f} ms  {value / times[0]:5.2f} x')


if __name__ == '__main__':
    main()
