"""Batches of Shapes scenes and captions for contrastive pre-training.

Axes: S scenes of a batch, C captions of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from open_clip import get_tokenizer
from tiny_clip import IMAGE_SIZE, letterbox
from torch import Tensor

from mmetris.datasets.shapes import captions as cap
from mmetris.datasets.shapes.expressions import vocabulary
from mmetris.datasets.shapes.logic import FALSE
from mmetris.datasets.shapes.render import render
from mmetris.datasets.shapes.scene import Scene, random_scene

# The data set draws its images from the streams 0 to 3 of its seed (one per split); these are others.
TRAIN_STREAM, HELD_OUT_STREAM = 100, 101
MAX_OBJECTS = 5
CLOSE_UP_SIZE = 64  # pixels: the largest object and some of its surroundings
FORMS = (0.25, 0.25, 0.35, 0.15, 0.0)  # no captions of all objects: one long one makes every text of a batch longer


def scene_at(seed: int, stream: int, index: int, num_objects: int) -> Scene:
    """The index-th scene of a stream: always the same one."""
    return random_scene(np.random.default_rng([seed, stream, index]), num_objects, num_objects)


def picture(scene: Scene) -> np.ndarray:
    """Render and letterbox a scene: (H, W, 3) uint8 RGB."""
    return letterbox(render(scene)[0])


@cache
def _word_ids(word: str) -> tuple[int, ...]:
    """Byte pair codes of a word; every OpenAI CLIP has the same ones."""
    return tuple(_tokenizer().encode(word))


@lru_cache(maxsize=1)
def _tokenizer():
    return get_tokenizer('ViT-B-32')


def tokenize(texts: Sequence[str]) -> Tensor:
    """(C, L) token ids, L the longest of these texts; plain lower-case words, as ours are, each encoded only once."""
    start, end = _tokenizer().sot_token_id, _tokenizer().eot_token_id
    ids = [[start, *(code for word in text.split() for code in _word_ids(word)), end] for text in texts]
    longest = max(map(len, ids))
    return torch.tensor([codes + [0] * (longest - len(codes)) for codes in ids])


def used_tokens() -> list[int]:
    """Ids of every token a caption of Shapes can hold, padding and brackets included."""
    codes = {code for word in vocabulary() for code in _word_ids(word)}
    return sorted(codes | {0, _tokenizer().sot_token_id, _tokenizer().eot_token_id})


class SceneBank:
    """Training scenes in a fixed order, each rendered once and then kept in a memory-mapped file.

    Args:
        folder: Where the pictures are kept; a later run with the same seed and size finds them again.
        seed: Seed of the scenes.
        size: Number of scenes. Scene ``i`` has ``1 + i % MAX_OBJECTS`` objects.
    """

    def __init__(self, folder: Path, seed: int, size: int) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.seed, self.size = seed, size
        self._scenes: dict[int, Scene] = {}
        name, shape = f'{seed}_{size}_{IMAGE_SIZE}.npy', (size, IMAGE_SIZE, IMAGE_SIZE, 3)
        self._pictures = self._open(folder / f'pictures_{name}', shape, np.uint8)
        self._drawn = self._open(folder / f'drawn_{name}', (size,), bool)

    @staticmethod
    def _open(path: Path, shape: tuple, dtype: type) -> np.ndarray:
        mode = 'r+' if path.exists() else 'w+'
        return np.lib.format.open_memmap(path, mode, dtype, None if mode == 'r+' else shape)

    def scene(self, index: int) -> Scene:
        """The index-th scene."""
        if index not in self._scenes:
            self._scenes[index] = scene_at(self.seed, TRAIN_STREAM, index, 1 + index % MAX_OBJECTS)
        return self._scenes[index]

    def picture(self, index: int, scene: Scene) -> np.ndarray:
        """Its picture, (H, W, 3) uint8 RGB."""
        if not self._drawn[index]:
            self._pictures[index] = picture(scene)
            self._drawn[index] = True
        return self._pictures[index]

    def close_up(self, index: int, scene: Scene, rng: np.random.Generator) -> np.ndarray:
        """A piece of its picture around a lone object, (CLOSE_UP_SIZE, CLOSE_UP_SIZE, 3) uint8 RGB."""
        scale = IMAGE_SIZE / max(scene.width, scene.height)
        lone = scene.objects[0]
        corner = []
        for centre, length in ((lone.y, scene.height), (lone.x, scene.width)):
            border = (IMAGE_SIZE - length * scale) / 2
            wanted = border + centre * scale - CLOSE_UP_SIZE / 2 + rng.integers(-6, 7)
            corner.append(int(np.clip(wanted, 0, IMAGE_SIZE - CLOSE_UP_SIZE)))
        top, left = corner
        return self.picture(index, scene)[top : top + CLOSE_UP_SIZE, left : left + CLOSE_UP_SIZE]


@dataclass
class Batch:
    """Pictures with captions.

    Attributes:
        pictures: (S, H, W, 3) uint8 RGB, letterboxed.
        tokens: (C, L) token ids. The first ``len(owner)`` captions are true of the scene they were written for.
        owner: For each of these, the index of that scene.
        false: (C, S) bool: whether a caption is clearly false of a scene, and so a negative of it.
        centres: (S, 2) x and y of a lone object's centre, from -1 to 1 across its scene; NaN where there are several.
    """

    pictures: np.ndarray
    tokens: Tensor
    owner: Tensor
    false: Tensor
    centres: Tensor


def make_batch(
    pictures: Sequence[np.ndarray],
    scenes: Sequence[Scene],
    rng: np.random.Generator,
    num_captions: int = 3,
    num_misses: int = 2,
    forms: Sequence[float] = FORMS,
    detail: float = 0.5,
) -> Batch:
    """Write captions and near misses for the scenes, and work out which captions are negatives of which scenes.

    ``forms`` and ``detail`` are those of :func:`~mmetris.datasets.shapes.captions.sample_caption`.
    """
    true: list[cap.Caption] = []
    owner: list[int] = []
    for index, scene in enumerate(scenes):
        true += [cap.sample_caption(scene, rng, forms, detail) for _ in range(num_captions)]
        owner += [index] * num_captions
    written = true + [cap.near_miss(caption, rng) for caption in true for _ in range(num_misses)]
    false = cap.truth_table(written, scenes) == FALSE
    return Batch(
        np.stack(pictures),
        tokenize([caption.text for caption in written]),
        torch.tensor(owner),
        torch.from_numpy(false),
        torch.tensor([centre(scene) for scene in scenes]),
    )


def centre(scene: Scene) -> tuple[float, float]:
    """x and y of a lone object's centre, from -1 to 1 across the scene; NaN where there are several objects."""
    if len(scene.objects) > 1:
        return float('nan'), float('nan')
    lone = scene.objects[0]
    return 2 * lone.x / scene.width - 1, 2 * lone.y / scene.height - 1


