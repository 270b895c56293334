"""Toy grounding models, and one on disk as a training's folder has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import projects.grounding.grounding  # noqa: F401  Registers the models.
from mmetris.registry import MODELS
from tests import toy

POOLED: dict[str, Any] = dict(type='PooledBoxHead', channels=16)
POOLED_BOXES = dict(POOLED, with_mask=False)
TRANSFORMER: dict[str, Any] = dict(
    type='TransformerBoxHead', channels=32, num_queries=4, num_layers=2, num_heads=4, ffn_dims=32, dropout=0.0
)


def model_cfg(head: dict, kind: str = 'vit', **model: Any) -> dict[str, Any]:
    """Config of a toy grounding model with this ``box_head``."""
    cfg = toy.model_cfg(kind)
    decode_head = cfg.pop('decode_head')
    if head['type'] == 'PooledBoxHead':
        head = dict(head, decoder=decode_head)
    return dict(cfg, type='ReferringGrounder', box_head=head, **model)


def build(head: dict, kind: str = 'vit', **model: Any) -> torch.nn.Module:
    """A toy grounding model, always with the same weights."""
    init_default_scope('mmetris')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(model_cfg(head, kind, **model))


def save(folder: Path, head: dict, kind: str = 'vit', **model: Any) -> Path:
    """Write config and checkpoint of a toy model, and return the folder."""
    folder.mkdir(parents=True)
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
            custom_imports=dict(imports=['mmetris.registry', 'projects.grounding.grounding']),
            model=model_cfg(head, kind, **model),
            test_dataloader=dict(dataset=dict(type='RefCocoDataset', pipeline=pipeline)),
        )
    )
    cfg.dump(folder / 'toy_grounding.py')
    torch.save(dict(state_dict=build(head, kind, **model).state_dict()), folder / 'best_box_Acc@0.5_epoch_2.pth')
    return folder
