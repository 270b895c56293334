"""MMSegmentation's schedule for Transformers on ADE20K: AdamW, 160k iterations of 16 images.

The Bridger is new and starts at zero; as SegFormer's head, it learns ten times faster than the pre-trained backbone.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'pos_embed': dict(decay_mult=0),
            'cls_token': dict(decay_mult=0),
            'relative_position_bias_table': dict(decay_mult=0),
            'norm': dict(decay_mult=0),
            'backbone.bridger': dict(lr_mult=10),
        }
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0, power=1, begin=1500, end=160000, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=16, enable=False)
