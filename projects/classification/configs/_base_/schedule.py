"""Adam, a warm-up and a cosine. A Bridger is small: a few epochs of a few thousand pictures show what it gives."""

max_epochs = 20
learning_rate = 5e-4

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='Adam', lr=learning_rate, fused=True), clip_grad=dict(max_norm=5)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=True, end=max_epochs, T_max=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# tools/train.py --auto-scale-lr scales the learning rate when (processes x samples per process) is another number.
auto_scale_lr = dict(enable=False, base_batch_size=32)
