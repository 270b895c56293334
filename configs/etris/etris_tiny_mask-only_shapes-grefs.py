"""The twin of etris_tiny_shapes-grefs without no-target head: that nothing is meant shows in an empty mask alone.

    bash tools/dist_train.sh configs/etris/etris_tiny_mask-only_shapes-grefs.py 2

No row of the paper. A rule on the mask's probabilities can stand in for the head
(``--cfg-options model.test_cfg.no_target.by=top model.test_cfg.no_target.threshold=0.5``). Results in docs/shapes.md.
"""

_base_ = './etris_tiny_shapes-grefs.py'

model = dict(decode_head=dict(no_target_head=None))
