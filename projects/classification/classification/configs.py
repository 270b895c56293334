"""For configs: a classifier on the encoders and the Bridger of a config of referring segmentation.

A config is executed by MMEngine and cannot import the usual way (it would be taken for one of the other style)::

    from importlib import import_module

    classification = import_module('projects.classification.classification.configs')
    model = classification.classifier(_base_.model, vocabulary=dict(templates='imagenet'))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IMPORTS = dict(imports=['mmetris.registry', 'projects.classification.classification'])
"""``custom_imports`` of such a config."""


def classifier(model: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
    """A classifier on the encoders and the neck of a segmentor.

    Args:
        model: Config of a :class:`~mmetris.models.ReferringSegmentor`. Its Bridger starts with updates of zero here,
            for which it has no normalisation in its Zoom Layers.
        **kwargs: Other arguments of the :class:`BridgedClassifier`.
    """
    kept = {key: value for key, value in model.items() if key not in ('decode_head', 'test_cfg', 'context_length')}
    neck = {key: value for key, value in kept['neck'].items() if key != 'zoom_norm'}
    return dict(
        kept,
        _delete_=True,
        type='BridgedClassifier',
        text_encoder=dict(type='ClassText'),
        neck=dict(neck, zero_init=True),
        **kwargs,
    )
