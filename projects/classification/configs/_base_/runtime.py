"""What every classifier's run shares: mmetris's runtime without pictures of masks."""

_base_ = '../../../../configs/_base_/default_runtime.py'

custom_imports = dict(imports=['mmetris.registry', 'projects.classification.classification'])

default_hooks = dict(
    _delete_=True,
    **{name: hook for name, hook in _base_.default_hooks.items() if name not in ('checkpoint', 'visualization')},
    checkpoint=dict(_base_.default_hooks.checkpoint, save_best='accuracy/top1'),
)
custom_hooks = [
    # The classes are those of the data, in each phase its own.
    dict(type='ClassNamesHook'),
    dict(type='TunableReportHook'),
    dict(type='EpochSeedHook'),
    dict(type='FiniteLossHook'),
    dict(type='SlimCheckpointHook'),
]
