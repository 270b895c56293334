"""ETRIS, CLIP ViT-B/16, gRefCOCO: sentences that mean nothing, one object or several.

    bash tools/dist_train.sh configs/etris/etris_vitb16_grefcoco.py 2

No row of the paper, which has no such sentences; its recipe as it is, with a sample for each sentence. A sentence is
answered with nothing where no pixel exceeds the threshold. Here: not run.
Tunable: Bridger 1.39 M, decoder see README.md.
"""

_base_ = [
    '../_base_/models/etris_vitb16.py',
    '../_base_/datasets/grefcoco.py',
    '../_base_/schedules/etris_50e_vit.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(save_best='gIoU'))
