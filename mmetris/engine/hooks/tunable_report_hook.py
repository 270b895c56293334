"""The table of tuned and frozen parameters that a training log opens with."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from prettytable import PrettyTable
from torch import nn

from mmetris.engine.unwrapping import model_of
from mmetris.models import BridgedBackbone, FrozenEncoder
from mmetris.registry import HOOKS
from mmetris.utils.param_count import count_parameters, whole_size


def iter_parts(model: nn.Module) -> Iterator[tuple[str, str, list[nn.Parameter]]]:
    """Split a model's parameters into its top-level parts, each parameter in one part only.

    Args:
        model: Any model, not wrapped for distribution.

    Yields:
        Name of the part, its class, its parameters. A :class:`BridgedBackbone` is three parts, and each tuning method
        of an encoder is one. A parameter that two parts share belongs to the first; parts without parameters are left
        out; parameters that the model holds itself come last, under '(own)'.
    """
    seen: set[int] = set()
    own = [parameter for parameter in model._parameters.values() if parameter is not None]
    children = []
    for name, child in model.named_children():
        inside = child.named_children() if isinstance(child, BridgedBackbone) else ()
        children += [(f'{name}.{part}', module) for part, module in inside] or [(name, child)]
    parts = []
    for name, child in children:
        methods = getattr(child, 'tuning', {}).items() if isinstance(child, FrozenEncoder) else ()
        tuned = [
            (f'{name}.tuning.{key}', type(method).__name__, [*method.tuned_parameters()]) for key, method in methods
        ]
        of_methods = {id(parameter) for _, _, parameters in tuned for parameter in parameters}
        rest = [parameter for parameter in child.parameters() if id(parameter) not in of_methods]
        parts += [(name, type(child).__name__, rest), *tuned]
    for name, class_name, parameters in [*parts, ('(own)', type(model).__name__, own)]:
        parameters = [parameter for parameter in parameters if id(parameter) not in seen]
        seen.update(map(id, parameters))
        if parameters:
            yield name, class_name, parameters


def tunable_report(model: nn.Module, optim_wrapper: OptimWrapper | OptimWrapperDict | None = None) -> str:
    """Tell part by part what is tuned, what is frozen, and at which learning rates.

    Args:
        model: Any model, not wrapped for distribution.
        optim_wrapper: What trains it; adds a column with each part's (initial) learning rates. Defaults to
            None.

    Returns:
        A table with one row for each top-level part and one for the whole, and one or two lines below it: the
        tuned share of the model and, for a model with a Bridger and a head, what is tuned on the encoders'
        side.
    """
    rates = _learning_rates(optim_wrapper)
    table = PrettyTable(['part', 'class', 'tunable', 'frozen', 'tunable share', *(['learning rate'] if rates else [])])
    table.align = 'r'
    table.align['part'] = table.align['class'] = 'l'

    total_tunable = total_frozen = 0
    for name, class_name, parameters in iter_parts(model):
        tunable = sum(whole_size(parameter) for parameter in parameters if parameter.requires_grad)
        frozen = sum(whole_size(parameter) for parameter in parameters) - tunable
        total_tunable, total_frozen = total_tunable + tunable, total_frozen + frozen
        row = [name, class_name, f'{tunable:,}', f'{frozen:,}', _share(tunable, tunable + frozen)]
        if rates:
            of_part = {
                rates[id(parameter)] for parameter in parameters if parameter.requires_grad and id(parameter) in rates
            }
            row.append(', '.join(f'{rate:g}' for rate in sorted(of_part, reverse=True)))
        table.add_row(row)
    total = total_tunable + total_frozen
    table.add_row(
        ['total', '', f'{total_tunable:,}', f'{total_frozen:,}', _share(total_tunable, total), *([''] if rates else [])]
    )

    lines = [table.get_string(), f'tunable parameters: {total_tunable:,} of {total:,} ({_share(total_tunable, total)})']
    if all(getattr(model, part, None) is not None for part in ('text_encoder', 'neck', 'decode_head')):
        counts = count_parameters(model)
        beside_head = sum(counts[column] for column in ('bridger', 'tuning', 'prompt', 'backbone_tunable'))
        encoders = sum(
            whole_size(parameter)
            for name, _, parameters in iter_parts(model)
            if name in ('backbone', 'text_encoder')
            for parameter in parameters
        )
        lines.append(
            f'tunable beside the head: {beside_head:,} (Bridger {counts["bridger"]:,}, tuning methods '
            f'{counts["tuning"]:,}, prompt {counts["prompt"]:,}, inside the encoders {counts["backbone_tunable"]:,}), '
            f"{_share(beside_head, encoders)} of the encoders' {encoders:,}"
        )
    return '\n'.join(lines)


@HOOKS.register_module()
class TunableReportHook(Hook):
    """Log once, when training starts, which parts of the model are tuned and which are frozen.

    Also warns of tunable parameters that no optimizer holds: they would silently keep their initial values.

    It runs before the first iteration, when weights are loaded and everything that freezes parts has done so,
    on the first process only.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._is_reported = False

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Log the table.

        Args:
            runner: The runner of the training.
        """
        if self._is_reported:
            return
        self._is_reported = True
        model = model_of(runner)
        print_log(f'tunable and frozen parameters:\n{tunable_report(model, runner.optim_wrapper)}', logger='current')
        rates = _learning_rates(runner.optim_wrapper)
        forgotten = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in rates
        ]
        if forgotten and rates:
            print_log(
                f'{len(forgotten)} tunable parameters belong to no optimizer and will not change, the first '
                f'is {forgotten[0]}',
                logger='current',
                level=logging.WARNING,
            )


def _learning_rates(optim_wrapper: OptimWrapper | OptimWrapperDict | None) -> dict[int, float]:
    """Initial learning rate of each parameter an optimizer holds, by the parameter's id."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        wrappers = list(optim_wrapper.values())
    else:
        wrappers = [optim_wrapper] if isinstance(optim_wrapper, OptimWrapper) else []
    # A warm-up has already changed 'lr' by now; schedulers keep the value from the config as 'initial_lr'.
    return {
        id(parameter): group.get('initial_lr', group['lr'])
        for wrapper in wrappers
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


def _share(part: int, whole: int) -> str:
    return f'{100 * part / whole:.2f} %' if whole else '-'


__all__ = ['TunableReportHook', 'iter_parts', 'tunable_report']
