"""How many parameters are tuned, part by part, as the paper's tables count them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn


def remember_whole_sizes(model: nn.Module) -> None:
    """Have :func:`whole_size` tell the present sizes for good, for a model that is about to be sharded.

    Args:
        model: The model, whole.
    """
    parameter: Any  # torch's class declares no such attribute.
    for parameter in model.parameters():
        parameter.whole_size = parameter.numel()


def whole_size(parameter: nn.Parameter) -> int:
    """Numbers in a parameter, also where this process holds only a share of it."""
    return getattr(parameter, 'whole_size', parameter.numel())


def _count(parameters: Iterable[nn.Parameter], tunable: bool) -> int:
    return sum(whole_size(parameter) for parameter in parameters if parameter.requires_grad is tunable)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of a segmentor, part by part; :func:`table_columns` makes the paper's columns of them.

    Args:
        model: A :class:`ReferringSegmentor`, or an ``EncoderDecoder`` of MMSeg's, with a :class:`BridgedBackbone` or
            without; it may live on the meta device.

    Returns:
        ``bridger``: tunable parameters of the Bridger (of the neck, in a model without). ``head``: those of the heads
        and whatever else is no encoder. ``prompt``: what tuning methods put in front of an encoder's tokens.
        ``tuning``: what tuning methods add otherwise. ``backbone_tunable``: those of the pretrained weights themselves
        (biases, or all of them in full tuning), and of what else is in an encoder. ``frozen``: all that is not tuned.
        ``total``: the sum of these; each parameter is in one of them.
    """
    columns: dict[str, list[Any]] = dict(bridger=[], prompt=[], tuning=[], backbone_tunable=[])
    for method in model.modules():
        if hasattr(method, 'tuned_parameters'):
            columns['prompt' if method.is_prompt else 'tuning'].append(method)
    inside = getattr(model.backbone, 'bridger', None)
    columns['bridger'] = [inside or getattr(model, 'neck', None) or nn.Identity()]
    columns['backbone_tunable'] = [
        model.get_submodule('backbone'),
        getattr(model, 'text_encoder', None) or nn.Identity(),
    ]
    counts: dict[str, int] = {}
    seen: set[int] = set()
    for column, modules in (*columns.items(), ('head', [model])):
        parameters = {id(value): value for module in modules for value in module.parameters()}
        counts[column] = _count((value for key, value in parameters.items() if key not in seen), tunable=True)
        seen |= parameters.keys()
    counts['frozen'] = _count(model.parameters(), tunable=False)
    counts['total'] = sum(counts.values())
    return counts


def table_columns(counts: Mapping[str, int]) -> dict[str, int]:
    """Sum counts up to the columns of the paper's Tables 2 and 8.

    Args:
        counts: What :func:`count_parameters` returned.

    Returns:
        ``Backbone``: all that is tuned of the encoders and between them (the Bridger, what tuning methods add, CLIP's
        own weights) except for prompts. ``Prompt``: learnt tokens. ``Head``: the rest of what is tuned.
    """
    backbone = sum(counts[part] for part in ('backbone_tunable', 'bridger', 'tuning'))
    return dict(Backbone=backbone, Prompt=counts['prompt'], Head=counts['head'])
