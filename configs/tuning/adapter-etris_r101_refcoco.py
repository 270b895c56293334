"""Adapter and Bridger, CLIP ResNet-101, RefCOCO: row "Adapter+ETRIS" of the paper's Table 8.

    bash tools/dist_train.sh configs/tuning/adapter-etris_r101_refcoco.py 2

Method: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, https://arxiv.org/abs/1902.00751.
Paper, on val: mIoU 71.67 (printed as "oIoU"), Pr@0.5 / 0.6 / 0.7 / 0.8 / 0.9 84.25 / 80.12 / 73.50 / 56.33 / 18.43;
backbone 4.33 M, prompt 0.00 K, head 23.98 M.
Here: not run. Backbone: 4,330,432 parameters, 1,942,080 of them the Bridger's; places chosen to match the count.
"""

_base_ = '../etris/etris_r101_refcoco.py'

model = dict(
    # Parallel to the 3x3 convolution of every bottleneck of layers 2 to 4.
    backbone=dict(tuning=dict(adapter=dict(type='ConvAdapter'))),
    # After the MLP of layers 4 to 12.
    text_encoder=dict(
        tuning=dict(
            adapter=dict(
                type='Adapter',
                places=('transformer.resblocks.[3-9].mlp', 'transformer.resblocks.1[01].mlp'),
                bias=False,
                norm=True,
            )
        )
    ),
)
