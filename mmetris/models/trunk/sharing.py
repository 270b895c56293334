"""Rows of a batch that show the same image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.structures import SegDataSample
from torch import Tensor


def distinct_images(images: Tensor, data_samples: Sequence[SegDataSample]) -> tuple[Tensor, Tensor | None]:
    """Leave out images that a batch repeats, so that they are encoded once.

    Two rows show the same image if their samples name the same file and their pixels are equal: a file that was
    cropped or flipped in two ways is two images.

    Args:
        images: (B, 3, H, W).
        data_samples: One for each row; ``img_path`` of its meta information names the file.

    Returns:
        The I distinct images (I, 3, H, W), in the order of the batch, and for each row its image (B,). If all differ,
        the images as they are, and None.
    """
    rows: list[int] = []  # first row of each distinct image
    of_path: dict[str, list[int]] = {}  # which of them come from a file
    index = []
    for row, sample in enumerate(data_samples):
        path = sample.metainfo.get('img_path')
        candidates = [] if path is None else of_path.setdefault(path, [])
        place = next((place for place in candidates if torch.equal(images[rows[place]], images[row])), None)
        if place is None:
            place = len(rows)
            rows.append(row)
            candidates.append(place)
        index.append(place)
    if len(rows) == len(images):
        return images, None
    return images[rows], torch.tensor(index, device=images.device)
