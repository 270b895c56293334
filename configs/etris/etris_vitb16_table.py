"""ETRIS, CLIP ViT-B/16, your own images and masks with a table of sentences.

    TABLE_ROOT=data/mine/ bash tools/dist_train.sh configs/etris/etris_vitb16_table.py 2

No row of the paper; its recipe as it is. Here: not run. `mmetris data check` reads the data before anything is trained.
Tunable: Bridger 1.39 M, decoder see README.md.

If the table has sentences that mean nothing in their image, a no-target head learns to say so; in a config of your own:

    _base_ = './etris_vitb16_table.py'
    model = dict(decode_head=dict(no_target_head=dict(type='NoTargetHead', channels=256, threshold=0.5)))
"""

_base_ = [
    '../_base_/models/etris_vitb16.py',
    '../_base_/datasets/table.py',
    '../_base_/schedules/etris_50e_vit.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(save_best='gIoU'))
