"""The paper's schedule (Sec. 4.2): 50 epochs of Adam, learning rate x0.1 at epoch 35, 32 samples a step on 2 GPUs."""

max_epochs = 50

# fused: one kernel instead of a dozen per parameter, on GPUs and CPUs.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4, weight_decay=0, fused=True))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[35], gamma=0.1)]

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')

# tools/train.py --auto-scale-lr scales the learning rate when (processes x samples per process) is another number.
auto_scale_lr = dict(enable=False, base_batch_size=2 * 16)
