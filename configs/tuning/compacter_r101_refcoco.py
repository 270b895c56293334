"""Compacter, CLIP ResNet-101, RefCOCO: row "Compacter" of the paper's Table 2.

    bash tools/dist_train.sh configs/tuning/compacter_r101_refcoco.py 2

Method: Mahabadi et al., "Compacter", 2021, https://arxiv.org/abs/2106.04647.
Paper, on val: mIoU 69.11 (printed as "oIoU"); backbone 0.19 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 192,768 parameters; places chosen to match the count.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(
    # Parallel to the three convolutions of every bottleneck of layers 2 to 4, each with its BatchNorm.
    backbone=dict(
        tuning=dict(
            compacter=dict(
                type='Compacter',
                reduction=4,
                places={'layer[234].*.conv1': 'bn1', 'layer[234].*.conv2': 'bn2', 'layer[234].*.conv3': 'bn3'},
            )
        )
    ),
    # After the MLP of layers 4 to 12. The same name as above: both have one rule.
    text_encoder=dict(
        tuning=dict(
            compacter=dict(
                type='Compacter',
                reduction=4,
                places=('transformer.resblocks.[3-9].mlp', 'transformer.resblocks.1[01].mlp'),
            )
        )
    ),
    neck=dict(stages=()),
)
