"""The demo's model without Bridger, Shapes: frozen encoders that do not meet before the decoder.

    bash tools/dist_train.sh configs/etris/etris_tiny_no-bridger_shapes.py 2

The paper's Table 6 compares so on RefCOCO (67.73 without, 71.06 with). Here: see docs/shapes.md.
"""

_base_ = './etris_tiny_shapes.py'

model = dict(neck=dict(stages=()))
