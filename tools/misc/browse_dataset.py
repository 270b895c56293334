"""Look at what a model is trained on: images, sentences and masks as they leave the pipeline.

python tools/misc/browse_dataset.py configs/etris/etris_tiny_shapes.py --output-dir work_dirs/browse --number 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmengine.utils import ProgressBar
from mmseg.structures import SegDataSample

from mmetris.registry import DATASETS, VISUALIZERS
from mmetris.utils.command_line import add_config_arguments, check_folder, load_config
from mmetris.utils.file_names import FreeNames, sample_name
from mmetris.utils.letterbox import letterbox_mask
from mmetris.utils.starting import in_one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line, with MMSegmentation's flags."""
    parser = argparse.ArgumentParser(description='Browse a data set after its pipeline')
    add_config_arguments(parser)
    parser.add_argument('--phase', choices=['train', 'val', 'test'], default='train', help='data loader; default train')
    parser.add_argument('--split', help="another split than the data loader's")
    parser.add_argument('--number', type=int, help='how many samples, evenly spread; default all')
    parser.add_argument('--epoch', type=int, default=0, help='epoch whose drawn sentences are shown; default 0')
    parser.add_argument('--output-dir', metavar='DIR', help='folder to save the pictures in')
    parser.add_argument('--not-show', action='store_true', help='open no window; implied by --output-dir')
    parser.add_argument('--show-interval', type=float, default=2, help='seconds a shown picture stays; default 2')
    return parser


def build_dataset(cfg: Config, phase: str, split: str | None, epoch: int) -> DATASETS:
    """Build the data set of a phase, on another split where one is named, at an epoch's draw of sentences."""
    dataset_cfg = cfg[f'{phase}_dataloader'].dataset
    if split is not None:
        dataset_cfg.split = split
    dataset = DATASETS.build(dataset_cfg)
    if hasattr(dataset, 'set_epoch'):
        dataset.set_epoch(epoch)
    return dataset


def at_size_of_image(data_sample: SegDataSample, image_hw: tuple[int, int]) -> SegDataSample:
    """A sample whose labels have the image's size: in testing they are loaded after the resizing, at their own.

    Args:
        data_sample: With ``gt_sem_seg``, or without.
        image_hw: Height and width of the image as it leaves the pipeline.
    """
    if 'gt_sem_seg' not in data_sample:
        return data_sample
    labels = data_sample.gt_sem_seg.data[0].numpy().astype(np.uint8)
    if labels.shape == image_hw:
        return data_sample
    if 'letterbox' in data_sample:
        labels = letterbox_mask(labels, image_hw, interpolation='nearest')
    else:
        labels = cv2.resize(labels, image_hw[::-1], interpolation=cv2.INTER_NEAREST)
    data_sample = data_sample.clone()
    data_sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels[None]))
    return data_sample


def main() -> None:
    """Draw the samples one by one."""
    parser = build_parser()
    args = parser.parse_args()
    if args.output_dir is None and args.not_show:
        parser.error('--not-show without --output-dir would do nothing')
    if args.number is not None and args.number < 1:
        parser.error('--number must be at least 1')
    if args.output_dir is not None:
        check_folder(parser, '--output-dir', args.output_dir)
    cfg = load_config(parser, args)
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    with in_one_line(parser):
        dataset = build_dataset(cfg, args.phase, args.split, args.epoch)
    # No backend: the pictures are written here, under names that tell the samples apart.
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
    visualizer.dataset_meta = dataset.metainfo

    names = FreeNames()
    number = min(args.number or len(dataset), len(dataset))
    progress = ProgressBar(number)
    for count in range(number):
        sample = dataset[count * len(dataset) // number]
        # BGR to RGB, as an array of its own: OpenCV 5 draws on no view, and MMSeg 1.2.2 has it draw on one like this.
        image = np.ascontiguousarray(sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1])
        data_sample = at_size_of_image(sample['data_samples'], image.shape[:2])
        name = names.of(sample_name(data_sample))
        out_file = None if args.output_dir is None else str(Path(args.output_dir) / f'{name}.png')
        visualizer.add_datasample(
            name,
            image,
            data_sample,
            draw_gt=True,
            draw_pred=False,
            show=args.output_dir is None,
            wait_time=args.show_interval,
            out_file=out_file,
        )
        progress.update()
    print()


if __name__ == '__main__':
    main()
