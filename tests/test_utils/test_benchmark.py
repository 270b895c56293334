"""The benchmark's counts are what can be worked out by hand; its times are never tested against a limit."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmetris.models.layers import enlarged_conv
from mmetris.utils import benchmark
from mmetris.utils.benchmark import (
    Measurement,
    Setting,
    _on_path,
    build_model,
    build_task,
    count_flops,
    draw_photos,
    matrix_product,
    measure,
    resident_growth,
    time_in_turns,
)
from mmetris.utils.compiling import compile_parts
from mmetris.utils.plain_path import plain_path
from tests import toy

OPTIM = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))


def config(kind='vit'):
    return Config(dict(model=toy.model_cfg(kind), optim_wrapper=OPTIM))


def setting(task, **kwargs):
    return Setting(task, hw=(64, 64), matmul_side=64, **kwargs)


def test_calls_take_turns_and_the_first_round_is_not_timed():
    order = []
    seconds = time_in_turns(
        dict(one=lambda: order.append(1), other=lambda: order.append(2)), repeats=3, device=torch.device('cpu'))
    assert order == [1, 2] * 4
    assert {name: len(values) for name, values in seconds.items()} == dict(one=3, other=3)


def test_rates_shares_and_spread_follow_from_the_seconds():
    row = Measurement('fast', (1.0, 2.0, 3.0, 4.0, 10.0), images=6, sentences=12, flops=30, matmul_rate=20.0)
    numbers = row.as_dict()
    assert (row.median, row.quartiles) == (3.0, (2.0, 4.0))
    assert (numbers['images_per_s'], numbers['sentences_per_s']) == (2, 4)
    assert numbers['flops_per_s'] == 10 and numbers['matmul_share'] == 0.5
    assert Measurement('fast', (2.0,), 1, 1).quartiles == (2.0, 2.0)
    assert Measurement('fast', (2.0,), 1, 1).matmul_share is None


def test_a_multiply_add_counts_as_two_flops():
    product, flops = matrix_product(torch.device('cpu'), torch.float32, 8)
    assert count_flops(product) == flops == 2 * 8**3
    assert count_flops(lambda: nn.Linear(3, 5)(torch.ones(7, 3))) == 2 * 7 * 3 * 5


def test_attention_on_a_cpu_counts():
    query, key = torch.ones(2, 3, 5, 4, requires_grad=True), torch.ones(2, 3, 7, 4)
    products = 2 * 2 * 3 * 5 * 7 * 4  # FLOPs of the scores, and of the mixing of values
    attend = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(query.detach(), key, key)) == 2 * products
    # Scores once more, and a product for the gradients of each of queries, keys, values and weights.
    assert count_flops(lambda: attend(query, key, key).sum().backward()) == 7 * products


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
    fast, plain = (count_flops(_on_path(path, task, options)) for path in ('fast', 'plain'))
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
        _on_path(path, task, options)()
        moved = {name for name, value in task.model.named_parameters() if not torch.equal(value, before[name])}
        assert moved and all(name.startswith(('neck.', 'decode_head.')) for name in moved)


def test_the_plain_training_step_does_more_flops():
    options = setting('train', batch=2)
    task = build_task(config(), options)
    fast, plain = (count_flops(_on_path(path, task, options)) for path in ('fast', 'plain'))
    assert plain > fast


@pytest.mark.parametrize('options', [
    dict(task='infer'),
    dict(task='multi', expressions=2, channels_last=True),
    dict(task='train', batch=2, dtype='bfloat16'),
])
def test_every_task_of_a_referring_model_is_measured(options):
    rows = measure(config(), setting(**options), ('fast', 'plain'), repeats=2, with_memory=False)
    assert [row.path for row in rows] == ['fast', 'plain']
    for row in rows:
        assert len(row.seconds) == 2 and row.flops > 0 and row.matmul_share > 0 and row.peak_bytes is None
        assert row.sentences == options.get('batch', 1) * options.get('expressions', 1)


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_reading_the_prefix_saves_exactly_the_flops_before_the_first_bridger(kind):
    cfg = config(kind)
    cfg.model.prefix_cache = dict(dir='not/used', max_gb=1)
    paths = ('fast', 'plain', 'cached')
    fast, plain, cached = measure(cfg, setting('train', batch=2), paths, repeats=1, with_memory=False)
    model = build_model(cfg, setting('infer'))
    images = torch.randn(2, 3, 64, 64)
    assert fast.flops - cached.flops == count_flops(lambda: model.encode_images(images)) > 0
    assert [row.path for row in (fast, plain, cached)] == ['fast', 'plain', 'cached']
    assert not Path('not/used').exists()


@pytest.mark.parametrize('task', ['multi', 'train'])
def test_encoding_each_image_anew_costs_exactly_the_flops_before_the_first_bridger(task):
    cfg, options = config(), setting(task, batch=2, expressions=3)
    fast, unshared = measure(cfg, options, ('fast', 'unshared'), repeats=1, with_memory=False)
    model = build_model(cfg, setting('infer'))
    one_image = count_flops(lambda: model.encode_images(torch.randn(1, 3, 64, 64)))
    assert unshared.flops - fast.flops == (2 * 3 - 2) * one_image > 0
    with pytest.raises(ValueError, match="'unshared' is for tasks"):
        measure(cfg, setting(task), ('unshared',), repeats=1)


def test_both_paths_may_compute_in_types_of_their_own():
    options = setting('infer', dtype='bfloat16', plain_dtype='float32')
    task = build_task(config(), options)
    logits = {path: _on_path(path, task, options)() for path in ('fast', 'plain')}
    assert {path: value.dtype for path, value in logits.items()} == dict(fast=torch.bfloat16, plain=torch.float32)


def test_only_the_compiled_path_calls_what_was_compiled(monkeypatch):
    calls = []

    def backend(graph, inputs):
        return lambda *args: calls.append(1) or graph(*args)

    torch._dynamo.reset()
    monkeypatch.setattr(benchmark, 'compile_parts', lambda model: compile_parts(model, backend=backend))
    rows = measure(config(), setting('infer'), ('fast', 'compiled', 'plain'), repeats=2, with_memory=False)
    assert [row.path for row in rows] == ['fast', 'compiled', 'plain']
    assert len(calls) == 2 * 3  # Bridger and decoder, after a round that warms up.
    assert rows[0].flops == rows[1].flops


def test_class_names_are_measured_and_other_models_refused():
    cfg = config()
    cfg.model.update(type='ClassNameSegmentor', vocabulary=dict(classes=['dog', 'tall man', 'sky']))
    cfg.model.text_encoder.type = 'ClassText'
    assert measure(cfg, setting('semseg'), repeats=1, with_memory=False)[0].flops > 0
    with pytest.raises(ValueError, match="'semseg' cannot be measured on a ReferringSegmentor"):
        measure(config(), setting('semseg'), repeats=1)
    with pytest.raises(ValueError, match="'infer' cannot be measured on a ClassNameSegmentor"):
        measure(cfg, setting('infer'), repeats=1)


def test_growth_of_memory_is_that_of_the_call():
    freed = torch.ones(4_000_000)  # What was freed before is not taken for room that costs nothing.
    del freed
    held = []
    grown = resident_growth(lambda: held.append(torch.ones(4_000_000)))  # called twice, 16 MB each
    assert 28e6 < grown < 60e6


def test_memory_is_measured_in_a_process_of_its_own():
    rows = measure(config(), setting('train', batch=4), ('fast',), repeats=1)
    assert rows[0].peak_bytes > 100_000


def test_samples_are_loaded_from_drawn_photographs(tmp_path):
    source = draw_photos(tmp_path, 2)
    sizes = [path.stat().st_size for path in (tmp_path / 'images').iterdir()]
    assert all(40_000 < size < 250_000 for size in sizes)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Letterbox', size=(64, 64)),
        dict(type='TokenizeExpression', context_length=17),
        dict(type='PackSegInputs'),
    ]
    cfg = config()
    cfg.train_dataloader = dict(dataset=dict(type='RefCocoDataset', pipeline=pipeline, **source))
    for own_data in (True, False):
        row = measure(cfg, Setting('data', batch=2, own_data=own_data), repeats=1)[0]
        assert row.images == 2 and row.median > 0 and row.flops is None
    cfg.train_dataloader.dataset.type = 'ADE20KDataset'
    with pytest.raises(ValueError, match='ADE20KDataset'):
        measure(cfg, Setting('data'), repeats=1)
