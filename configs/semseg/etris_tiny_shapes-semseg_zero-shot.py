"""As etris_tiny_shapes-semseg.py, but training never sees 8 of the 56 names, one of each colour; tests look for all.

    python tools/dataset_tools/make_shapes.py data/shapes_semseg --layout semseg
    bash tools/dist_train.sh configs/semseg/etris_tiny_shapes-semseg_zero-shot.py 2

``mIoU/held-out`` is the mean over the names held out, ``mIoU/seen`` over the others.
No row of the paper. Results in docs/class_names.md.
"""

_base_ = './etris_tiny_shapes-semseg.py'

held_out = [
    'red star',
    'orange circle',
    'yellow heart',
    'green square',
    'cyan ring',
    'blue triangle',
    'purple cross',
    'pink circle',
]

model = dict(held_out=held_out)
val_evaluator = dict(type='HeldOutIoUMetric', held_out=held_out)
test_evaluator = val_evaluator
