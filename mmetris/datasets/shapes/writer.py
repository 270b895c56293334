"""Write the Shapes data set to disk in the very layout of RefCOCO.

    <root>/refcoco/instances.json      COCO annotations
    <root>/refcoco/refs(unc).p         pickled list of referred objects with their sentences
    <root>/train2014/COCO_train2014_000000000001.jpg ...
    <root>/shapes.json                 version and arguments this copy was drawn with

Any reader of RefCOCO reads it, with no option set. The layout ``'grefcoco'`` has gRefCOCO's file instead,
``grefcoco/grefs(unc).json``, with sentences that mean nothing, one object or several (``groups.py``); ``'semseg'``
(``semseg.py``) holds labels instead of sentences. Axes: K objects, H W pixels.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from ...utils.shapes import bounds_of
from ..refer import NO_TARGET
from .expressions import KINDS, Expression, refer
from .groups import GroupExpression, refer_to_groups
from .render import contours, render
from .scene import SHAPES, Scene, random_scene
from .semseg import draw_semseg

VERSION = 1  # of the drawing: any change to scenes, pixels or words that a seed gives must raise it
SPLITS = ('train', 'val', 'testA', 'testB')
STAMP = 'shapes.json'
LAYOUTS = ('refcoco', 'grefcoco', 'semseg')
_DESCRIPTIONS = dict(
    refcoco='Shapes: drawn scenes with referring expressions, in the layout of RefCOCO',
    grefcoco='Shapes: drawn scenes with sentences that mean no object, one or several, in the layout of gRefCOCO',
)

_NUM_OBJECTS = {'train': (2, 4), 'val': (2, 4), 'testA': (2, 4), 'testB': (5, 6)}
_Job = tuple[int, str, int, tuple[int, int] | None]
_JPEG_QUALITY = 95
_MOST_DRAWS = 1000


@dataclass(frozen=True)
class ShapesSpec:
    """What determines a copy of the data set, byte for byte: a seed and the number of images of each split.

    ``num_objects`` are the fewest and most objects of an image in train, val and testA; None: two to four. (testB
    always has five or six.) ``kinds`` are the kinds of sentences that are written; ``sent_id % 3`` tells a sentence's
    kind in any case.

    Raises:
        ValueError: If a number is out of range, or ``kinds`` has no kind or an unknown one.
    """

    seed: int = 0
    num_train: int = 2700
    num_val: int = 150
    num_test_a: int = 150
    num_test_b: int = 150
    num_objects: tuple[int, int] | None = None
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        for name in ('seed', 'num_train', 'num_val', 'num_test_a', 'num_test_b'):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f'{name}={value!r}: it must be a whole number, 0 or more')
        if self.num_objects is not None and not 2 <= self.num_objects[0] <= self.num_objects[1] <= 6:
            raise ValueError(f'num_objects={self.num_objects}: give the fewest and the most, 2 to 6')
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f'kinds={self.kinds}: give one or more of {", ".join(KINDS)}')
        if not any(self.counts.values()):
            raise ValueError('num_train, num_val, num_test_a and num_test_b are all 0: give at least one image')

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split, in the order of ``SPLITS``."""
        return dict(zip(SPLITS, (self.num_train, self.num_val, self.num_test_a, self.num_test_b)))


def draw_sample(
    seed: int, split: str, index: int, num_objects: tuple[int, int] | None = None
) -> tuple[Scene, list[tuple[Expression, ...]]]:
    """Draw the index-th scene of a split with its expressions, a triple for each object.

    The same arguments always give the same scene, however many images the splits have. A scene that cannot supply
    clear expressions is drawn again.

    Args:
        seed: Seed of the data set.
        split: One of ``SPLITS``.
        index: Number of the image in its split.
        num_objects: Fewest and most objects. Defaults to None: those of the split.

    Raises:
        ValueError: If the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f'unknown split {split!r}: use one of {SPLITS}')
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    for _ in range(_MOST_DRAWS):
        scene = random_scene(rng, *(num_objects or _NUM_OBJECTS[split]))
        triples = refer(rng, scene)
        if triples is not None:
            return scene, triples
    raise RuntimeError(f'no scene with clear expressions in {_MOST_DRAWS} draws (seed {seed}, {split}, {index})')


def draw_groups(
    seed: int, split: str, index: int, num_objects: tuple[int, int] | None = None
) -> tuple[Scene, list[GroupExpression]]:
    """The scene of :func:`draw_sample` with sentences that mean none of its objects, one or several.

    Args:
        seed: See there.
        split: See there.
        index: See there.
        num_objects: See there. Defaults to None.

    Raises:
        ValueError: If the split is unknown.
    """
    scene, triples = draw_sample(seed, split, index, num_objects)
    return scene, refer_to_groups(np.random.default_rng([seed, SPLITS.index(split), index, 1]), scene, triples)


def _uncompressed_rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of an (H, W) bool mask: column by column, the first run is background."""
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=[0] + runs if flat[0] else runs)


