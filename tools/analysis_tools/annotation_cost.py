"""What annotations of RefCOCO's size cost: seconds and memory to read them, bytes to keep, microseconds for a mask.

    python tools/analysis_tools/annotation_cost.py

The files are made up and the images are empty files, so no data are needed. Reading draws every mask once and keeps it
as RLE; what a sample's mask then costs is compared with drawing its polygons again for each sample. Times are what this
process works, so that other programs are not in them, and the two ways to a mask take turns.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from prettytable import PrettyTable

from mmetris.benchmark.counters import resident_bytes
from mmetris.benchmark.loading import PHOTO_HW
from mmetris.datasets import RefCocoDataset, refer
from mmetris.datasets.segmentation import segmentation_to_rle
from mmetris.datasets.transforms import LoadAnnotations

WORDS = ('left', 'right', 'the', 'man', 'woman', 'in', 'red', 'shirt', 'dog', 'closest', 'to', 'us', 'behind', 'table')
TURNS = 5  # timed rounds in which both ways to a mask take their turns


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Measure what reading annotations and masks costs')
    parser.add_argument('--images', type=int, default=20000, help='empty files; default 20000')
    parser.add_argument('--annotations', type=int, default=200000, help='polygons; default 200000')
    parser.add_argument(
        '--refs',
        type=int,
        default=50000,
        help='objects with sentences, in the shares of the splits of RefCOCO; default 50000',
    )
    parser.add_argument('--masks', type=int, default=1000, help='objects whose masks are timed; default 1000')
    parser.add_argument(
        '--repeats', type=int, default=1, help='times to read, of which the (lower) median counts; default 1'
    )
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    return parser


def write_annotations(root: Path, images: int, annotations: int, refs: int) -> dict[str, Any]:
    """Write both files in REFER's layout, and empty images.

    Args:
        root: Existing folder.
        images: Number of images, each of ``PHOTO_HW`` pixels.
        annotations: Number of annotations, spread over the images; one polygon of 10 to 40 points each.
        refs: Number of referred objects, at most ``annotations``; two to four sentences each. Their splits are
            RefCOCO's (UNC), in its shares.

    Returns:
        The arguments by which a :class:`RefCocoDataset` finds them.
    """
    rng, (height, width) = np.random.default_rng(0), PHOTO_HW
    names = [f'COCO_train2014_{index:012d}.jpg' for index in range(images)]
    (root / 'images').mkdir()
    for name in names:
        (root / 'images' / name).touch()
    instances = dict(
        images=[dict(id=index, file_name=name, height=height, width=width) for index, name in enumerate(names)],
        annotations=[
            dict(
                id=index,
                image_id=index * images // annotations,
                category_id=1 + index % 80,
                iscrowd=0,
                segmentation=[_outline(rng)],
            )
            for index in range(annotations)
        ],
        categories=[dict(id=index, name=f'thing {index}') for index in range(1, 81)],
    )
    (root / 'instances.json').write_text(json.dumps(instances))
    published = refer.PUBLISHED_COUNTS['refcoco', 'unc']
    splits = [split for split, (count, _) in published.items() for _ in range(count)]
    objects = []
    for index in range(refs):
        annotation = instances['annotations'][index * annotations // refs]
        sentences = [_sentence(rng, 4 * index + turn) for turn in range(rng.integers(2, 5))]
        objects.append(
            dict(
                ref_id=index,
                ann_id=annotation['id'],
                image_id=annotation['image_id'],
                split=splits[index * len(splits) // refs],
                category_id=annotation['category_id'],
                file_name=f'{names[annotation["image_id"]][:-4]}_{annotation["id"]}.jpg',
                sentences=sentences,
                sent_ids=[sentence['sent_id'] for sentence in sentences],
            )
        )
    (root / 'refs(mine).p').write_bytes(pickle.dumps(objects, protocol=2))
    return dict(
        data_root=str(root),
        ann_file='instances.json',
        split_file='refs(mine).p',
        data_prefix=dict(img_path='images/'),
        split='train',
    )


def _outline(rng: np.random.Generator) -> list[float]:
    """A wavy outline in the image, [x0, y0, x1, y1, ...] in pixels with two decimals, as COCO's are."""
    height, width = PHOTO_HW
    angles = np.linspace(0, 2 * np.pi, rng.integers(10, 41), endpoint=False)
    radii = rng.uniform(30, 140) * rng.uniform(0.8, 1.2, len(angles))
    x = rng.uniform(0, width) + radii * np.cos(angles)
    y = rng.uniform(0, height) + radii * np.sin(angles)
    return np.stack([x.clip(0, width), y.clip(0, height)], axis=1).round(2).ravel().tolist()


