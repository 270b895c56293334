"""How many parameters are tuned, part by part, as the paper's tables count them."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Count the parameters of a segmentor in the columns of the paper's Table 2.

    Args:
        model: A :class:`ReferringSegmentor`, or an ``EncoderDecoder`` of MMSeg's, with a :class:`BridgedBackbone` or
            without; it may live on the meta device.

    Returns:
        ``bridger``: tunable parameters of the Bridger (of the neck, in a model without). ``head``: those of the heads
        and whatever else is no encoder. ``prompt``: those of prompt learners (modules called ``prompt``).
        ``backbone_tunable``: those inside the encoders: adapters, or all of them in full tuning. ``frozen``: all that
        is not tuned. ``total``: the sum of these.
    """

    def of(*modules: Any) -> dict[int, nn.Parameter]:
        return {id(value): value for module in modules if module is not None for value in module.parameters()}

    bridger = of(getattr(model.backbone, 'bridger', None)) or of(getattr(model, 'neck', None))
    prompts = of(*(module for name, module in model.named_modules() if name.split('.')[-1] == 'prompt'))
    encoders = of(model.backbone, getattr(model, 'text_encoder', None))
    encoders = {key: value for key, value in encoders.items() if key not in bridger and key not in prompts}
    others = {key: value for key, value in of(model).items() if key not in bridger | prompts | encoders}
    counts = dict(
        bridger=_count(bridger.values(), tunable=True),
        head=_count(others.values(), tunable=True),
        prompt=_count(prompts.values(), tunable=True),
        backbone_tunable=_count(encoders.values(), tunable=True),
        frozen=_count(model.parameters(), tunable=False),
    )
    counts['total'] = sum(counts.values())
    return counts