def _annotation(scene: Scene, index: int, mask: np.ndarray) -> dict:
    """COCO's entry for one object, without its ids. COCO's polygons know no holes, so a ring is written as RLE."""
    obj = scene.objects[index]
    lines = contours(obj)
    segmentation: list | dict
    if len(lines) == 1:
        segmentation = [np.round(lines[0], 2).ravel().tolist()]
    else:
        segmentation = _uncompressed_rle(mask)
    left, top, right, bottom = bounds_of(mask)
    return dict(
        category_id=1 + SHAPES.index(obj.shape),
        segmentation=segmentation,
        area=int(mask.sum()),
        bbox=[left, top, right - left, bottom - top],
        iscrowd=0,
    )


def _draw_picture(split: str, scene: Scene) -> dict:
    """Draw one image and its masks; what comes back is free of ids."""
    image, masks = render(scene)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return dict(
        split=split,
        width=scene.width,
        height=scene.height,
        jpeg=cv2.imencode('.jpg', image[..., ::-1], quality)[1].tobytes(),
        annotations=[_annotation(scene, i, mask) for i, mask in enumerate(masks)],
    )


def _draw(job: _Job) -> dict:
    """One image, its masks and, of each object, the sentences."""
    scene, triples = draw_sample(*job)
    refs = [((index,), [expression.text for expression in triple]) for index, triple in enumerate(triples)]
    return dict(_draw_picture(job[1], scene), refs=refs)


def _draw_grefs(job: _Job) -> dict:
    """One image, its masks, and sentences with the indices of what they mean."""
    scene, expressions = draw_groups(*job)
    return dict(_draw_picture(job[1], scene), refs=[(one.targets(scene), [one.text]) for one in expressions])


def _raw(text: str, sent_id: int) -> str:
    """As a person might have typed it: some sentences with a capital letter, some with a full stop."""
    raw = text[0].upper() + text[1:] if sent_id % 4 == 1 else text
    return raw + '.' if sent_id % 7 == 3 else raw


def _draw_all(draw: Callable, jobs: Iterable, workers: int) -> Iterator:
    """``map(draw, jobs)`` in so many processes."""
    if workers == 0:
        yield from map(draw, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
        yield from pool.map(draw, jobs, chunksize=32)


def _jobs(spec: ShapesSpec) -> list[_Job]:
    """Arguments of :func:`draw_sample` for each image."""
    return [
        (spec.seed, split, index, None if split == 'testB' else spec.num_objects)
        for split, count in spec.counts.items()
        for index in range(count)
    ]


def _draw_labels(job: _Job) -> tuple[bytes, bytes]:
    """Picture and labels of one image."""
    return draw_semseg(draw_sample(*job)[0], _JPEG_QUALITY)


def _write_semseg_tree(spec: ShapesSpec, folder: Path, workers: int) -> None:
    """Fill an empty folder in the layout of BaseSegDataset."""
    jobs = _jobs(spec)
    for kind in ('images', 'annotations'):
        for split in SPLITS:
            (folder / kind / split).mkdir(parents=True)
    for (_, split, index, _), (jpeg, png) in zip(jobs, _draw_all(_draw_labels, jobs, workers)):
        (folder / 'images' / split / f'{index:06d}.jpg').write_bytes(jpeg)
        (folder / 'annotations' / split / f'{index:06d}.png').write_bytes(png)


def _write_refer_tree(spec: ShapesSpec, folder: Path, workers: int, layout: str) -> None:
    """Fill an empty folder in the layout of RefCOCO or of gRefCOCO."""
    grouped = layout == 'grefcoco'
    (folder / layout).mkdir(parents=True)
    (folder / 'train2014').mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    refs: list[dict] = []
    num_sentences = 0
    for image_id, sample in enumerate(_draw_all(_draw_grefs if grouped else _draw, _jobs(spec), workers), start=1):
        name = f'COCO_train2014_{image_id:012d}'
        (folder / 'train2014' / f'{name}.jpg').write_bytes(sample['jpeg'])
        images.append(
            dict(id=image_id, file_name=f'{name}.jpg', width=sample['width'], height=sample['height'], license=1)
        )
        first_id = len(annotations) + 1
        for annotation in sample['annotations']:
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, **annotation))
        for targets, texts in sample['refs']:
            ann_ids = [first_id + target for target in targets]
            categories = [annotations[ann_id - 1]['category_id'] for ann_id in ann_ids]
            sent_ids = list(range(num_sentences, num_sentences + len(texts)))
            num_sentences += len(texts)
            if not grouped:
                written = [KINDS.index(kind) for kind in KINDS if kind in spec.kinds]
                sent_ids, texts = [sent_ids[kind] for kind in written], [texts[kind] for kind in written]
            ref = dict(
                ref_id=len(refs),
                ann_id=ann_ids or [NO_TARGET] if grouped else ann_ids[0],
                image_id=image_id,
                category_id=categories or [NO_TARGET] if grouped else categories[0],
                split=sample['split'],
                sent_ids=sent_ids,
                file_name=f'{name}.jpg' if grouped else f'{name}_{ann_ids[0]}.jpg',
                sentences=[
                    dict(sent_id=sent_id, raw=_raw(text, sent_id), sent=text, tokens=text.split())
                    for sent_id, text in zip(sent_ids, texts)
                ],
            )
            refs.append(dict(ref, no_target=not ann_ids) if grouped else ref)
    instances = dict(
        info=dict(
            description=_DESCRIPTIONS[layout],
            version=str(VERSION),
            url='',
            year=2026,
            contributor='mmetris',
            date_created='2026',
        ),
        licenses=[dict(id=1, name='CC0 1.0', url='https://creativecommons.org/publicdomain/zero/1.0/')],
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=shape, supercategory='shape') for i, shape in enumerate(SHAPES, start=1)],
    )
    (folder / layout / 'instances.json').write_text(json.dumps(instances), encoding='utf-8')
    if grouped:
        (folder / layout / 'grefs(unc).json').write_text(json.dumps(refs), encoding='utf-8')
        return
    # Pickle writes equal strings that are one object once; through JSON none are, whoever drew them.
    refs = json.loads(json.dumps(refs))
    (folder / layout / 'refs(unc).p').write_bytes(pickle.dumps(refs, protocol=2))


