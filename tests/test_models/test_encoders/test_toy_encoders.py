"""Encoders that are no CLIP do all that CLIP's do: train, share, be cached, be saved slim, answer, be exported."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from open_clip import OPENAI_DATASET_MEAN

from mmetris.apis import RefSegInferencer, TaskSwitcher, init_model
from mmetris.deployment.export import export_model
from mmetris.models.encoders.slim_checkpoint import is_slim
from tests.toy import VIT, build, model_cfg, randn
from tests.toy_encoders import save_toy_weights, toy_encoders_cfg, toy_tokenize
from tests.toy_refer import write_toy_refer


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A data set, weights of the encoders, and a config that trains on them with a prefix cache."""
    folder = tmp_path_factory.mktemp('toy')
    write_toy_refer(folder / 'data')
    files = save_toy_weights(folder)
    load, truth, fit = (
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='Letterbox', size=(64, 64)),
    )
    # CLIP's tokens, which these encoders do not read.
    pack = [dict(type='TokenizeExpression', context_length=17), dict(type='PackSegInputs')]
    data = dict(type='RefCocoDataset', data_root=str(folder / 'data'))
    scored = dict(data, split='val', test_mode=True, text_mode='original', pipeline=[load, fit, truth, *pack])
    loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    Config(
        dict(
            default_scope='mmetris',
            custom_imports=dict(imports=['mmetris.registry', 'tests.toy_encoders']),
            model=toy_encoders_cfg(files, prefix_cache=dict(dir=str(folder / 'cache'), max_gb=1)),
            train_dataloader=dict(loader, dataset=dict(data, split='train', pipeline=[load, truth, fit, *pack])),
            val_dataloader=dict(loader, dataset=scored),
            test_dataloader=dict(loader, dataset=scored),
            val_evaluator=dict(type='RefSegMetric', metric=['oIoU', 'mIoU']),
            test_evaluator=dict(type='RefSegMetric', metric=['oIoU', 'mIoU']),
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-2)),
            train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=3),
            val_cfg=dict(),
            test_cfg=dict(),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3)),
            custom_hooks=[dict(type='TunableReportHook'), dict(type='EpochSeedHook'), dict(type='SlimCheckpointHook')],
            randomness=dict(seed=0),
            work_dir=str(folder / 'work'),
        )
    ).dump(folder / 'config.py')
    return folder


@pytest.fixture(scope='module')
def trained(folder):
    runner = Runner.from_cfg(Config.fromfile(folder / 'config.py'))
    runner.train()
    return runner.model


def test_training_moves_the_bridger_and_leaves_the_encoders(folder, trained):
    assert trained.prefix_cache.hits > 0, 'images repeat from the second epoch on'
    weights = torch.load(folder / 'image.pth', weights_only=True)
    assert all(torch.equal(value, weights[key]) for key, value in trained.backbone.tower.state_dict().items())
    fresh = build(dict(Config.fromfile(folder / 'config.py').model, prefix_cache=None))
    assert not torch.equal(fresh.neck.bridges['1'].words_in.weight, trained.neck.bridges['1'].words_in.weight)


def test_its_checkpoint_is_slim_and_comes_back(folder, trained):
    saved = torch.load(folder / 'work/epoch_3.pth', weights_only=False)['state_dict']
    assert is_slim(saved) and not any('.tower.' in key for key in saved)
    model = init_model(folder / 'config.py', folder / 'work/epoch_3.pth', 'cpu')
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())
    assert model.backbone.fingerprint().name.startswith('toy image encoder of width 8 from image.pth')
    switcher = TaskSwitcher(model)
    switcher.add('trained', saved)
    with switcher.use('trained') as switched:
        assert switched is model


def test_sentences_share_an_image_and_the_cache_gives_what_is_computed(folder, trained):
    model = copy.deepcopy(trained).eval()
    images, tokens = randn(2, 3, 64, 64), toy_tokenize(['left dog', 'a red cat', 'it'])
    index = torch.tensor([1, 0, 1])
    with torch.no_grad():
        expected = model.forward_logits(images[index], tokens)
        model.prefix_cache = None
        torch.testing.assert_close(model.forward_logits(images, tokens, index), expected, rtol=1e-5, atol=1e-5)
        prefix = model.encode_images(images)
        assert prefix.state['image_hw'] == (64, 64)
        torch.testing.assert_close(model.forward_logits(prefix, tokens, index), expected, rtol=1e-5, atol=1e-5)


