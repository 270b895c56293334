"""The cost of an epoch on 1 to many GPUs and the memory of one, on paper; nothing is measured, no weights are needed.

    python tools/analysis_tools/epoch_cost.py configs/etris/etris_vitb16_refcoco.py --gpus 1 2 8 64

Every assumption is an option and is printed. Put measured numbers in where you have them: --samples-per-s from
`benchmark.py --task train`, --load-samples-per-s from `benchmark.py --task data`. docs/benchmarks.md has the formula.
"""

from __future__ import annotations

import argparse
import json

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from prettytable import PrettyTable
from torch import Tensor

from mmetris.benchmark.counters import count_flops, kept_for_backward
from mmetris.benchmark.epoch_cost import TRAIN_OBJECTS, Assumptions, EpochCost, epoch_cost
from mmetris.benchmark.tasks import Setting, Task, build_task
from mmetris.models import ReferringSegmentor
from mmetris.registry import MODELS
from mmetris.utils.command_line import add_config_arguments, build_without_weights, load_config
from mmetris.utils.config_types import is_kind_of, type_name
from mmetris.utils.param_count import count_parameters
from mmetris.utils.starting import in_one_line

DEFAULTS = Assumptions(samples=1, batch=1, samples_per_s=1, gradient_bytes=1)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Compute what an epoch costs on many GPUs')
    add_config_arguments(parser)
    parser.add_argument('--gpus', type=int, nargs='+', default=[1, 2, 8, 64], help='default 1 2 8 64')
    parser.add_argument('--samples', type=int, help="samples of an epoch; default the objects of the config's data set")
    parser.add_argument('--batch', type=int, help="samples of a GPU in a step; default the config's")
    parser.add_argument('--samples-per-s', type=float, help='measured on one GPU; default: from the next three')
    parser.add_argument('--flops', type=float, help='of a training step on one sample; default: counted here')
    parser.add_argument('--peak-tflops', type=float, default=989, help="of a GPU; default 989, an H100's in bfloat16")
    parser.add_argument('--share', type=float, default=0.35, help='of the peak that training reaches; default 0.35')
    parser.add_argument('--bytes-per-gradient', type=int, default=4, help='default 4, float32')
    for name, text in (
        ('link-gb-s', 'GB/s that a GPU sends inside a machine (NVLink)'),
        ('net-gb-s', 'GB/s that a GPU sends to another machine'),
        ('gpus-per-machine', 'GPUs of a machine'),
        ('latency-us', 'microseconds of each step of the ring'),
        ('hidden', 'share of the communication behind the backward pass'),
        ('load-samples-per-s', 'samples that a core decodes in a second'),
    ):
        default = getattr(DEFAULTS, name.replace('-', '_'))
        parser.add_argument(
            f'--{name}',
            type=type(default) if name == 'gpus-per-machine' else float,
            default=default,
            help=f'{text}; default {default:g}',
        )
    parser.add_argument('--json', action='store_true', help='print one line of JSON')
    return parser


def counted_step(cfg: Config, batch: int) -> Task:
    """A training step at the config's input size on device 'meta', which computes nothing."""
    MMLogger.get_current_instance().setLevel('ERROR')  # not a line for each parameter of the optimizer
    dataset = cfg.train_dataloader.dataset
    pipeline = dataset.get('datasets', [dataset])[0].pipeline  # Those of a mixture have one size.
    size = next((step.size for step in pipeline if type_name(step) == 'Letterbox'), None)
    if size is None:
        raise ValueError('the pipeline of train_dataloader has no Letterbox, which tells the input size')
    return build_task(cfg, Setting('train', batch=batch, hw=tuple(size), device='meta'))


def flops_of_a_sample(cfg: Config) -> int:
    """FLOPs of losses and gradients on one sample at the config's input size, by torch's counter, as on a GPU."""
    return count_flops(counted_step(cfg, 2).call) // 2  # BatchNorm over a pooled map refuses to train on one sample.


def memory_of_a_gpu(cfg: Config, batch: int) -> dict[str, int]:
    """Bytes that a GPU holds at the end of a step's forward pass, in float32.

    Args:
        cfg: With ``train_dataloader``, whose pipeline tells the input size.
        batch: Samples of the step.
    """
    task = counted_step(cfg, batch)
    kept = kept_for_backward(task.call, task.model)
    assert task.optim_wrapper is not None
    states = [state for states in task.optim_wrapper.optimizer.state.values() for state in states.values()]
    tunable = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    return dict(
        parameters=sum(tensor.nbytes for tensor in (*task.model.parameters(), *task.model.buffers())),
        gradients=sum(parameter.nbytes for parameter in tunable),
        optimizer=sum(state.nbytes for state in states if isinstance(state, Tensor)),
        kept_for_backward=kept,
    )


