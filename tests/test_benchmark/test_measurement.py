"""Every path of every task is measured; what is shared, cached or compiled shows in the numbers."""

from pathlib import Path

import pytest
import torch

from mmetris.benchmark import Measurement, measure, measurement
from mmetris.benchmark.counters import count_flops
from mmetris.benchmark.tasks import build_model
from mmetris.engine.compiling import compile_parts
from tests.test_benchmark.test_tasks import config, setting


def test_rates_shares_and_spread_follow_from_the_seconds():
    row = Measurement('fast', (1.0, 2.0, 3.0, 4.0, 10.0), images=6, sentences=12, flops=30, matmul_rate=20.0)
    numbers = row.as_dict()
    assert (row.median, row.quartiles) == (3.0, (2.0, 4.0))
    assert (numbers['images_per_s'], numbers['sentences_per_s']) == (2, 4)
    assert numbers['flops_per_s'] == 10 and numbers['matmul_share'] == 0.5
    assert Measurement('fast', (2.0,), 1, 1).quartiles == (2.0, 2.0)
    assert Measurement('fast', (2.0,), 1, 1).matmul_share is None


@pytest.mark.parametrize(
    'options',
    [
        dict(task='infer'),
        dict(task='multi', expressions=2, channels_last=True),
        dict(task='train', batch=2, dtype='bfloat16'),
    ],
)
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


def test_only_the_compiled_path_calls_what_was_compiled(monkeypatch):
    calls = []

    def backend(graph, inputs):
        return lambda *args: calls.append(1) or graph(*args)

    torch._dynamo.reset()
    monkeypatch.setattr(measurement, 'compile_parts', lambda model: compile_parts(model, backend=backend))
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


def test_memory_is_measured_in_a_process_of_its_own():
    rows = measure(config(), setting('train', batch=4), ('fast',), repeats=1)
    assert rows[0].peak_bytes > 100_000