def _sentence(rng: np.random.Generator, sent_id: int) -> dict[str, Any]:
    # Strings of its own: a pickle writes a string that occurs again only once.
    text = ' '.join(WORDS[index] for index in rng.integers(len(WORDS), size=rng.integers(2, 7)))
    return dict(sent_id=sent_id, sent=text, raw=text.capitalize(), tokens=text.split())


def read_once(source: dict[str, Any], reader: str) -> dict[str, float]:
    """Read the annotations in this process, which has to be a fresh one for the memory to be right.

    Args:
        source: Arguments of a :class:`RefCocoDataset`.
        reader: ``'json'``, or ``'orjson'`` where that package is installed.

    Returns:
        ``objects`` and the ``record_bytes`` that they are kept in; under names that end in the reader's, seconds of a
        core and the bytes by which resident memory has grown at its peak (0 on other systems than Linux).
    """
    if reader == 'json':
        refer._load_json = json.loads
    before, started = _resident('VmRSS'), time.process_time()
    dataset = RefCocoDataset(**source)
    seconds = time.process_time() - started
    return {
        'objects': len(dataset),
        'record_bytes': dataset.data_bytes.nbytes,
        f'read_seconds_{reader}': seconds,
        f'read_peak_bytes_{reader}': max(0, _resident('VmHWM') - before),
    }


def _resident(field: str) -> int:
    # Not the resource module's ru_maxrss, which in a new process starts at what its parent had.
    try:
        return resident_bytes(field)
    except OSError:
        return 0


def time_masks(source: dict[str, Any], masks: int) -> dict[str, float]:
    """Time to draw the masks of a split once, and for a sample's mask in either form.

    Args:
        source: Arguments of a :class:`RefCocoDataset`.
        masks: Objects, from all over the split, whose masks are timed; all where the split has fewer.

    Returns:
        ``draw_seconds`` of all masks, a part of the seconds to read; microseconds of :class:`LoadAnnotations` on a
        record with RLE, as the data set keeps it (``rle_us``), and on one with polygons (``polygon_us``).
    """
    root, (height, width) = Path(source['data_root']), PHOTO_HW
    refs = refer.select_split(refer.load_refs(str(root / source['split_file'])), source['split'], source['split_file'])
    instances = refer.load_instances(str(root / source['ann_file']))
    polygons = [instances.annotations[ref['ann_id']]['segmentation'] for ref in refs]
    with refer.collector_paused():  # As while the data set reads.
        started = time.process_time()
        rles = [segmentation_to_rle(segmentation, height, width) for segmentation in polygons]
        draw_seconds = time.process_time() - started
    chosen, load = np.linspace(0, len(refs) - 1, min(masks, len(refs)), dtype=int), LoadAnnotations()
    spent: dict[str, list[float]] = dict(rle_us=[], polygon_us=[])
    for _ in range(TURNS):
        for times, segmentations in zip(spent.values(), (rles, polygons)):
            started = time.process_time()
            for index in chosen:
                load(dict(segmentation=segmentations[index], height=height, width=width, seg_fields=[]))
            times.append(time.process_time() - started)
    return dict(draw_seconds=draw_seconds) | {
        name: 1e6 * statistics.median(times) / len(chosen) for name, times in spent.items()
    }


def measure(root: Path, args: argparse.Namespace) -> dict[str, float]:
    """Write the files into an existing folder and measure.

    Args:
        root: The folder.
        args: Of the command line.

    Returns:
        Bytes of both files, and what :func:`read_once` (medians) and :func:`time_masks` return.
    """
    source = write_annotations(root, args.images, args.annotations, args.refs)
    figures = dict(
        instances_bytes=(root / source['ann_file']).stat().st_size,
        refs_bytes=(root / source['split_file']).stat().st_size,
    )
    for reader in ('json', 'orjson') if find_spec('orjson') else ('json',):
        reads = []
        for _ in range(args.repeats):
            with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
                reads.append(pool.submit(read_once, source, reader).result())
        figures |= {name: statistics.median_low(read[name] for read in reads) for name in reads[0]}
    return figures | time_masks(source, args.masks)


def main() -> None:
    """Write, measure, print."""
    parser = build_parser()
    args = parser.parse_args()
    for name in ('images', 'annotations', 'refs', 'masks', 'repeats'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: at least 1')
    if args.refs > args.annotations:
        parser.error(f'--refs {args.refs}: at most one for each of the {args.annotations} annotations')
    with TemporaryDirectory() as root:
        figures = measure(Path(root), args)
    if args.json:
        print(json.dumps(dict(images=args.images, annotations=args.annotations, refs=args.refs) | figures))
        return
    print(f'{args.annotations:,} annotations and {args.refs:,} refs on {args.images:,} images, made up')
    table = PrettyTable(['figure', 'value'], align='r')
    for name, value in figures.items():
        table.add_row([name.replace('_', ' '), f'{value:,.2f}' if isinstance(value, float) else f'{value:,}'])
    print(table)


if __name__ == '__main__':
    main()
