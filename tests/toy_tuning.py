"""All tuning methods on toy encoders, one line each; test_contract.py holds every one of them to the same promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

from tests.toy import build, model_cfg

ROOT = Path(__file__).parents[1]


def _run_the_documents_example() -> None:
    """Define the method that docs/tuning.md shows how to write."""
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/tuning.md').read_text(encoding='utf-8'), re.DOTALL)
    (example,) = (block for block in blocks if 'class ScaledAdapter' in block)
    exec(example, {})


_run_the_documents_example()
# Of the encoders in tests/toy.py.
IMAGE, TEXT, LAYERS, PATCHES = 32, 16, 4, 64
LORA = dict(type='LoRA', rank=2)
ADAPTER = dict(type='Adapter', dropout=0.1)
COMPACTER = dict(type='Compacter', reduction=4)
BITFIT = dict(type='BitFit')
RESNET_PLANES = (16, 32, 64)  # Of layers 2, 3 and 4, one bottleneck each.
ALL_CONVS = {'layer[234].*.conv1': 'bn1', 'layer[234].*.conv2': 'bn2', 'layer[234].*.conv3': 'bn3'}


class Case(NamedTuple):
    """A tuning method, or several, on a toy model.

    Args:
        kind: ``'vit'``, ``'resnet'`` or ``'dinov2'``, whose blocks can read words.
        image: ``tuning`` of the image encoder.
        text: ``tuning`` of the text encoder.
        count: What the methods add, worked out by hand.
        starts_at_zero: Whether nothing changes before training.
        frozen: Whether the encoders are frozen.
        first_tuned: First image stage (0 the stem) in which something tuned takes part; None if there is none.
    """

    kind: str
    image: dict
    text: dict
    count: int
    starts_at_zero: bool = True
    frozen: bool = True
    first_tuned: int | None = None


def _adapters(width: int, hidden: int, norm: int = 0) -> int:
    """Two in each block: down and up with biases, or without them and with a normalisation."""
    return 2 * LAYERS * (2 * width * hidden + (norm or hidden + width))


def _compacters(width: int, hidden: int) -> int:
    return 2 * LAYERS * (2 * (width + hidden) + hidden + width)


def _dense(width: int, d: int, dims: int = 1) -> int:
    """Down and up; then for each convolution its weights, and bias and normalisation of each channel."""
    units = (
        (d, d // 2, 1),
        (3 * d // 2, d // 16, 1),
        (d // 16, d // 4, 3),
        (7 * d // 4, d // 16, 1),
        (d // 16, d // 4, 5),
    )
    return 2 * width * d + width + d + sum(one * other * side**dims + 3 * other for one, other, side in units)


def _reading(width: int, d: int, words: int, align: int) -> int:
    """The same on a map; and into the attention to the words, its four projections, out of it."""
    return _dense(width, d, 2) + (d + words + 2) * align + 4 * align * (align + 1) + (align + 1) * d


CASES = dict(
    full_vit=Case('vit', {}, {}, 0, frozen=False, first_tuned=0),
    full_resnet=Case('resnet', {}, {}, 0, frozen=False, first_tuned=0),
    fixed=Case('vit', {}, {}, 0),
    adapter=Case(
        'vit', dict(adapter=ADAPTER), dict(adapter=ADAPTER), _adapters(IMAGE, 8) + _adapters(TEXT, 4), first_tuned=1
    ),
    adapter_norm=Case(
        'resnet', {}, dict(adapter=dict(ADAPTER, bias=False, norm=True)), _adapters(TEXT, 4, norm=2 * TEXT)
    ),
    adapter_parallel=Case(
        'vit',
        dict(adapter=dict(ADAPTER, places='transformer.resblocks.[23].mlp', parallel=True)),
        {},
        _adapters(IMAGE, 8) // 4,
        first_tuned=3,
    ),
    conv_adapter_resnet=Case(
        'resnet',
        dict(conv=dict(type='ConvAdapter')),
        {},
        sum(2 * p * (p // 4) + 2 * (p // 4) + 2 * p for p in RESNET_PLANES),
        first_tuned=2,
    ),
    conv_adapter_vit=Case(
        'vit',
        dict(conv=dict(type='ConvAdapter', places='ffn')),
        {},
        LAYERS * (2 * IMAGE * 8 + 2 * 8 + 2 * IMAGE),
        first_tuned=1,
    ),
    compacter=Case(
        'vit',
        dict(compacter=COMPACTER),
        dict(compacter=COMPACTER),
        _compacters(IMAGE, 8) + _compacters(TEXT, 4) + 4**3,  # The rule is one for both.
        first_tuned=1,
    ),
    compacter_resnet=Case(
        'resnet',
        dict(compacter=dict(COMPACTER, places=ALL_CONVS)),
        {},
        4**3
        + sum(
            (a + a // 4) + (a // 4 + b) + a // 4 + b for p in RESNET_PLANES for a, b in ((2 * p, p), (p, p), (p, 4 * p))
        ),
        first_tuned=2,
    ),
    lora=Case('vit', dict(lora=LORA), dict(lora=LORA), LAYERS * 2 * 2 * 2 * (IMAGE + TEXT), first_tuned=1),
    lora_resnet=Case('resnet', dict(lora=LORA), dict(lora=LORA), 2 * 2 * 2 * 256 + LAYERS * 8 * TEXT, first_tuned=5),
    lora_linear=Case(
        'vit',
        dict(lora=dict(LORA, places='transformer.resblocks.*.mlp.c_fc', dropout=0.1)),
        {},
        LAYERS * 2 * (IMAGE + 4 * IMAGE),
        first_tuned=1,
    ),
    bitfit_vit=Case('vit', dict(bitfit=BITFIT), dict(bitfit=BITFIT), 0, first_tuned=0),
    bitfit_resnet=Case('resnet', dict(bitfit=dict(BITFIT, names='layer4.*bias')), {}, 0, first_tuned=4),
    own_of_the_docs=Case(
        'vit',
        dict(own=dict(type='ScaledAdapter')),
        dict(own=dict(type='ScaledAdapter', channels=4)),
        LAYERS * (2 * IMAGE * 16 + 16 + IMAGE + 2 * TEXT * 4 + 4 + TEXT),
        first_tuned=1,
    ),
    dense_text=Case(
        'vit', {}, dict(dense=dict(type='DenseTextAdapter', channels=16)), 2 * _dense(TEXT, 16), starts_at_zero=False
    ),
    dense_aligner=Case(
        'dinov2',
        dict(aligner=dict(type='DenseAligner', channels=16, word_channels=TEXT, align_dims=12, num_heads=3)),
        {},
        2 * _reading(IMAGE, 16, TEXT, 12),
        starts_at_zero=False,
        first_tuned=2,
    ),
    coop=Case('resnet', {}, dict(prompt=dict(type='PromptTokens')), 8 * TEXT, starts_at_zero=False),
    prompts=Case(
        'vit',
        dict(prompt=dict(type='PromptTokens', num_tokens=3)),
        dict(prompt=dict(type='PromptTokens')),
        3 * IMAGE + 8 * TEXT,
        starts_at_zero=False,
        first_tuned=0,
    ),
    deep_prompts=Case(
        'vit',
        dict(prompt=dict(type='PromptTokens', num_tokens=3, deep=True)),
        dict(prompt=dict(type='PromptTokens', num_tokens=2, deep=True)),
        LAYERS * (3 * IMAGE + 2 * TEXT),
        starts_at_zero=False,
        first_tuned=0,
    ),
    together=Case(
        'vit',
        dict(
            bitfit=BITFIT,
            lora=LORA,
            adapter=ADAPTER,
            prompt=dict(type='PromptTokens', num_tokens=2),
            deep=dict(type='PromptTokens', num_tokens=1, deep=True),
        ),
        dict(lora=dict(LORA, projections=('q', 'k', 'v')), prompt=dict(type='PromptTokens', num_tokens=2)),
        LAYERS * 2 * 2 * 2 * IMAGE
        + _adapters(IMAGE, 8)
        + 2 * IMAGE
        + LAYERS * IMAGE
        + LAYERS * 3 * 2 * 2 * TEXT
        + 2 * TEXT,
        starts_at_zero=False,
        first_tuned=0,
    ),
)


def tuned_cfg(name: str, **kwargs) -> dict:
    """Config of a toy ReferringSegmentor with the methods of a case; the rest as for :func:`tests.toy.model_cfg`."""
    case = CASES[name]
    cfg = model_cfg(case.kind, backbone=dict(tuning=case.image, frozen=case.frozen), **kwargs)
    cfg['text_encoder'].update(tuning=case.text, frozen=case.frozen)
    return cfg


def tuned_model(name: str, seed: int = 0, **kwargs):
    """The model of a case with seeded random weights."""
    model = build(tuned_cfg(name, **kwargs), seed)
    for key, value in model.named_parameters():
        if key.endswith('bn3.weight'):  # Zero in a new ResNet, which so would hold back all gradients in its blocks.
            torch.nn.init.constant_(value, 0.5)
    return model