def samples_of(parser: argparse.ArgumentParser, args: argparse.Namespace, cfg: Config) -> int:
    """Samples of an epoch: those of the command line, or the objects of a known data set."""
    if args.samples is not None:
        return args.samples
    split_file = cfg.train_dataloader.dataset.get('split_file')
    if split_file not in TRAIN_OBJECTS or 'shapes' in cfg.train_dataloader.dataset.get('data_root', ''):
        parser.error(f'the number of samples of {args.config} is not known: give --samples')
    return TRAIN_OBJECTS[split_file]


def assumptions_of(parser: argparse.ArgumentParser, args: argparse.Namespace, cfg: Config) -> tuple[Assumptions, dict]:
    """What is assumed, and where the two computed numbers come from."""
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    if not is_kind_of(cfg.model, ReferringSegmentor, MODELS):
        parser.error(f'{args.config} has a {type_name(cfg.model)}: only a ReferringSegmentor has a training step here')
    counts = count_parameters(build_without_weights(cfg))
    tunable = counts['total'] - counts['frozen']
    all_bytes = counts['total'] * args.bytes_per_gradient
    origin = dict(tunable_parameters=tunable, gradient_bytes_if_all_were_tuned=all_bytes)
    rate = args.samples_per_s
    if rate is None:
        flops = args.flops or flops_of_a_sample(cfg)
        rate = args.peak_tflops * 1e12 * args.share / flops
        origin |= dict(flops=flops, peak_tflops=args.peak_tflops, share=args.share)
    given = Assumptions(
        samples=samples_of(parser, args, cfg),
        batch=args.batch or cfg.train_dataloader.batch_size,
        samples_per_s=rate,
        gradient_bytes=tunable * args.bytes_per_gradient,
        link_gb_s=args.link_gb_s,
        net_gb_s=args.net_gb_s,
        gpus_per_machine=args.gpus_per_machine,
        latency_us=args.latency_us,
        hidden=args.hidden,
        load_samples_per_s=args.load_samples_per_s,
    )
    return given, origin


def table_of(costs: list[EpochCost]) -> PrettyTable:
    """The costs as a table."""
    table = PrettyTable(
        ['GPUs', 'batch', 'steps', 'step ms', 'communication ms', 'share', 'epoch minutes', 'loading cores', 'per GPU'],
        align='r',
    )
    for cost in costs:
        table.add_row(
            [
                cost.gpus,
                cost.total_batch,
                cost.steps,
                f'{1e3 * cost.step_s:.1f}',
                f'{1e3 * cost.communication_s:.2f}',
                f'{100 * cost.communication_share:.1f} %',
                f'{cost.epoch_s / 60:.3g}',
                cost.loading_cores,
                f'{cost.loading_cores / cost.gpus:.1f}',
            ]
        )
    return table


def main() -> None:
    """Compute and print."""
    parser = build_parser()
    args = parser.parse_args()
    cfg = load_config(parser, args)
    with in_one_line(parser):
        given, origin = assumptions_of(parser, args, cfg)
        memory = memory_of_a_gpu(cfg, given.batch)
        costs = [epoch_cost(given, gpus) for gpus in args.gpus]
    if args.json:
        print(
            json.dumps(
                dict(
                    config=args.config,
                    assumptions=vars(given),
                    origin=origin,
                    memory_bytes=memory,
                    costs=[cost.as_dict() for cost in costs],
                )
            )
        )
        return
    print(f'{args.config}: computed, not measured, from')
    for name, value in {**vars(given), **origin}.items():
        print(f'  {name}: {value:,.6g}' if isinstance(value, float) else f'  {name}: {value:,}')
    print(table_of(costs))
    parts = ', '.join(f'{name.replace("_", " ")} {size / 1e9:.2f}' for name, size in memory.items())
    print(f'memory of a GPU in float32: {sum(memory.values()) / 1e9:.1f} GB ({parts}), and temporary tensors on top')


if __name__ == '__main__':
    main()
