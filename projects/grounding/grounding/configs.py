"""For configs: a config of referring segmentation, with boxes instead of masks, or beside them.

A config is executed by MMEngine and cannot import the usual way (it would be taken for one of the other style)::

    from importlib import import_module

    grounding = import_module('projects.grounding.grounding.configs')
    model = grounding.model_with_boxes(_base_.model, dict(type='PooledBoxHead'))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IMPORTS = dict(imports=['mmetris.registry', 'projects.grounding.grounding'])
"""``custom_imports`` of such a config."""
BOXES = dict(dataset=dict(with_boxes=True))
"""What each of its data loaders needs."""


def model_with_boxes(
    model: Mapping[str, Any], box_head: Mapping[str, Any], test_cfg: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A grounding model on the encoders and the neck of a segmentor.

    Args:
        model: Config of a :class:`~mmetris.models.ReferringSegmentor`. A :class:`PooledBoxHead` gets its head as
            ``decoder``.
        box_head: Config of the head.
        test_cfg: What the model's ``test_cfg`` has besides. Defaults to None: nothing.
    """
    model = dict(model, test_cfg=dict(model.get('test_cfg') or {}, **(test_cfg or {})))
    decode_head = model.pop('decode_head')
    if box_head['type'] == 'PooledBoxHead':
        box_head = dict(box_head, decoder=dict(decode_head))
    return dict(model, _delete_=True, type='ReferringGrounder', box_head=dict(box_head))
