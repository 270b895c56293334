"""ETRIS, EVA-CLIP (EVA02 ViT-B/16), RefCOCO.

    bash tools/dist_train.sh configs/etris/etris_eva02-b16_refcoco.py 2

The paper has no such row. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_eva02-b16.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e_vit.py',
    '../_base_/default_runtime.py',
]
