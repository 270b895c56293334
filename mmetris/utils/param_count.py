"""How many parameters are tuned, part by part, as the paper's tables count them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def remember_whole_sizes(model: nn.Module) -> None:
    """Have :func:`whole_size` tell the present sizes for good, for a model that is about to be sharded.

    Args:
        model: The model, whole.
    """
    for parameter in model.parameters():
        parameter.whole_size = parameter.numel()


def whole_size(parameter: nn.Parameter) -> int:
    """Numbers in a parameter, also where this process holds only a share of it."""
    return getattr(parameter, 'whole_size', parameter.numel())


def _count(parameters: Iterable[nn.Parameter], tunable: bool) -> int:
    return sum(whole_size(parameter) for parameter in parameters if parameter.requires_grad is tunable)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of a :class:`ReferringSegmentor` in the columns of the paper's Table 2.

    Args:
        model: The model; it may live on the meta device.

    Returns:
        ``bridger``, ``head``: tunable parameters of neck and decode head. ``prompt``: tunable parameters of prompt
            learners (modules called
        ``prompt``). ``backbone_tunable``: tunable parameters inside the encoders: adapters, or all of them in full
        tuning. ``frozen``: all that is not tuned. ``total``: the sum of these.
    """
    prompts = {
        id(parameter)
        for name, module in model.named_modules()
        if name.split('.')[-1] == 'prompt'
        for parameter in module.parameters()
    }
    encoders = [
        parameter
        for part in ('backbone', 'text_encoder')
        if getattr(model, part, None) is not None
        for parameter in getattr(model, part).parameters()
        if id(parameter) not in prompts
    ]
    counts = dict(
        bridger=_count(model.neck.parameters(), tunable=True),
        head=_count(model.decode_head.parameters(), tunable=True),
        prompt=_count((parameter for parameter in model.parameters() if id(parameter) in prompts), tunable=True),
        backbone_tunable=_count(encoders, tunable=True),
        frozen=_count(model.parameters(), tunable=False),
    )
    counts['total'] = sum(counts.values())
    return counts
