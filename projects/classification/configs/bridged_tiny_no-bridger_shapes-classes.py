"""As bridged_tiny_shapes-classes.py without Bridger: three numbers are learnt, an ablation of the README beside it.

bash tools/dist_train.sh projects/classification/configs/bridged_tiny_no-bridger_shapes-classes.py 1
"""

_base_ = './bridged_tiny_shapes-classes.py'

model = dict(neck=dict(stages=()))
