"""Pipelines of referring data for another input size or sentence length, for configs that inherit them.

A config is executed by MMEngine and cannot import the usual way (it would be taken for one of the other style)::

    from importlib import import_module

    pipelines = import_module('mmetris.datasets.pipelines')
    train_pipeline, test_pipeline, tta_pipeline = pipelines.adapted(_base_, input_size=(192, 192))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmetris.utils.config_types import type_name

NAMES = ('train_pipeline', 'test_pipeline', 'tta_pipeline')


def adapted(
    base: Mapping[str, Any],
    input_size: tuple[int, int] | None = None,
    context_length: int | None = None,
    tta_step: int = 32,
) -> tuple[list, list, list]:
    """The pipelines of training, testing and test-time augmentation of a base config, changed.

    Args:
        base: ``_base_`` of a config, with ``train_pipeline``, ``test_pipeline`` and ``tta_pipeline``.
        input_size: (H, W) of every ``Letterbox``; in test-time augmentation the three sizes around it. Defaults to
            None: as they are.
        context_length: Of every ``TokenizeExpression``. Defaults to None: as they are.
        tta_step: Pixels between the sizes of test-time augmentation, a multiple of the encoder's patch. Defaults to 32.

    Raises:
        KeyError: If the base has no such pipeline.
    """
    if missing := [name for name in NAMES if name not in base]:
        raise KeyError(f'the base config has no {" and no ".join(missing)}')

    def change(step: Any) -> Any:
        if isinstance(step, (list, tuple)):
            return [change(part) for part in step]
        kind = type_name(step)
        if kind == 'TokenizeExpression' and context_length is not None:
            return dict(step, context_length=context_length)
        if input_size is None:
            return step
        if kind == 'Letterbox':
            return dict(step, size=tuple(input_size))
        if kind == 'TestTimeAug':
            letterboxes = [
                dict(type='Letterbox', size=tuple(side + more for side in input_size))
                for more in (-tta_step, 0, tta_step)
            ]
            return dict(step, transforms=[letterboxes, *step['transforms'][1:]])
        return step

    train, test, tta = (change(base[name]) for name in NAMES)
    return train, test, tta
