"""ETRIS as its released code builds it, CLIP ViT-B/16, RefCOCO: the architecture of the published checkpoints.

    bash tools/dist_train.sh configs/etris_released/etris_released_vitb16_refcoco.py 2

The paper, on 2 A100 with 40 GB (no hours told): mIoU 70.51 / 73.51 / 66.63 on val / testA / testB (printed as "oIoU").
Here: not run. Tunable: Bridger 0.60 M (the paper's has 1.39 M), decoder 22.67 M, CLIP's positional embeddings.
"""

_base_ = [
    '../_base_/models/etris_released_vit.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]

# ViT-B/16 by its sizes, because the positions are those of the training images: resized once, when CLIP is loaded.
input_size = _base_.input_size
arch = dict(
    embed_dim=512,
    quick_gelu=True,
    vision_cfg=dict(image_size=input_size[0], patch_size=16, width=768, head_width=64, layers=12),
    text_cfg=dict(context_length=77, vocab_size=49408, width=512, heads=8, layers=12),
)
clip_checkpoint = 'pretrained/ViT-B-16.pt'

model = dict(dual_encoder=dict(arch=arch, clip_checkpoint=clip_checkpoint))
