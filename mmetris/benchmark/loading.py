"""How fast samples are loaded: from JPEG file to packed sample, in this process, on one core."""

from __future__ import annotations

import json
import pickle
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmetris.benchmark.counters import time_in_turns
from mmetris.benchmark.tasks import SENTENCES, Setting
from mmetris.registry import DATASETS
from mmetris.utils.config_types import type_name

PHOTO_HW = (480, 640)  # what most of COCO's images have


def load_seconds(cfg: Config, setting: Setting, repeats: int) -> list[float]:
    """Seconds of each repetition of B samples through the training pipeline, OpenCV and PyTorch on one thread.

    Args:
        cfg: Config with ``train_dataloader``.
        setting: With ``batch``, B, and ``own_data``.
        repeats: Timed repetitions, after one that warms up.

    Raises:
        ValueError: If the training data is no :class:`RefCocoDataset`.
    """
    dataset_cfg = cfg.train_dataloader.dataset.copy()
    kind = type_name(dataset_cfg)
    if not kind.endswith('RefCocoDataset'):
        raise ValueError(f"task 'data' reads a RefCocoDataset, but the config's training data is a {kind}")
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    with ExitStack() as stack:
        threads = cv2.getNumThreads(), torch.get_num_threads()
        stack.callback(cv2.setNumThreads, threads[0])
        stack.callback(torch.set_num_threads, threads[1])
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        if not setting.own_data:
            root = stack.enter_context(tempfile.TemporaryDirectory())
            dataset_cfg.update(draw_photos(Path(root), setting.batch))
        dataset = DATASETS.build(dataset_cfg)

        def load() -> None:
            for index in range(setting.batch):
                dataset[index % len(dataset)]

        return time_in_turns(dict(load=load), repeats, torch.device('cpu'))['load']


def draw_photos(root: Path, number: int, hw: tuple[int, int] = PHOTO_HW) -> dict[str, Any]:
    """Write a data set in REFER's layout: JPEGs of noise with the detail of a photograph, one polygon on each.

    Args:
        root: Existing folder.
        number: Images.
        hw: Their height and width. Defaults to ``PHOTO_HW``.

    Returns:
        The arguments by which a :class:`RefCocoDataset` finds it.
    """
    (root / 'images').mkdir()
    rng, (height, width) = np.random.default_rng(0), hw
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    outline = np.stack([width * (0.5 + 0.3 * np.cos(angles)), height * (0.5 + 0.3 * np.sin(angles))], axis=1)
    images, annotations, refs = [], [], []
    for index in range(number):
        # Coarse and fine noise together make files of about 100 KB, as COCO's photographs have.
        coarse = cv2.resize(rng.normal(128, 50, (height // 32, width // 32, 3)), (width, height))
        fine = cv2.resize(rng.normal(0, 30, (height // 2, width // 2, 3)), (width, height))
        pixels = (coarse + fine).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(root / 'images' / f'{index}.jpg'), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append(dict(id=index, file_name=f'{index}.jpg', height=height, width=width))
        annotations.append(
            dict(id=index, image_id=index, category_id=1, segmentation=[outline.round(2).ravel().tolist()])
        )
        sentence = SENTENCES[index % len(SENTENCES)]
        refs.append(
            dict(
                ref_id=index,
                ann_id=index,
                image_id=index,
                category_id=1,
                split='train',
                sent_ids=[index],
                sentences=[dict(sent_id=index, sent=sentence, raw=sentence, tokens=sentence.split())],
            )
        )
    (root / 'instances.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')]))
    )
    (root / 'refs(mine).p').write_bytes(pickle.dumps(refs, protocol=2))
    return dict(
        data_root=str(root),
        ann_file='instances.json',
        split_file='refs(mine).p',
        data_prefix=dict(img_path='images/'),
        split='train',
    )
