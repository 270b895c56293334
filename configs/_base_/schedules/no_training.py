"""Tests alone: there is nothing to train."""

train_cfg = None
optim_wrapper = None
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# Of several processes: DDP refuses a model without gradients, this one wraps only parts that have some.
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
