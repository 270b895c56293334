"""The cost of an epoch against numbers worked out by hand."""

import functools
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmetris.benchmark.counters import kept_for_backward
from mmetris.benchmark.epoch_cost import Assumptions, all_reduce_seconds, epoch_cost
from tests.quiet_start import assert_quiet
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
# 100 samples/s; 80 MB of gradients; 10 GB/s inside a machine of 4 GPUs, 1 GB/s beyond; no latency; 50 samples/s a core.
GIVEN = Assumptions(
    samples=1010,
    batch=10,
    samples_per_s=100,
    gradient_bytes=80_000_000,
    link_gb_s=10,
    net_gb_s=1,
    gpus_per_machine=4,
    latency_us=0,
    hidden=0,
    load_samples_per_s=50,
)


def test_one_gpu_computes_all_the_time():
    cost = epoch_cost(GIVEN, 1)
    # ceil(1010 / 10) steps of 10 / 100 s; 100 samples/s are the work of 2 cores.
    assert (cost.steps, cost.step_s, cost.communication_s, cost.loading_cores) == (101, 0.1, 0, 2)
    assert cost.epoch_s == pytest.approx(10.1)


@pytest.mark.parametrize(
    'gpus, seconds',
    [
        (2, 2 * 1 / 2 * 0.008),  # 80 MB at 10 GB/s are 8 ms
        (4, 2 * 3 / 4 * 0.008),
        (8, 2 * 7 / 8 * 0.08),  # across machines: at 1 GB/s
    ],
)
def test_a_ring_sends_twice_all_but_one_nth_over_its_slowest_link(gpus, seconds):
    assert all_reduce_seconds(GIVEN, gpus) == pytest.approx(seconds)
    assert epoch_cost(GIVEN, gpus).step_s == pytest.approx(0.1 + seconds)
    assert epoch_cost(GIVEN, gpus).communication_share == pytest.approx(seconds / (0.1 + seconds))


def test_latency_is_paid_at_every_step_of_the_ring():
    late = replace(GIVEN, latency_us=1000)
    assert all_reduce_seconds(late, 4) == pytest.approx(2 * 3 / 4 * 0.008 + 2 * 3 * 0.001)


def test_hidden_communication_costs_nothing():
    assert epoch_cost(replace(GIVEN, hidden=1), 8).step_s == 0.1
    assert epoch_cost(replace(GIVEN, hidden=0.5), 4).communication_s == pytest.approx(0.006)


def test_steps_and_cores_follow_the_total_batch():
    cost = epoch_cost(replace(GIVEN, hidden=1), 8)
    # 80 samples in 0.1 s are the work of 16 cores; 1010 samples are 12 full steps and one that is filled up.
    assert (cost.total_batch, cost.steps, cost.loading_cores) == (80, 13, 16)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(link_gb_s=0), 'link_gb_s=0 must be positive'),
        (dict(hidden=1.5), 'hidden=1.5 is a share'),
        (dict(latency_us=-1), 'latency_us=-1 must not be negative'),
    ],
)
def test_impossible_assumptions_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(GIVEN, **change)
    with pytest.raises(ValueError, match='gpus=0'):
        epoch_cost(GIVEN, 0)


@pytest.mark.processes
def test_the_tool_exchanges_gradients_of_the_tunable_part_only():
    config = 'configs/etris/etris_r101_refcoco.py'
    result = run_script(ROOT / 'tools/analysis_tools/epoch_cost.py', config, '--flops', '1e12', '--json')
    assert result.returncode == 0, result.stderr
    assert_quiet(result.stdout + result.stderr)
    content = json.loads(result.stdout.splitlines()[-1])
    assert content['assumptions']['samples'] == 42404 and content['assumptions']['batch'] == 16
    assert content['assumptions']['samples_per_s'] == pytest.approx(989e12 * 0.35 / 1e12)
    # Table 2 of the paper: Bridger 1.94 M, decoder 23.98 M.
    assert content['assumptions']['gradient_bytes'] == pytest.approx(4 * 25.92e6, rel=1e-3)
    assert [cost['gpus'] for cost in content['costs']] == [1, 2, 8, 64]
    assert content['memory_bytes']['gradients'] == content['assumptions']['gradient_bytes']
    memory = f'{sum(content["memory_bytes"].values()) / 1e9:.1f}'
    assert re.search(rf'^\| `etris_r101_refcoco` .*\| {memory} \|$', (ROOT / 'README.md').read_text(), re.MULTILINE)


