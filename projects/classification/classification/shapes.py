"""Shapes for classification: pictures of several objects in folders, the large one being what a picture shows.

<root>/train/red_circle/000000.jpg ...    and val, test; held-out classes are in val and test only
<root>/shapes.json                        version and arguments this copy was drawn with
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mmetris.datasets.shapes import COLOURS, SHAPES, VERSION, Scene, random_scene, render
from mmetris.datasets.shapes.writer import whole_folder

CLASSES = tuple(f'{colour} {shape}' for colour in COLOURS for shape in SHAPES)
# One of each colour, as in configs/semseg.
HELD_OUT = (
    'red star',
    'orange circle',
    'yellow heart',
    'green square',
    'cyan ring',
    'blue triangle',
    'purple cross',
    'pink circle',
)
SPLITS = ('train', 'val', 'test')
STAMP = 'shapes.json'


@dataclass(frozen=True)
class FoldersSpec:
    """What determines a copy, byte for byte.

    Args:
        seed: Defaults to 0.
        num_train: Pictures of split train, 0 or as many as classes at least. Defaults to 2880, 60 of each class that is
            not held out.
        num_val: Of val. Defaults to 560, 10 of each class.
        num_test: Of test. Defaults to 560.
        num_objects: Fewest and most objects of a picture, 1 to 6. Defaults to (2, 4).
        held_out: Classes that train lacks. Defaults to eight, one of each colour.

    Raises:
        ValueError: If a number is out of range or a class is unknown.
    """

    seed: int = 0
    num_train: int = 2880
    num_val: int = 560
    num_test: int = 560
    num_objects: tuple[int, int] = (2, 4)
    held_out: tuple[str, ...] = HELD_OUT

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f'seed={self.seed} must not be negative')
        if not 1 <= self.num_objects[0] <= self.num_objects[1] <= 6:
            raise ValueError(f'num_objects={self.num_objects}: give the fewest and the most, 1 to 6')
        if unknown := set(self.held_out) - set(CLASSES):
            raise ValueError(f'held_out={sorted(unknown)} are no classes of Shapes')
        for split, count in self.counts.items():
            least = len(self.classes_of(split))
            if count != 0 and count < least:
                raise ValueError(f'num_{split}={count} leaves classes without a picture: 0, or {least} at least')

    @property
    def counts(self) -> dict[str, int]:
        """Pictures of each split."""
        return dict(zip(SPLITS, (self.num_train, self.num_val, self.num_test)))

    def classes_of(self, split: str) -> tuple[str, ...]:
        """Classes that a split has pictures of, in turn."""
        return tuple(name for name in CLASSES if split != 'train' or name not in self.held_out)


def draw_picture(spec: FoldersSpec, split: str, index: int) -> tuple[Scene, str]:
    """The index-th scene of a split and its class; the same arguments always give the same.

    One object is large, and has colour and shape of the class; the others are small, of any colour and shape.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    classes = spec.classes_of(split)
    name = classes[index % len(classes)]
    colour, shape = name.split()
    while True:
        scene = random_scene(rng, *spec.num_objects)
        large = [place for place, one in enumerate(scene.objects) if one.size == 'large']
        if len(large) == 1:
            break
    objects = list(scene.objects)
    objects[large[0]] = replace(objects[large[0]], colour=colour, shape=shape)
    return replace(scene, objects=tuple(objects)), name


def write_folders(root: str | os.PathLike, spec: FoldersSpec | None = None, force: bool = False) -> bool:
    """Draw the data set, unless the folder holds it already.

    Args:
        root: Folder of the data set.
        spec: What to draw. Defaults to None: the defaults.
        force: Whether to replace what a non-empty folder holds. Defaults to False.

    Returns:
        Whether anything was written.

    Raises:
        FileExistsError: If the folder holds something else and ``force`` is not set.
    """
    root, spec = Path(root), spec or FoldersSpec()
    stamp = json.dumps(dict(name='shapes folders', version=VERSION, **asdict(spec)), indent=1) + '\n'
    if (root / STAMP).is_file() and (root / STAMP).read_text('utf-8') == stamp and not force:
        return False
    if root.exists() and (not root.is_dir() or any(root.iterdir())) and not force:
        raise FileExistsError(f'{root} is not empty and holds no such data: choose another folder, or --force')
    with whole_folder(root) as partial:
        for split, count in spec.counts.items():
            for name in spec.classes_of(split) if count else ():
                (partial / split / name.replace(' ', '_')).mkdir(parents=True)
            for index in range(count):
                scene, name = draw_picture(spec, split, index)
                image = render(scene)[0][..., ::-1]
                jpeg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                (partial / split / name.replace(' ', '_') / f'{index:06d}.jpg').write_bytes(jpeg)
        (partial / STAMP).write_text(stamp, encoding='utf-8')
    return True
