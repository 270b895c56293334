"""What runs on MMSegmentation's own data sets share: iterations instead of epochs, IoU by class, MMSeg's pictures."""

_base_ = './default_runtime.py'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000),
    visualization=dict(_delete_=True, type='SegVisualizationHook'),
)
custom_hooks = [
    dict(type='TunableReportHook'),
    # Labels are numbers: the data's classes must be the model's, in the same order.
    dict(type='VocabularyCheckHook'),
    dict(type='SlimCheckpointHook'),
]
visualizer = dict(type='SegLocalVisualizer')
log_processor = dict(by_epoch=False)
