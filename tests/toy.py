"""Tiny models for the tests: real architectures, a few thousand parameters (but for the vocabulary), random weights."""

from __future__ import annotations

import torch
from mmengine.registry import init_default_scope

from mmetris.registry import MODELS

TEXT_CFG = dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=4)
VIT = dict(
    embed_dim=24, vision_cfg=dict(image_size=64, patch_size=8, width=32, layers=4, head_width=8), text_cfg=TEXT_CFG
)
RESNET = dict(
    embed_dim=24, vision_cfg=dict(image_size=64, width=8, layers=[1, 1, 1, 1], head_width=64), text_cfg=TEXT_CFG
)
ARCHS = dict(vit=VIT, resnet=RESNET)
# A DINOv2, which has no text side: beside it stands that of VIT.
DINOV2 = dict(width=32, depth=4, num_heads=4, num_registers=2, patch_size=8, image_size=48)


def encoder_cfgs(kind: str = 'vit', **kwargs) -> tuple[dict, dict]:
    """Configs of a tiny image encoder, ``'vit'``, ``'resnet'`` or ``'dinov2'``, and the text encoder beside it."""
    if kind == 'dinov2':
        return dict(type='DINOv2ViT', arch=DINOV2, **kwargs), encoder_cfgs()[1]
    types = dict(vit='CLIPViT', resnet='CLIPResNet')
    common = dict(arch=ARCHS[kind], quick_gelu=True)
    return (dict(common, type=types[kind], **kwargs), dict(common, type='CLIPTextEncoder'))


def model_cfg(
    kind: str = 'vit', neck: dict | None = None, decode_head: dict | None = None, backbone: dict | None = None
) -> dict:
    """Config of a tiny ReferringSegmentor; the dicts change single arguments."""
    image_cfg, text_cfg = encoder_cfgs(kind, **(backbone or {}))
    bridger = dict(type='Bridger', embed_dims=8, num_heads=2, ffn_dims=16, zoom_norm=kind != 'resnet')
    if kind == 'dinov2':
        bridger['type'] = 'TextFirstBridger'  # Something in the image encoder may read words.
    head = dict(type='ETRISHead', channels=16, num_heads=2, global_alignment=dict(num_layers=1, ffn_dims=16))
    return dict(
        type='ReferringSegmentor',
        data_preprocessor=dict(type='RefSegDataPreProcessor', size_divisor=32 if kind == 'resnet' else 8),
        backbone=image_cfg,
        text_encoder=text_cfg,
        neck=bridger | (neck or {}),
        decode_head=head | (decode_head or {}),
    )


def text_first_cfg(aligner: dict | None = None, adapter: dict | None = None, backbone: dict | None = None) -> dict:
    """Config of a tiny DETRIS for images of multiples of 8; the dicts change single arguments. Its stages are its
    blocks, of which those that are not the first have an aligner, 1 and 3."""
    cfg = model_cfg('vit')
    narrow = dict(channels=16)
    cfg['data_preprocessor'].update(mean=[120.0] * 3, std=[60.0] * 3)
    cfg['backbone'] = dict(
        type='DINOv2ViT',
        arch=DINOV2,
        tuning=dict(
            aligner=dict(type='DenseAligner', word_channels=16, align_dims=12, num_heads=3, **narrow) | (aligner or {})
        ),
    ) | (backbone or {})
    cfg['text_encoder']['tuning'] = dict(adapter=dict(type='DenseTextAdapter', **narrow) | (adapter or {}))
    return cfg | dict(context_length=17, neck=dict(type='TextFirst'))


def with_clicks(cfg: dict, **kwargs) -> dict:
    """Config of a ReferringSegmentor as one of a ClickSegmentor (projects/clicks)."""
    import projects.clicks.clicks  # noqa: F401  It registers them, for the tests that ask for them.

    head = dict(type='ClickHead', channels=16, fine_channels=8, num_heads=2, num_layers=1)
    return dict(cfg, type='ClickSegmentor', click_head=head, **kwargs)


def build_with_clicks(kind: str = 'vit', stirred: bool = True, **kwargs) -> torch.nn.Module:
    """Build a tiny ClickSegmentor; before training its head corrects nothing, so its last layers are stirred."""
    model = build(with_clicks(model_cfg(kind), **kwargs))
    if stirred:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            for weight in model.click_head.kernel.parameters():
                weight.copy_(0.3 * torch.randn_like(weight))
    return model


def build(cfg: dict, seed: int = 0) -> torch.nn.Module:
    """Build from a config in mmetris's scope with seeded random weights."""
    init_default_scope('mmetris')
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS.build(cfg)


def build_model(kind: str = 'vit', seed: int = 0, **kwargs) -> torch.nn.Module:
    """Build a tiny ReferringSegmentor; see :func:`model_cfg`."""
    return build(model_cfg(kind, **kwargs), seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Seeded normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
