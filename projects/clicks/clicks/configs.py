"""For configs: a config of referring segmentation, with clicks.

A config is executed by MMEngine and cannot import the usual way (it would be taken for one of the other style)::

    from importlib import import_module

    clicks = import_module('projects.clicks.clicks.configs')
    model = clicks.with_clicks(channels=64)
"""

from __future__ import annotations

from typing import Any

IMPORTS = dict(imports=['mmetris.registry', 'projects.clicks.clicks'])
"""``custom_imports`` of such a config."""
NUM_CLICKS = 5
"""Clicks that its evaluation simulates."""
EVALUATORS = [
    dict(type='ClickMetric', num_clicks=(0, 1, 3, NUM_CLICKS)),
    dict(type='RefSegMetric', metric=['mIoU', 'oIoU']),
]
"""Its scores: after clicks, and by sentences alone."""
HOOKS = dict(checkpoint=dict(save_best='clicks/mIoU@3'))
"""``default_hooks`` of such a config: the best after three clicks is kept."""


def with_clicks(**click_head: Any) -> dict[str, Any]:
    """What makes a model that takes clicks of the base config's, which takes sentences.

    Args:
        **click_head: Options of the :class:`ClickHead`.
    """
    return dict(
        type='ClickSegmentor',
        click_head=dict(dict(type='ClickHead'), **click_head),
        test_cfg=dict(simulated_clicks=NUM_CLICKS),
    )
