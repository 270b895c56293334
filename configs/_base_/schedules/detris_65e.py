"""As detris_50e.py, 65 epochs with steps at 35 and 55: the base model on RefCOCO and RefCOCOg UMD."""

_base_ = './detris_50e.py'

max_epochs = 65

param_scheduler = [dict(_base_.param_scheduler[0], end=max_epochs, milestones=[35, 55])]
train_cfg = dict(max_epochs=max_epochs)
