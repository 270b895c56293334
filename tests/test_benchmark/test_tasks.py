"""What the tasks compute on each path, counted in FLOPs that can be worked out by hand."""

import pytest
import torch
from mmengine.config import Config

from mmetris.benchmark.counters import count_flops
from mmetris.benchmark.plain_path import plain_path
from mmetris.benchmark.tasks import Setting, build_task, on_path
from mmetris.models.layers import enlarged_conv
from tests import toy

OPTIM = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))


def config(kind='vit'):
    return Config(dict(model=toy.model_cfg(kind), optim_wrapper=OPTIM))


def setting(task, **kwargs):
    return Setting(task, hw=(64, 64), matmul_side=64, **kwargs)


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_device_meta_counts_what_gpus_compute(kind, monkeypatch):
    """There convolutions are not reordered, as they are on CPUs."""
    counts = [count_flops(build_task(config(kind), setting('infer', device=device)).call) for device in ('meta', 'cpu')]
    monkeypatch.setattr(enlarged_conv, 'REORDERED', ())
    assert counts[1] < counts[0] == count_flops(build_task(config(kind), setting('infer')).call)
    cfg = config(kind)
    cfg.optim_wrapper = dict(OPTIM, optimizer=dict(OPTIM['optimizer'], fused=True))
    assert count_flops(build_task(cfg, setting('train', device='meta')).call) > counts[0]
    assert cfg.optim_wrapper.optimizer.fused


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_sharing_an_image_saves_exactly_the_flops_before_the_first_bridger(kind):
    options = setting('multi', expressions=3)
    task = build_task(config(kind), options)
    fast, plain = (count_flops(on_path(path, task, options)) for path in ('fast', 'plain'))
    with torch.no_grad():
        prefix = count_flops(lambda: task.model.encode_images(torch.randn(1, 3, 64, 64)))
        text = toy.randn(3, 1, task.model.text_encoder.output_dims)
        gates = task.model.decode_head.hierarchical_alignment.gates
        pixels = toy.randn(3, 16, *((8, 8) if kind == 'vit' else (4, 4)))
        projected = task.model.decode_head.text_projection(text[:, 0])
        single_key = count_flops(lambda: gates[0](pixels, projected))
        projector = task.model.decode_head.projector
        reordered = count_flops(lambda: projector(pixels, text[:, 0]))
        with plain_path(projector):
            literal = count_flops(lambda: projector(pixels, text[:, 0]))
    channels, count = 16, pixels[0, 0].numel()
    # Queries, keys, scores, mixing, and the projection of a result that is the same for every pixel.
    all_keys = 2 * 3 * channels * (channels * (2 * count + 2) + 2 * count)
    assert single_key == 2 * 3 * 2 * channels**2
    assert plain - fast == 2 * prefix + len(gates) * (all_keys - single_key) + literal - reordered


def test_a_training_step_moves_the_tunable_part_on_both_paths():
    options = setting('train', batch=2, expressions=2)
    task = build_task(config(), options)
    for path in ('fast', 'plain'):
        before = {name: value.clone() for name, value in task.model.named_parameters()}
        on_path(path, task, options)()
        moved = {name for name, value in task.model.named_parameters() if not torch.equal(value, before[name])}
        assert moved and all(name.startswith(('neck.', 'decode_head.')) for name in moved)


def test_the_plain_training_step_does_more_flops():
    options = setting('train', batch=2)
    task = build_task(config(), options)
    fast, plain = (count_flops(on_path(path, task, options)) for path in ('fast', 'plain'))
    assert plain > fast


def test_both_paths_may_compute_in_types_of_their_own():
    options = setting('infer', dtype='bfloat16', plain_dtype='float32')
    task = build_task(config(), options)
    logits = {path: on_path(path, task, options)() for path in ('fast', 'plain')}
    assert {path: value.dtype for path, value in logits.items()} == dict(fast=torch.bfloat16, plain=torch.float32)