def _stamp(spec: ShapesSpec, layout: str) -> dict:
    told = asdict(spec)
    # Copies drawn before these could be chosen say nothing of them.
    for name, default in (('num_objects', None), ('kinds', KINDS)):
        if told[name] == default:
            del told[name]
    stamp = dict(name='shapes' if layout == 'refcoco' else f'shapes {layout}', version=VERSION, **told)
    return json.loads(json.dumps(stamp))


def is_written(root: Path, spec: ShapesSpec, layout: str = 'refcoco') -> bool:
    """Whether the folder already holds this very data set, going by its stamp."""
    stamp = Path(root) / STAMP
    try:
        return json.loads(stamp.read_text(encoding='utf-8')) == _stamp(spec, layout)
    except (OSError, ValueError):
        return False


def write_shapes(
    root: Path, spec: ShapesSpec = ShapesSpec(), workers: int = 0, force: bool = False, layout: str = 'refcoco'
) -> bool:
    """Draw the data set, unless the folder holds it already.

    It is drawn into a folder beside ``root`` that takes the name at the very end, so there is never half a data set.

    Args:
        root: Folder of the data set.
        spec: Seed and sizes.
        workers: Processes that draw; 0 draws in this one. The bytes do not depend on it.
        force: Whether to replace what a non-empty folder holds.
        layout: ``'refcoco'`` (default) with a sentence of each kind for each object, ``'grefcoco'`` with sentences that
            mean nothing, one object or several, or ``'semseg'`` with labels.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: If ``workers`` is negative, ``layout`` unknown, or another layout than ``'refcoco'`` is to have some
            kinds of sentences only.
        FileExistsError: If the folder holds something else and ``force`` is not set.
    """
    root = Path(root)
    if workers < 0:
        raise ValueError(f'workers={workers}: it must be 0 (draw in this process) or more')
    if layout not in LAYOUTS:
        raise ValueError(f'layout={layout!r} must be one of {LAYOUTS}')
    if layout != 'refcoco' and set(spec.kinds) != set(KINDS):
        raise ValueError(f'kinds={spec.kinds}: the layout {layout!r} has sentences of its own')
    if is_written(root, spec, layout) and not force:
        return False
    if root.exists() and (not root.is_dir() or any(root.iterdir())) and not force:
        raise FileExistsError(
            f'{root} is not empty and holds no Shapes data with these arguments: choose another '
            'folder, or replace its content with force (--force)'
        )
    with whole_folder(root) as partial:
        if layout == 'semseg':
            _write_semseg_tree(spec, partial, workers)
        else:
            _write_refer_tree(spec, partial, workers, layout)
        stamp = json.dumps(_stamp(spec, layout), indent=1) + '\n'
        (partial / STAMP).write_text(stamp, encoding='utf-8')
    return True


@contextmanager
def whole_folder(root: Path) -> Iterator[Path]:
    """A folder beside ``root`` to write to, which takes the name, and the place of what is there, when all is written.

    Args:
        root: The folder to be.

    Yields:
        The one to write to, which is not made yet; whatever stops the block removes it.
    """
    partial = root.with_name(f'{root.name}.partial-{os.getpid()}')
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        if root.is_dir():
            shutil.rmtree(root)
        elif root.exists():
            root.unlink()
        os.replace(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
