"""Where a model fails: the worst sentences on a sheet, and mIoU and oIoU by sentence length, mask size and words.

From what tools/test.py has written, with pictures and true masks from the config's data:

    python tools/test.py CONFIG CHECKPOINT --out work_dirs/masks
    python tools/analysis_tools/failures.py work_dirs/masks --config CONFIG --out-dir work_dirs/failures

or in one go:

    python tools/analysis_tools/failures.py --config CONFIG --checkpoint CHECKPOINT --out-dir work_dirs/failures

Each split gets ``worst.png`` (the first cases), ``worst.csv`` (all sentences, worst first), ``breakdown.csv``,
``breakdown.md`` and ``breakdown.png``. The paper shows such cases in Figures 4 to 8. Without a config, ``--images``
names the folder of the pictures; true masks are then not shown.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmetris.evaluation.breakdown import (
    LENGTH_EDGES,
    SIZE_EDGES,
    WORD_TYPES_FILE,
    Part,
    SentenceScore,
    break_down,
    load_word_types,
    word_types,
)
from mmetris.registry import DATASETS, TRANSFORMS
from mmetris.utils.command_line import load_config
from mmetris.utils.config_options import add_cfg_options, option_text
from mmetris.utils.config_types import type_name
from mmetris.utils.file_names import file_stem, sample_name
from mmetris.utils.image_io import IMAGE_SUFFIXES, read_image
from mmetris.utils.text_files import writable
from mmetris.visualization import draw_referring_picture, make_contact_sheet

COLUMNS = ('name', 'expression', 'intersection', 'union', 'iou')


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Worst cases, and scores by length, mask size and words')
    parser.add_argument('results', nargs='?', type=Path, help='folder that tools/test.py --out wrote')
    parser.add_argument('--config', help='config; its test data has the pictures and the true masks')
    parser.add_argument('--checkpoint', help='test this one first, with --config')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder to write to')
    parser.add_argument('--images', type=Path, help='folder of the pictures, where no config is given')
    parser.add_argument('--split', action='append', metavar='NAME', help='only this split; again for more')
    parser.add_argument('--number', type=int, default=16, help='cases on the sheet; default 16')
    parser.add_argument(
        '--contains',
        metavar='TYPE',
        help='only sentences with words of this type on the sheet: number, position, colour, relation',
    )
    parser.add_argument(
        '--lengths',
        type=int,
        nargs='+',
        default=LENGTH_EDGES,
        metavar='N',
        help=f'most words of each class of length; default {" ".join(map(str, LENGTH_EDGES))}',
    )
    parser.add_argument(
        '--sizes',
        type=float,
        nargs='+',
        default=SIZE_EDGES,
        metavar='P',
        help=f'largest percent of the picture of each class of mask size; default {" ".join(map(str, SIZE_EDGES))}',
    )
    parser.add_argument(
        '--word-types',
        type=Path,
        default=WORD_TYPES_FILE,
        metavar='FILE',
        help='JSON with lists of words, instead of mmetris/evaluation/word_types.json',
    )
    add_cfg_options(parser)
    return parser


def run_test(
    config: str, checkpoint: str, out_dir: Path, splits: Sequence[str] | None, cfg_options: dict[str, Any] | None
) -> Path:
    """Run tools/test.py, and return the folder of its masks."""
    results = out_dir / 'masks'
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / 'test.py'),
        config,
        checkpoint,
        '--out',
        str(results),
        '--work-dir',
        str(out_dir / 'test'),
    ]
    for split in splits or ():
        command += ['--split', split]
    if cfg_options:
        command += ['--cfg-options', *(f'{key}={option_text(value)}' for key, value in cfg_options.items())]
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(f'error: tools/test.py ended with {done.returncode}')
    return results


def find_tables(results: Path, splits: Sequence[str] | None) -> dict[str, Path]:
    """The tables in a folder of results by split; '' where there is one without a name.

    Raises:
        FileNotFoundError: If there is none, or not for each of ``splits``.
    """
    # Of several splits, each has a folder of its own.
    paths = sorted([*results.glob('sentences*.csv'), *results.glob('*/sentences*.csv')])
    tables = {path.stem.removeprefix('sentences').lstrip('_'): path for path in paths}
    if not tables:
        raise FileNotFoundError(f'{results} has no sentences.csv; is it the folder of tools/test.py --out?')
    missing = [split for split in splits or () if split not in tables]
    if missing:
        raise FileNotFoundError(f'{results} has no split {missing[0]!r}, but {", ".join(map(repr, tables))}')
    return {split: tables[split] for split in splits} if splits else tables


def read_scores(table: Path) -> list[SentenceScore]:
    """Sentences of a table, with the share of the picture that the true mask covers where the predicted mask is there.

    Raises:
        ValueError: If it is no table of tools/test.py.
    """
    with table.open(newline='', encoding='utf-8-sig') as file:  # A spreadsheet adds a byte order mark.
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ())[: len(COLUMNS)] != COLUMNS:  # Another, the picture's name, may follow.
            raise ValueError(f'{table} has columns {reader.fieldnames}, but tools/test.py writes {list(COLUMNS)}')
        rows = list(reader)
    scores = []
    for row in rows:
        intersection, union, share = int(row['intersection']), int(row['union']), None
        mask_file = table.parent / f'{row["name"]}.png'
        if mask_file.is_file():
            predicted = np.asarray(Image.open(mask_file)) != 0
            # |truth| = |union| + |intersection| - |prediction|; pixels that are not scored may make it too small.
            share = max(union + intersection - int(predicted.sum()), 0) / predicted.size
        image = row.get('image') or ''
        scores.append(SentenceScore(row['name'], row['expression'], intersection, union, share, image))
    return scores


class Samples:
    """Pictures and true masks of sentences, by the names that tools/test.py gives them.

    Args:
        cfg: A config with test data.
        split: Split to read; '' for that of the config.
    """

    def __init__(self, cfg: Config, split: str) -> None:
        init_default_scope('mmetris')
        dataset_cfg = cfg.test_dataloader.dataset
        if split:
            dataset_cfg.split = split
        steps = [step for step in dataset_cfg.pipeline if type_name(step).startswith('LoadAnnotations')]
        self.load_mask = TRANSFORMS.build(steps[0]) if steps else None
        self.dataset = DATASETS.build(dict(dataset_cfg, pipeline=[]))
        self.records = {}
        for index in range(len(self.dataset)):
            record = self.dataset[index]
            self.records[sample_name(record)] = record

    def __call__(self, score: SentenceScore) -> tuple[np.ndarray, np.ndarray | None]:
        """Picture (H, W, 3) RGB and true mask (H, W)."""
        name = score.name
        if name not in self.records:
            raise ValueError(
                f'the test data of the config has no sentence called {name}; do config and results belong together?'
            )
        record = self.records[name]
        image = _read_rgb(record['img_path'])
        if self.load_mask is None:
            return image, None
        shape = image.shape[:2]
        return image, self.load_mask(dict(record, img_shape=shape, ori_shape=shape))['gt_seg_map']


class ImageFolder:
    """Pictures in a folder, by the names that a table has of them; an older one has names of sentences alone (picture,
    underscore, number).

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
        self.by_stem = {file_stem(path.name): path for path in paths}
        self.by_name = {writable(path.name): path for path in paths}
        self.folder = folder

    def __call__(self, score: SentenceScore) -> tuple[np.ndarray, None]:
        """Picture (H, W, 3) RGB; no mask."""
        path = self.by_name.get(score.image)
        path = path or self.by_stem.get(score.name.rpartition('_')[0]) or self.by_stem.get(score.name)
        if path is None:
            raise ValueError(f'{self.folder} has no picture for {score.name}')
        return _read_rgb(path), None