def test_the_readmes_hours_follow_from_its_operations():
    rows = re.findall(
        r'^\| `(\w+)`[^|]*\| (\d+), (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$',
        (ROOT / 'README.md').read_text(),
        re.M,
    )
    assert len(rows) >= 6
    for name, gpus, samples, epochs, flops, hours, _ in rows:
        cfg = Config.fromfile(next((ROOT / 'configs').glob(f'*/{name}.py')))
        assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (int(epochs), int(samples)), (name, gpus)
        # Gradients are exchanged too, which takes a few percent; the hours are rounded.
        computed = 42404 * int(epochs) * float(flops) * 1e9 / (0.35 * 312e12) / 3600
        assert computed - 0.05 <= float(hours) < computed * 1.05, name


def load_tool():
    spec = importlib.util.spec_from_file_location('epoch_cost_tool', ROOT / 'tools/analysis_tools/epoch_cost.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_memory_is_that_of_the_parts_and_grows_with_the_batch():
    tool = load_tool()
    cfg = Config.fromfile(ROOT / 'configs/etris/etris_tiny_shapes.py')
    cfg.model.dual_encoder.clip_checkpoint = None
    two, three, four = (tool.memory_of_a_gpu(cfg, batch) for batch in (2, 3, 4))
    model = tool.counted_step(cfg, 2).model
    tuned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert two['gradients'] == 4 * tuned and two['parameters'] > 4 * tuned
    # Adam keeps two numbers of each, and a step count for each tensor.
    assert 0 <= two['optimizer'] - 8 * tuned <= 4 * len(list(model.parameters()))
    kept = [memory['kept_for_backward'] for memory in (two, three, four)]
    assert kept[1] - kept[0] == pytest.approx(kept[2] - kept[1], rel=0.02) and kept[0] > 0


def test_what_the_backward_pass_needs_is_counted_once():
    layer = torch.nn.Linear(6, 4)
    images = torch.randn(5, 6, requires_grad=True)
    # The input of the layer (5 x 6), and the result of the exponential (5 x 4), twice; the weights are the model's own.
    kept = kept_for_backward(lambda: (layer(images).exp() ** 2).sum().backward(), layer)
    assert kept == 4 * (5 * 6 + 5 * 4)


def test_attention_keeps_no_weights_on_a_gpu():
    attend = torch.nn.functional.scaled_dot_product_attention
    kept = {}
    for device in ('cpu', 'meta'):
        query, key, value = (torch.randn(2, 8, 50, 16, device=device, requires_grad=True) for _ in range(3))
        step = functools.partial(lambda *inputs: attend(*inputs).sum().backward(), query, key, value)
        kept[device] = kept_for_backward(step, torch.nn.Identity())
    # Queries, keys, values and the result, and a number for each query: what the fused kernel of the CPU keeps, too.
    assert kept['meta'] == 4 * 2 * 8 * 50 * (4 * 16 + 1)
    assert kept['cpu'] == pytest.approx(kept['meta'], rel=0.01)


def test_operations_are_counted_on_a_mixture_of_data_sets_too():
    tool = load_tool()
    cfg = Config.fromfile(ROOT / 'configs/best/detris_tiny_shapes.py')
    cfg.model.dual_encoder.clip_checkpoint = None
    assert cfg.optim_wrapper.clip_grad  # It reads a number of the gradients, and here they have none.
    expected = tool.flops_of_a_sample(cfg)
    cfg.train_dataloader.dataset = dict(type='MixedRefDataset', datasets=[cfg.train_dataloader.dataset])
    assert tool.flops_of_a_sample(cfg) == expected > 1e8
