"""What every classifier's run shares: mmetris's runtime without pictures of masks."""

_base_ = '../../../../configs/_base_/default_runtime.py'

custom_imports = dict(imports=['mmetris.registry', 'projects.classification.classification'])

default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='mmetris.MainProcessLoggerHook', interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmetris.AtomicCheckpointHook',
        by_epoch=True,
        interval=1,
        max_keep_ckpts=1,
        save_best='accuracy/top1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    # The classes are those of the data, in each phase its own.
    dict(type='ClassNamesHook'),
    dict(type='TunableReportHook'),
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook'),
    dict(type='SlimCheckpointHook'),
]
