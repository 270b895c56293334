"""ETRIS, open_clip ConvNeXt-Base, RefCOCO.

    bash tools/dist_train.sh configs/etris/etris_convnext-b_refcoco.py 2

The paper has no such row. Here: not run.
"""

_base_ = [
    '../_base_/models/etris_convnext-b.py',
    '../_base_/datasets/refcoco.py',
    '../_base_/schedules/etris_50e.py',
    '../_base_/default_runtime.py',
]