def bank_batch(
    bank: SceneBank, rng: np.random.Generator, size: int, weights: Sequence[float] | None = None, **kwargs
) -> Batch:
    """Draw a batch; ``weights`` are the chances of scenes with 1, 2, ... objects (None: all alike)."""
    share = np.ones(MAX_OBJECTS) if weights is None else np.asarray(weights, float)
    numbers = rng.choice(MAX_OBJECTS, size, p=share / share.sum())
    indices = rng.integers(bank.size // MAX_OBJECTS, size=size) * MAX_OBJECTS + numbers
    scenes = [bank.scene(int(i)) for i in indices]
    return make_batch([bank.picture(int(i), scene) for i, scene in zip(indices, scenes)], scenes, rng, **kwargs)


def close_up_batch(bank: SceneBank, rng: np.random.Generator, size: int, **kwargs) -> Batch:
    """Draw a batch of lone objects from close by, described in full: shapes and textures are learnt from these."""
    indices = rng.integers(bank.size // MAX_OBJECTS, size=size) * MAX_OBJECTS
    scenes = [bank.scene(int(i)) for i in indices]
    pictures = [bank.close_up(int(i), scene, rng) for i, scene in zip(indices, scenes)]
    batch = make_batch(pictures, scenes, rng, forms=(1, 0, 0, 0, 0), detail=0.9, **kwargs)
    return replace(batch, centres=torch.full_like(batch.centres, torch.nan))  # It says nothing of the whole scene.
