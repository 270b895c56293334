"""What every run shares: registries, hooks, logging, processes."""

default_scope = 'mmetris'
# The registries import the rest of the package when a name is first asked for.
custom_imports = dict(imports=['mmetris.registry'])

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    # With its scope, since semseg_runtime.py hands it on to configs that may be in MMSeg's.
    logger=dict(type='mmetris.MainProcessLoggerHook', interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # The best epoch is picked on val, never on a test split.
    # A kill at any moment leaves a checkpoint to resume from (docs/reliability.md).
    checkpoint=dict(
        type='mmetris.AtomicCheckpointHook',
        by_epoch=True,
        interval=1,
        max_keep_ckpts=1,
        save_best='mIoU',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='RefSegVisualizationHook'),
)
custom_hooks = [
    dict(type='TunableReportHook'),
    # Sentences and random numbers follow from (seed, epoch), so that a resumed run equals an uninterrupted one.
    dict(type='EpochSeedHook'),
    # A loss or weights of NaN or Inf end the training; policy='skip' leaves such a batch out and counts it.
    dict(type='FiniteLossHook'),
    # What is tuned in the modules of `activation_checkpointing` gets all of its gradients.
    dict(type='ActivationCheckpointHook'),
    # BatchNorm statistics differ between processes in training; averaged, all of them evaluate the model that is saved.
    dict(type='SyncBuffersHook'),
    # Checkpoints hold what was tuned and which CLIP it belongs to; remove this line for full ones.
    dict(type='SlimCheckpointHook'),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # tools/train.py and tools/test.py take gloo instead where there is no GPU.
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='RefSegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'

load_from = None
resume = False
tta_model = dict(type='RefSegTTAModel')
