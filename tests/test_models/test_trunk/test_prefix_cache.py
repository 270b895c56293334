"""What is kept on disk gives the same results as what is computed, and is never that of another computation."""

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger

from mmetris.models.trunk.prefix_cache import ABANDONED_AFTER, PrefixCache
from tests.test_models.test_trunk.test_sharing import batch, count_stem_rows
from tests.toy import build, model_cfg, randn

KINDS = ('vit', 'resnet')


def cached_model(folder, kind='vit', max_gb=1.0, seed=0, **kwargs):
    """A model without dropout that keeps prefixes in a folder."""
    without_dropout = dict(dropout=0, **kwargs.pop('neck', {})), dict(global_alignment=dict(dropout=0))
    cfg = model_cfg(kind, *without_dropout, **kwargs)
    return build(cfg | dict(prefix_cache=dict(dir=str(folder), max_gb=max_gb)), seed)


def files(folder):
    return sorted(path for path in Path(folder).rglob('*') if path.is_file() and path.name != 'about.json')


def step(model, images, samples):
    """Losses, and gradients of what is tuned."""
    model.zero_grad()
    losses = model.loss(images, samples)
    model.parse_losses(losses)[0].backward()
    return losses, {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


def without_cache(model, call):
    cache, model.prefix_cache = model.prefix_cache, None
    result = call()
    model.prefix_cache = cache
    return result


@pytest.fixture
def warnings():
    """Messages of MMEngine's logger from here on."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize('neck', [dict(), dict(stages=(3, 4)), dict(stages=())], ids=['all', 'last two', 'no bridger'])
@pytest.mark.parametrize('kind', KINDS)
def test_losses_gradients_and_masks_are_those_without_a_cache(kind, neck, tmp_path, monkeypatch):
    model = cached_model(tmp_path, kind, neck=neck).train()
    images, samples = batch()
    expected = without_cache(model, lambda: step(model, images, samples))
    for epoch in range(3):
        rows = count_stem_rows(model, monkeypatch)
        torch.testing.assert_close(step(model.train(), images, samples), expected, rtol=1e-4, atol=1e-5)
        assert rows == ([4] if epoch == 0 else [])
        with torch.no_grad():
            masks = model.eval().encode_decode(images, samples)
            assert rows == ([4] if epoch == 0 else [])
            expected_masks = without_cache(model, lambda: model.encode_decode(images, samples))
            torch.testing.assert_close(masks, expected_masks, rtol=1e-4, atol=1e-4)
        monkeypatch.undo()
    assert len(files(tmp_path)) == 2  # one for each distinct image


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_there_and_what_is_not_keep_their_places_in_a_batch(kind, tmp_path, monkeypatch):
    model = cached_model(tmp_path, kind).eval()
    images = randn(5, 3, 64, 96)
    _, samples = batch()
    tokens = model.tokens_of([samples[0]] * 5, images.device)
    with torch.no_grad():
        expected = without_cache(model, lambda: model.forward_logits(images, tokens))
        model.forward_logits(images[[1, 3]], tokens[:2])
        rows = count_stem_rows(model, monkeypatch)
        torch.testing.assert_close(model.forward_logits(images, tokens), expected, rtol=1e-4, atol=1e-4)
    assert rows == [3] and (model.prefix_cache.hits, model.prefix_cache.misses) == (2, 5)


@pytest.mark.parametrize('change', ['pixels', 'weights', 'stage', 'autocast', 'test_cfg', 'double', 'size'])
def test_another_computation_reads_nothing_of_this_one(change, tmp_path):
    model, images = cached_model(tmp_path).eval(), randn(1, 3, 64, 64)
    tokens = model.tokens_of(batch()[1][:1], images.device)
    with torch.no_grad():
        model.forward_logits(images, tokens)
        assert model.prefix_cache.hits == 0
        model.forward_logits(images, tokens)
        assert model.prefix_cache.hits == 1
        if change == 'pixels':
            images[0, 0, 0, 0] += 1e-6
        elif change == 'weights':
            model.backbone.tower.transformer.resblocks[0].mlp.c_fc.weight[0, 0] += 1e-6
        elif change == 'stage':
            cache, model = model.prefix_cache, cached_model(tmp_path, neck=dict(stages=(3, 4))).eval()
            model.prefix_cache = cache
        elif change == 'double':
            model, images = model.double(), images.double()
        elif change == 'size':
            images = images.reshape(1, 3, 32, 128)
        if change == 'test_cfg':
            model.test_cfg['dtype'] = 'bfloat16'
        with torch.autocast('cpu', torch.bfloat16, enabled=change == 'autocast'):
            logits = model.forward_logits(images, tokens)
            hits, model.prefix_cache = model.prefix_cache.hits, None
            torch.testing.assert_close(logits, model.forward_logits(images, tokens))
    assert hits == 1


def test_a_folder_serves_later_runs_and_says_what_it_holds(tmp_path):
    images, samples = batch()
    for _ in range(2):
        model = cached_model(tmp_path).eval()
        with torch.no_grad():
            model.encode_decode(images, samples)
    assert (model.prefix_cache.hits, model.prefix_cache.misses) == (2, 0)
    (about,) = tmp_path.rglob('about.json')
    assert '"encoder": "CLIPViT"' in about.read_text()


def test_photos_of_ones_own_are_not_kept(tmp_path):
    model = cached_model(tmp_path / 'cache').eval()
    model.encode_images(randn(1, 3, 64, 64))
    assert not (tmp_path / 'cache').exists()


def test_a_full_folder_stays_in_use(tmp_path, warnings):
    images, samples = batch()
    samples = [samples[0], samples[2]]
    images = images[[0, 2]]
    with torch.no_grad():
        model = cached_model(tmp_path).eval()
        model.encode_decode(images[:1], samples[:1])
        one = sum(path.stat().st_size for path in tmp_path.rglob('*') if path.is_file())
        model = cached_model(tmp_path, max_gb=1.5 * one / 1e9).eval()
        expected = without_cache(model, lambda: model.encode_decode(images, samples))
        for _ in range(2):
            torch.testing.assert_close(model.encode_decode(images, samples), expected, rtol=1e-4, atol=1e-4)
    assert len(files(tmp_path)) == 1 and (model.prefix_cache.hits, model.prefix_cache.misses) == (2, 2)
    assert len(warnings) == 1 and 'is full' in warnings[0] and 'max_gb' in warnings[0]


def test_a_damaged_file_is_named_and_replaced(tmp_path, warnings):
    model, (images, samples) = cached_model(tmp_path).eval(), batch()
    with torch.no_grad():
        expected = model.encode_decode(images, samples)
        damaged = files(tmp_path)[0]
        damaged.write_bytes(damaged.read_bytes()[:100])
        for _ in range(2):
            torch.testing.assert_close(model.encode_decode(images, samples), expected, rtol=1e-4, atol=1e-4)
    assert len(warnings) == 1 and str(damaged) in warnings[0]
    assert (model.prefix_cache.hits, model.prefix_cache.misses) == (3, 3)


def test_a_folder_that_cannot_be_written_ends_the_writing_not_the_training(tmp_path, warnings, monkeypatch):
    model, (images, samples) = cached_model(tmp_path).train(), batch()

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmetris.models.trunk.prefix_cache.save_file', full)
    for _ in range(2):
        step(model, images, samples)
    assert files(tmp_path) == []
    assert len(warnings) == 1 and 'No space left' in warnings[0] and str(tmp_path) in warnings[0]


def test_what_a_killed_process_left_is_removed(tmp_path):
    old, new = tmp_path / 'a.unfinished', tmp_path / 'b.unfinished'
    for path in (old, new):
        path.write_text('half')
    os.utime(old, (time.time() - ABANDONED_AFTER - 60,) * 2)
    model, (images, samples) = cached_model(tmp_path).eval(), batch()
    with torch.no_grad():
        model.encode_decode(images, samples)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize(
    'kind, change, message',
    [
        ('vit', dict(frozen=False), 'backbone.tower.conv1.weight is tuned: there is nothing before it'),
        ('vit', dict(tunable_parameters=['positional_embedding']), 'backbone.tower.positional_embedding is tuned'),
        ('resnet', dict(norm_eval=False), 'statistics of backbone.tower.bn1 move'),
    ],
)
def test_what_changes_from_epoch_to_epoch_is_refused(kind, change, message, tmp_path):
    model = cached_model(tmp_path, kind, backbone=change).train()
    with pytest.raises(ValueError, match=message):
        model.loss(*batch())
    assert files(tmp_path) == []


def test_weights_that_are_spread_over_processes_are_refused(tmp_path):
    model = cached_model(tmp_path).train()
    model.backbone.remember()
    with pytest.raises(ValueError, match='does not go with FSDP'):
        model.loss(*batch())


@pytest.mark.parametrize('max_gb', [0, -1])
def test_a_size_must_be_positive(max_gb, tmp_path):
    with pytest.raises(ValueError, match='max_gb must be positive'):
        PrefixCache(str(tmp_path), max_gb)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='must be a folder'):
        PrefixCache(str(tmp_path / 'file'), 1)


def test_class_names_have_no_use_for_it(tmp_path):
    cfg = model_cfg() | dict(
        type='ClassNameSegmentor', vocabulary=dict(classes=['dog']), prefix_cache=dict(dir=str(tmp_path), max_gb=1)
    )
    cfg['text_encoder']['type'] = 'ClassText'
    with pytest.raises(ValueError, match='prefix_cache is for a ReferringSegmentor'):
        build(cfg)


def fill(folder, barrier, results):
    torch.set_num_threads(1)
    model, (images, samples) = cached_model(folder).eval(), batch()
    barrier.wait()
    with torch.no_grad():
        for _ in range(5):
            for path in files(folder):
                path.unlink(missing_ok=True)  # So that both write, and read what is being written.
            results.put(model.encode_decode(images, samples).numpy())


@pytest.mark.processes
def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context('spawn')
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=fill, args=(tmp_path, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    masks = [torch.from_numpy(results.get(timeout=600)) for _ in range(10)]
    for worker in workers:
        worker.join(timeout=600)
        assert worker.exitcode == 0
    for mask in masks[1:]:
        torch.testing.assert_close(mask, masks[0], rtol=1e-4, atol=1e-4)
    assert not [path for path in files(tmp_path) if path.suffix != '.safetensors']
