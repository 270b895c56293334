"""A toy model on disk and pictures to ask it about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from mmetris import tokenize
from tests import toy

ROOT = Path(__file__).parents[1]


def save_toy_model(
    folder: Path, seed: int = 3, kind: str = 'vit', decode_head: dict | None = None
) -> tuple[Path, Path]:
    """Write config and full checkpoint of a toy model, as a training's folder has them; ``decode_head`` changes single
    arguments of that."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Letterbox', size=(64, 64)),
        dict(type='LoadAnnotations'),
        dict(type='TokenizeExpression', context_length=17),
        dict(type='PackSegInputs'),
    ]
    cfg = Config(
        dict(
            default_scope='mmetris',
            model=toy.model_cfg(kind, decode_head=decode_head),
            test_dataloader=dict(dataset=dict(type='RefCocoDataset', pipeline=pipeline)),
        )
    )
    cfg.dump(folder / f'toy_{kind}.py')
    weights = undecided_model(seed, kind, decode_head).state_dict()
    torch.save(dict(state_dict=weights), folder / 'best_mIoU_epoch_2.pth')
    return folder / f'toy_{kind}.py', folder / 'best_mIoU_epoch_2.pth'


def save_model_with_clicks(folder: Path) -> tuple[Path, Path]:
    """The same with a head for clicks (projects/clicks), which is not trained, but corrects something."""
    config, weights = save_toy_model(folder)
    cfg = Config.fromfile(config)
    cfg.model = toy.with_clicks(cfg.model)
    cfg.custom_imports = dict(imports=['mmetris.registry', 'projects.clicks.clicks'])
    cfg.dump(config)
    state = toy.build_with_clicks().state_dict() | torch.load(weights)['state_dict']
    torch.save(dict(state_dict=state), weights)
    return config, weights


def undecided_model(seed: int = 3, kind: str = 'vit', decode_head: dict | None = None) -> torch.nn.Module:
    """A toy model whose masks cover about half of a picture, other parts for other sentences."""
    model = toy.build_model(kind, seed=seed, decode_head=decode_head).eval()
    kernel = model.decode_head.projector.kernel_projection
    pixels = torch.from_numpy(np.stack([picture(64, 64, seed) for seed in range(4)])).permute(0, 3, 1, 2)
    images = model.data_preprocessor(dict(inputs=list(pixels)))['inputs']
    with torch.no_grad():
        kernel.weight *= 10
        kernel.weight[-1] = 0  # The last row is the bias, which alone would make a mask all or nothing.
        logits = model.forward_logits(images, tokenize(['the left dog', 'a cat', 'x', 'one'], 17))
        kernel.bias[-1] -= logits.median() + 0.6  # The threshold of 0.35 is a logit of -0.6.
    return model


def picture(height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture (H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    waves = [
        np.sin(columns / rng.uniform(4, 20) + rng.uniform(0, 6)) * np.cos(rows / rng.uniform(4, 20)) for _ in range(3)
    ]
    return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
