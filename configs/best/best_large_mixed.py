"""What sources say is best, put together: DINOv2 ViT-L/14, CLIP ViT-B/16 (text), Bridgers, dense adapters, mixed data.

    bash tools/dist_train.sh configs/best/best_large_mixed.py 2 --amp

No row of a paper, and untested on RefCOCO: not run here, and no weights exist. README.md has the source of each choice,
and how the layout did in miniature. Tunable: adapters 33.33 M, Bridger 1.69 M, decoder 27.91 M.
"""

_base_ = [
    '../_base_/models/best_large.py',
    '../_base_/datasets/mixed_448px.py',
    '../_base_/schedules/detris_50e.py',
    '../_base_/default_runtime.py',
]

# The Bridger of a ViT learns ten times as fast (ETRIS, Sec. 4.2).
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(neck=dict(lr_mult=10))))