def test_another_process_finds_the_cache_and_reads_it(folder, trained):
    model = init_model(folder / 'config.py', folder / 'work/epoch_3.pth', 'cpu')
    data = Runner.build_dataloader(Config.fromfile(folder / 'config.py').train_dataloader)
    with torch.no_grad():
        for batch in data:
            batch = model.data_preprocessor(batch, True)
            found = model.image_prefix(batch['inputs'])
            computed = model.image_prefix(batch['inputs'], keep=False)
            torch.testing.assert_close(found.state['map'], computed.state['map'])
            assert found.state['image_hw'] == computed.state['image_hw'] and found.stage == computed.stage
    assert model.prefix_cache.misses == 0 < model.prefix_cache.hits


def test_the_runner_scores_it(folder, trained):
    cfg = Config.fromfile(folder / 'config.py')
    cfg.load_from = str(folder / 'work/epoch_3.pth')
    cfg.work_dir = str(folder / 'test')
    scores = Runner.from_cfg(cfg).test()
    assert 0 <= scores['mIoU'] <= 100


def test_a_photograph_is_asked_about(folder, trained):
    inferencer = RefSegInferencer(str(folder / 'config.py'), str(folder / 'work/epoch_3.pth'), device='cpu')
    picture = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    result = inferencer(picture, ['the left dog', 'a cat on the right'])
    assert [mask.shape for mask in result['masks']] == [(40, 56)] * 2
    assert not np.array_equal(*result['probabilities'])


def test_it_is_exported_and_the_files_compute_the_same(folder, trained, tmp_path):
    description = export_model(
        str(folder / 'config.py'),
        tmp_path / 'out',
        weights=str(folder / 'work/epoch_3.pth'),
        formats=['onnx'],
        parts=['split'],
    )
    assert description['text'] == dict(context_length=12, vocabulary=None)
    assert {file['part'] for file in description['files'].values()} == {'image', 'text'}


def test_hooks_on_the_encoder_turn_the_cache_off(folder, trained):
    model = init_model(folder / 'config.py', folder / 'work/epoch_3.pth', 'cpu')
    images = randn(1, 3, 64, 64, seed=9)
    with torch.no_grad():
        model.backbone.tower['patches'].register_forward_hook(lambda module, args, output: output * 0)
        before = model.image_prefix(images).state['map']
        model.backbone.tower['patches']._forward_hooks.clear()
        assert not torch.equal(model.image_prefix(images).state['map'], before)
    assert model.prefix_cache.hits == 0


def test_sides_may_come_from_different_families(folder):
    """One description of a CLIP goes to the side that is one, the other keeps its own."""
    files = dict(image=str(folder / 'image.pth'), text=str(folder / 'text.pth'))
    cfg = toy_encoders_cfg(files, dual_encoder=dict(arch=VIT, quick_gelu=False))
    cfg['text_encoder'] = dict(type='CLIPTextEncoder', num_stages=3)
    model = build(cfg).eval()
    assert model.text_encoder.arch.embed_dim == VIT['embed_dim'] and not model.text_encoder.arch.quick_gelu
    logits = model.forward_logits(randn(1, 3, 64, 64), model.tokenize(['the left dog']))
    assert logits.shape == (1, 1, 16, 16) and model.reads_clip_tokens
    with pytest.raises(ValueError, match='no encoder in stages|vision_cfg'):
        build(dict(cfg, dual_encoder=dict(arch=dict(embed_dim=8, text_cfg={}))))


def test_a_model_normalises_as_its_image_encoder_was_trained():
    own = build(model_cfg('vit')).data_preprocessor
    assert torch.allclose(own.mean.flatten(), 255 * torch.tensor(OPENAI_DATASET_MEAN))
    cfg = model_cfg('vit')
    cfg['data_preprocessor'] |= dict(mean=(1.0, 2.0, 3.0))
    assert build(cfg).data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    encoder = build(model_cfg('vit')['backbone'])
    encoder.arch = dataclasses.replace(encoder.arch, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert encoder.normalisation == dict(mean=(127.5,) * 3, std=(63.75,) * 3)