def _read_rgb(path: str | Path) -> np.ndarray:
    return np.ascontiguousarray(read_image(path)[..., ::-1])


def draw_worst(worst: Sequence[SentenceScore], results: Path, samples: Any, out_file: Path) -> None:
    """Put cases on a sheet, in their order."""
    pictures = []
    for rank, score in enumerate(worst, 1):
        image, target = samples(score)
        mask_file = results / f'{score.name}.png'
        predicted = np.asarray(Image.open(mask_file)) if mask_file.is_file() else None
        pictures.append(
            draw_referring_picture(image, score.expression, predicted, target, score.iou, f'{rank}. {score.name}')
        )
    make_contact_sheet(pictures, 2, out_file)


def write_tables(parts: Sequence[Part], worst: Sequence[SentenceScore], folder: Path) -> str:
    """Write breakdown and cases, and return the breakdown as Markdown."""
    with (folder / 'breakdown.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['by', 'part', 'sentences', 'mIoU', 'oIoU'])
        writer.writerows([*part[:3], f'{part.mean_iou:.2f}', f'{part.overall_iou:.2f}'] for part in parts)
    with (folder / 'worst.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['rank', *COLUMNS])
        writer.writerows([rank, *score[:4], f'{100 * score.iou:.2f}'] for rank, score in enumerate(worst, 1))
    lines = ['| by | part | sentences | mIoU | oIoU |', '| --- | --- | ---: | ---: | ---: |']
    lines += [
        f'| {part.by} | {part.part} | {part.sentences} | {part.mean_iou:.2f} | {part.overall_iou:.2f} |'
        for part in parts
    ]
    markdown = '\n'.join(lines) + '\n'
    (folder / 'breakdown.md').write_text(markdown, encoding='utf-8')
    return markdown


def draw_breakdown(parts: Sequence[Part], out_file: Path) -> None:
    """Bars of mIoU and oIoU for each part, beside the lines of all sentences."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    whole, groups = parts[0], list(dict.fromkeys(part.by for part in parts[1:]))
    sizes = [sum(part.by == group for part in parts) for group in groups]
    figure, axes = pyplot.subplots(
        1,
        len(groups),
        figsize=(1 + 0.85 * sum(sizes), 3.4),
        layout='constrained',
        sharey=True,
        squeeze=False,
        gridspec_kw=dict(width_ratios=sizes),
    )
    for axis, group in zip(axes[0], groups):
        rows = [part for part in parts if part.by == group]
        for offset, key, color, label in (
            (-0.2, 'mean_iou', '#0072b2', 'mIoU'),
            (0.2, 'overall_iou', '#e69f00', 'oIoU'),
        ):
            axis.bar(
                [index + offset for index in range(len(rows))],
                [getattr(row, key) for row in rows],
                0.38,
                color=color,
                label=label,
            )
            axis.axhline(getattr(whole, key), color=color, linewidth=1, linestyle='--')
        labels = [f'{row.part.removesuffix(" words")}\n{row.sentences}' for row in rows]
        axis.set_xticks(range(len(rows)), labels, fontsize=8)
        axis.set_title(
            {'length': 'words in the sentence', 'mask size': 'mask, share of the picture', 'words': 'kind of words'}[
                group
            ],
            fontsize=10,
        )
        axis.spines[['top', 'right']].set_visible(False)
    axes[0, 0].set_ylabel('percent')
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside upper right', ncols=2, frameon=False)
    figure.text(0.01, 0.985, f'{whole.sentences} sentences; dashed: all of them', fontsize=9, va='top')
    figure.savefig(out_file, dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Read the command line, run the test if asked to, write sheet, tables and plot of each split."""
    parser = build_parser()
    args = parser.parse_args()
    if args.number < 1:
        parser.error('--number must be at least 1')
    if (args.results is None) == (args.checkpoint is None):
        parser.error('give either the folder of tools/test.py --out, or --config and --checkpoint')
    if args.checkpoint is not None and args.config is None:
        parser.error('--checkpoint needs --config')
    cfg = None if args.config is None else load_config(parser, args)
    try:
        lists = load_word_types(args.word_types)
        if args.contains is not None and args.contains not in lists:
            parser.error(f'--contains {args.contains}: {args.word_types} has {", ".join(lists)}')
        results = args.results
        if results is None:
            results = run_test(args.config, args.checkpoint, args.out_dir, args.split, args.cfg_options)
        for split, table in find_tables(results, args.split).items():
            report(table, cfg, split, args, lists)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


def report(
    table: Path, cfg: Config | None, split: str, args: argparse.Namespace, lists: dict[str, tuple[str, ...]]
) -> None:
    """Write everything about one split."""
    scores, folder = read_scores(table), args.out_dir / split
    folder.mkdir(parents=True, exist_ok=True)
    parts = break_down(scores, args.lengths, args.sizes, lists)
    chosen = scores
    if args.contains is not None:
        chosen = [score for score in scores if args.contains in word_types(score.expression, lists)]
    # Of equally bad ones (many have no overlap at all) the one with the larger union, which is the larger mistake.
    worst = sorted(chosen, key=lambda score: (score.iou, -score.union, score.name))
    print(f'{split or "test"}:\n{write_tables(parts, worst, folder)}')
    draw_breakdown(parts, folder / 'breakdown.png')
    if cfg is not None or args.images is not None:
        samples = Samples(cfg, split) if cfg is not None else ImageFolder(args.images)
        if worst:
            draw_worst(worst[: args.number], table.parent, samples, folder / 'worst.png')
    else:
        print('no sheet of the worst cases: give --config or --images')
    print(f'written: {folder}')


if __name__ == '__main__':
    main()
