"""CLIP architectures: a name that open_clip knows, or a dict of sizes in open_clip's config format.

The towers are open_clip's own modules, so that every key of a published CLIP state dict has its place. ``visual.*``
belongs to the image tower; the rest is the text tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import open_clip
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import LayerNorm, TextTransformer, VisionTransformer
from torch import nn

from ..layers.attention import fuse_attention
from ..layers.folded_norm import fold_norms
from ..layers.quick_gelu import FusedQuickGELU

ArchLike = str | Mapping


@dataclass(frozen=True)
class ClipArch:
    """Sizes of one CLIP model.

    Args:
        name: open_clip's name (``'ViT-B-16'``), or ``'custom'`` for an architecture given by sizes.
        embed_dim: Width of the shared image-text space.
        vision: open_clip's ``vision_cfg``: layers (an int: ViT; four ints: ResNet), width, head_width, patch_size,
            image_size.
        text: open_clip's ``text_cfg``: context_length, vocab_size, width, heads, layers.
        quick_gelu: The activation of the transformers: ``x * sigmoid(1.702 x)`` of OpenAI's CLIP, else the exact GELU.
    """

    name: str
    embed_dim: int
    vision: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    quick_gelu: bool = True

    @property
    def is_resnet(self) -> bool:
        return isinstance(self.vision.get('layers', 12), Sequence)


def resolve_arch(arch: ArchLike, quick_gelu: bool | None = None) -> ClipArch:
    """Turn an architecture's name or sizes into a :class:`ClipArch`.

    Args:
        arch: A name as open_clip or OpenAI write it (``'RN101'``, ``'ViT-B-16'``, ``'ViT-B/16'``,
            ``'ViT-L-14-336'``), or a dict with ``embed_dim``, ``vision_cfg``, ``text_cfg`` and optionally
            ``quick_gelu``.
        quick_gelu: Activation of the transformers. Defaults to what the dict says, else to True, as in OpenAI's
            weights; most weights that open_clip trained itself want False.

    Raises:
        ValueError: If the name is unknown, a key is missing, or the towers are not plain CLIP towers (timm, Hugging
            Face...).
    """
    if isinstance(arch, str):
        name = arch.replace('/', '-').replace('@', '-').removesuffix('px').removesuffix('-quickgelu')
        config = open_clip.get_model_config(name)
        if config is None:
            raise ValueError(
                f'arch={arch!r} is no architecture of open_clip. Use one such as RN50, RN101, RN50x4, '
                'RN50x16, ViT-B-16, '
                'ViT-B-32, ViT-L-14 or ViT-L-14-336, or give the sizes as a dict with embed_dim, vision_cfg, text_cfg.'
            )
    else:
        name, config = 'custom', arch
        if missing := {'embed_dim', 'vision_cfg', 'text_cfg'} - set(config):
            raise ValueError(
                f'arch lacks {sorted(missing)}; a dict needs embed_dim, vision_cfg and text_cfg as in open_clip'
            )
    vision, text = dict(config['vision_cfg']), dict(config['text_cfg'])
    foreign = [key for key in ('timm_model_name', 'hf_model_name') if vision.get(key) or text.get(key)]
    if foreign:
        raise ValueError(
            f'arch={name!r} has towers from another library ({foreign[0]}); only plain CLIP towers can be '
            'split in stages'
        )
    if quick_gelu is None:
        quick_gelu = config.get('quick_gelu', True) if name == 'custom' else True
    return ClipArch(name, config['embed_dim'], vision, text, bool(quick_gelu))


def _activation(arch: ClipArch) -> type[nn.Module]:
    return FusedQuickGELU if arch.quick_gelu else nn.GELU


def build_image_tower(arch: ClipArch) -> VisionTransformer | ModifiedResNet:
    """Build open_clip's image tower with random weights.

    Raises:
        ValueError: If ``vision`` has a key that neither tower knows, or its width does not divide into heads.
    """
    try:
        cfg = open_clip.CLIPVisionCfg(**arch.vision)
    except TypeError as error:
        raise ValueError(f'vision_cfg of arch {arch.name!r}: {error}') from error
    if arch.is_resnet:
        tower = ModifiedResNet(
            layers=list(cfg.layers),
            output_dim=arch.embed_dim,
            heads=cfg.width * 32 // cfg.head_width,
            image_size=cfg.image_size,
            width=cfg.width,
        )
        return fold_norms(tower)
    if cfg.width % cfg.head_width:
        raise ValueError(f'vision_cfg: width {cfg.width} is not a multiple of head_width {cfg.head_width}')
    tower = VisionTransformer(
        image_size=cfg.image_size,
        patch_size=cfg.patch_size,
        width=cfg.width,
        layers=cfg.layers,
        heads=cfg.width // cfg.head_width,
        mlp_ratio=cfg.mlp_ratio,
        ls_init_value=cfg.ls_init_value,
        output_dim=arch.embed_dim,
        act_layer=_activation(arch),
        norm_layer=LayerNorm,
    )
    return fuse_attention(tower)


def build_text_tower(arch: ClipArch) -> TextTransformer:
    """Build open_clip's text tower with random weights.

    Raises:
        ValueError: If ``text`` has a key that the tower does not know, or its width does not divide into heads.
    """
    try:
        cfg = open_clip.CLIPTextCfg(**arch.text)
    except TypeError as error:
        raise ValueError(f'text_cfg of arch {arch.name!r}: {error}') from error
    if cfg.width % cfg.heads:
        raise ValueError(f'text_cfg: width {cfg.width} is not a multiple of heads {cfg.heads}')
    tower = TextTransformer(
        context_length=cfg.context_length,
        vocab_size=cfg.vocab_size,
        width=cfg.width,
        heads=cfg.heads,
        layers=cfg.layers,
        mlp_ratio=cfg.mlp_ratio,
        ls_init_value=cfg.ls_init_value,
        output_dim=arch.embed_dim,
        act_layer=_activation(arch),
        norm_layer=LayerNorm,
    )
    return fuse_attention(tower)
