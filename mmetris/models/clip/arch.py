"""CLIP architectures: a name that open_clip knows, or a dict of sizes in open_clip's config format; and the reasons why
a tower of some of them cannot be an encoder in stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
from timm.models import is_model, model_entrypoint

CUSTOM = 'custom'  # Name of an architecture that is given by sizes.
QUICK_GELU_SUFFIX = '-quickgelu'

# Modules of timm whose towers are cut in stages, with what they are called.
TIMM_FAMILIES = dict(
    convnext='ConvNeXt', eva='EVA', fastvit='FastViT', vision_transformer='Vision Transformer of one patch layer'
)
_TIMM = 'timm.models.'

# Keys of open_clip's model configs. What is not about towers concerns training or CoCa's captions: it has no part here.
_TOWER_KEYS = frozenset({'embed_dim', 'vision_cfg', 'text_cfg'})
_OTHER_KEYS = frozenset(
    {'quick_gelu', 'custom_text', 'multimodal_cfg', 'init_logit_scale', 'init_logit_bias', 'nonscalar_logit_scale'}
)


def find_config(arch: str | Mapping) -> tuple[str, dict[str, Any]]:
    """Name and open_clip config of an architecture.

    Args:
        arch: A name as open_clip or OpenAI write it (``'RN101'``, ``'ViT-B-16-quickgelu'``, ``'ViT-B/16'``,
            ``'ViT-L/14@336px'``), or a dict with ``embed_dim``, ``vision_cfg``, ``text_cfg`` and optionally
            ``quick_gelu``.

    Returns:
        open_clip's name, or ``'custom'``, and the config.

    Raises:
        ValueError: If the name is unknown, or a key is missing or unknown.
    """
    if isinstance(arch, str):
        name = arch.replace('/', '-').replace('@', '-').removesuffix('px')
        # Other schemes (hf-hub:..., local-dir:...) are files to be fetched and read, not names.
        config = None if ':' in name else open_clip.get_model_config(name)
        if config is None:
            raise ValueError(
                f'arch={arch!r} is no architecture of open_clip. Use one such as RN50, RN101, RN50x4, RN50x16, '
                'ViT-B-16, ViT-B-32, ViT-L-14 or ViT-L-14-336 (with -quickgelu for the weights of OpenAI), or give the '
                'sizes as a dict with embed_dim, vision_cfg, text_cfg.'
            )
        return name, config
    config = dict(arch)
    if missing := _TOWER_KEYS - set(config):
        raise ValueError(
            f'arch lacks {sorted(missing)}; a dict needs embed_dim, vision_cfg and text_cfg as in open_clip'
        )
    if unknown := set(config) - _TOWER_KEYS - _OTHER_KEYS:
        raise ValueError(f'arch has keys that open_clip does not know: {sorted(unknown)}')
    return CUSTOM, config


def is_resnet(vision: Mapping[str, Any]) -> bool:
    """Whether open_clip's ``vision_cfg`` describes a ResNet (four numbers of layers) and not a ViT (one)."""
    layers = vision.get('layers', 12)
    return isinstance(layers, Sequence) and not vision.get('timm_model_name')


def is_timm(vision: Mapping[str, Any]) -> bool:
    """Whether open_clip's ``vision_cfg`` names a tower of timm's."""
    return bool(vision.get('timm_model_name'))


def image_refusal(vision: Mapping[str, Any]) -> str | None:
    """Why an image tower cannot be an encoder in stages that ends in a map; None if it can.

    Args:
        vision: open_clip's ``vision_cfg``.
    """
    if is_timm(vision):
        return _timm_refusal(vision)
    if is_resnet(vision):
        return None
    if vision.get('attentional_pool'):
        return 'its image tower asks its patches by learned queries (attentional_pool), so that a patch has no feature'
    if vision.get('patch_dropout'):
        return 'patch_dropout would leave holes in the map; set it to 0'
    for key in ('image_size', 'patch_size'):
        size = vision.get(key)
        if isinstance(size, Sequence) and len(set(size)) > 1:
            return f'{key}={tuple(size)} is not square'
    return None


def _timm_refusal(vision: Mapping[str, Any]) -> str | None:
    model = str(vision['timm_model_name'])
    name = model.partition('.')[0]  # Behind a dot stands a tag of weights.
    if not is_model(name):
        return f"its image tower is timm's {model}, which this timm does not know"
    module = model_entrypoint(name).__module__
    # Of those that somebody else has registered the class of the tower decides, when it is built.
    if module.startswith(_TIMM) and (family := module.removeprefix(_TIMM)) not in TIMM_FAMILIES:
        known = ', '.join(TIMM_FAMILIES.values())
        return f"its image tower is timm's {model} ({family}), none of those that are cut in stages: {known}"
    if (pool := vision.get('timm_pool')) in ('abs_attn', 'rot_attn'):
        return f"its image tower, timm's {model}, ends in a pool for one size of images (timm_pool={pool!r})"
    if vision.get('patch_dropout'):
        return 'patch_dropout would leave holes in the map; set it to 0'
    return None


def text_refusal(text: Mapping[str, Any]) -> str | None:
    """Why a text tower cannot be an encoder in stages that ends in words and a sentence; None if it can.

    Args:
        text: open_clip's ``text_cfg``.
    """
    if model := text.get('hf_model_name'):
        return f"its text tower is Hugging Face's {model}"
    if text.get('embed_cls'):
        return 'its sentence feature is that of an additional token behind all words (embed_cls)'
    if text.get('pool_type') == 'none':
        return "it has no sentence feature (pool_type='none')"
    return None
