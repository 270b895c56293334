"""As semseg_40k.py, 80k iterations."""

_base_ = './semseg_40k.py'

max_iters = 80000

param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
