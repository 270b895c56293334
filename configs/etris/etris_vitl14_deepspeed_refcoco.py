"""ETRIS, CLIP ViT-L/14, RefCOCO, with DeepSpeed: gradients and optimizer states spread over the processes (ZeRO 2).

    bash tools/dist_train.sh configs/etris/etris_vitl14_deepspeed_refcoco.py 2

The paper has no such row, and this was not run at full size; with a toy model two CPU processes on DeepSpeed 0.16.9 end
where DDP ends. Checkpoints are folders (docs/large_models.md).
"""

_base_ = './etris_vitl14_refcoco.py'

runner_type = 'mmetris.RefSegFlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy',
    # Stage 3 would spread the frozen CLIP too and gather it anew in every step; RefSegFSDPStrategy does that.
    zero_optimization=dict(stage=2, overlap_comm=True, contiguous_gradients=True),
    bf16=dict(enabled=True),
    inputs_to_half=['inputs'],
    exclude_frozen_parameters=True,
)

# DeepSpeed itself takes the step; it clips by the strategy's gradient_clipping.
optim_wrapper = dict(type='DeepSpeedOptimWrapper')
