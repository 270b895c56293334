"""Tiny dual encoders of open_clip whose image tower is timm's, one for each family; timm knows the towers from here."""

from __future__ import annotations

from functools import partial

import timm
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.models.vision_transformer import VisionTransformer

from tests.toy import model_cfg

VIT = dict(img_size=64, patch_size=16, embed_dim=32, depth=4, num_heads=4)
TOWERS = dict(
    toy_siglip=(VisionTransformer, dict(VIT, class_token=False)),
    toy_gap=(VisionTransformer, dict(VIT, class_token=False, global_pool='avg', fc_norm=False, init_values=1e-2)),
    toy_eva=(
        Eva,
        dict(VIT, qkv_fused=False, mlp_ratio=2, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True)
        | dict(use_rot_pos_emb=True, ref_feat_shape=(3, 3)),
    ),
    toy_pe=(
        Eva,
        dict(VIT, attn_type='rope', use_pre_transformer_norm=True, attn_pool_num_heads=4, attn_pool_mlp_ratio=2.0)
        | dict(use_rot_pos_emb=True, ref_feat_shape=(4, 4), rope_grid_offset=1.0, rope_grid_indexing='xy'),
    ),
    toy_convnext=(ConvNeXt, dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))),
    toy_fastvit=(
        FastVit,
        dict(
            layers=(1, 1, 1, 1),
            embed_dims=(8, 16, 32, 64),
            mlp_ratios=(2, 2, 2, 2),
            se_downsamples=(False, False, True, True),
            pos_embs=(None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))),
            token_mixers=('repmixer', 'repmixer', 'repmixer', 'attention'),
            lkc_use_act=True,
        ),
    ),
)


def register_tower(name: str, kind: type, sizes: dict) -> None:
    """Tell timm a tower of one of its classes by a name."""

    def make(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
        model = kind(**(sizes | kwargs))
        model.default_cfg = {}
        return model

    make.__name__ = name
    timm.models.register_model(make)


for _name, _tower in TOWERS.items():
    register_tower(_name, *_tower)


def _image(tower: str, **kwargs) -> dict:
    return dict(image_size=64, timm_model_name=tower, timm_model_pretrained=False, **kwargs)


TEXT = dict(context_length=17, vocab_size=49408, width=16, heads=2, layers=4)
SIGLIP_TEXT = dict(TEXT, no_causal_mask=True, proj_bias=True, pool_type='last', norm_kwargs=dict(eps=1e-6))
# The fields that are no sizes are those of open_clip's ViT-B-16-SigLIP, ViT-B-16-SigLIP2, EVA02-B-16, PE-Core-B-16,
# convnext_base_w_320, convnext_large_d_320, MobileCLIP-S2, vit_medium_patch16_gap_256.
FAMILIES = dict(
    siglip=dict(embed_dim=32, vision_cfg=_image('toy_siglip', timm_pool='map', timm_proj='none'), text_cfg=SIGLIP_TEXT),
    siglip2=dict(
        embed_dim=32,
        vision_cfg=_image('toy_siglip', timm_pool='map', timm_proj='none'),
        text_cfg=SIGLIP_TEXT | dict(act_kwargs=dict(approximate='tanh')),
    ),
    eva=dict(embed_dim=24, vision_cfg=_image('toy_eva', timm_pool='token', timm_proj=None), text_cfg=TEXT),
    pe=dict(embed_dim=24, vision_cfg=_image('toy_pe', timm_pool='map', timm_proj=None), text_cfg=TEXT | dict(layers=1)),
    convnext=dict(
        embed_dim=24,
        vision_cfg=_image('toy_convnext', timm_pool='', timm_proj='linear', timm_drop_path=0.1),
        text_cfg=TEXT,
    ),
    convnext_mlp=dict(
        embed_dim=24, vision_cfg=_image('toy_convnext', timm_pool='', timm_proj='mlp'), text_cfg=TEXT | dict(layers=1)
    ),
    mobileclip=dict(
        embed_dim=24,
        vision_cfg=_image('toy_fastvit', timm_pool='avg', timm_proj=None),
        text_cfg=TEXT | dict(no_causal_mask=True),
    ),
    gap=dict(
        embed_dim=24, vision_cfg=_image('toy_gap', timm_pool='', timm_proj='linear'), text_cfg=TEXT | dict(layers=1)
    ),
)
CONV_NETS = ('convnext', 'convnext_mlp', 'mobileclip')


def encoder_cfg(family: str, **kwargs) -> dict:
    """Config of a family's tiny image encoder."""
    kind = 'CLIPTimmConvNet' if family in CONV_NETS else 'CLIPTimmViT'
    return dict(type=kind, arch=FAMILIES[family]) | kwargs


def timm_model_cfg(family: str, tuning: dict | None = None, **changes) -> dict:
    """Config of a tiny ReferringSegmentor on a family, for images of multiples of 32; 17 tokens."""
    cfg = model_cfg('resnet' if family in CONV_NETS else 'vit')
    cfg['backbone'] = encoder_cfg(family, tuning=tuning or {})
    cfg['text_encoder'] = dict(type='CLIPTextEncoder', arch=FAMILIES[family])
    cfg['data_preprocessor'].update(size_divisor=32)
    return cfg | dict(context_length=17) | changes
