"""Slim checkpoints in a real runner: saved, resumed, loaded, averaged; and the two tools that convert them."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from safetensors import safe_open

from mmetris.apis import init_model
from mmetris.models.encoders.slim_checkpoint import is_slim
from tests.quiet_start import assert_quiet
from tests.test_models.test_encoders.test_slim_checkpoint import save_clip
from tests.toy import model_cfg
from tests.toy_refer import write_toy_refer
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
SIZE = (64, 64)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A toy REFER tree, a CLIP file, and a config on them."""
    folder = tmp_path_factory.mktemp('slim')
    write_toy_refer(folder / 'data')
    clip = save_clip(folder / 'clip.pth')
    model = model_cfg('vit', backbone=dict(clip_checkpoint=clip))
    model['text_encoder']['clip_checkpoint'] = clip
    data = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(
            type='RefCocoDataset',
            data_root=str(folder / 'data'),
            split='train',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='Letterbox', size=SIZE),
                dict(type='TokenizeExpression', context_length=17),
                dict(type='PackSegInputs'),
            ],
        ),
    )
    Config(
        dict(
            default_scope='mmetris',
            custom_imports=dict(imports=['mmetris.registry']),
            model=model,
            train_dataloader=data,
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-3)),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            custom_hooks=[dict(type='EpochSeedHook'), dict(type='SlimCheckpointHook')],
            randomness=dict(seed=0),
            work_dir=str(folder / 'work'),
        )
    ).dump(folder / 'config.py')
    return folder


def train(folder, name, **changes):
    cfg = Config.fromfile(folder / 'config.py')
    cfg.merge_from_dict(dict(work_dir=str(folder / name), experiment_name=name) | changes)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.model


@pytest.fixture(scope='module')
def trained(folder):
    return train(folder, 'whole')


def assert_equal(model, other):
    for (name, value), expected in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_a_run_saves_slim_checkpoints_with_its_optimizer(folder, trained):
    saved = torch.load(folder / 'whole/epoch_2.pth', weights_only=False)
    assert is_slim(saved['state_dict']) and saved['optimizer']['state']
    assert not any('.tower.' in key for key in saved['state_dict'])
    assert set(saved['state_dict']) >= {key for key in trained.state_dict() if '.tower.' not in key}


def test_resuming_from_a_slim_checkpoint_equals_an_uninterrupted_run(folder, trained):
    resumed = train(folder, 'resumed', resume=True, load_from=str(folder / 'whole/epoch_1.pth'))
    assert_equal(resumed, trained)


def test_init_model_completes_a_slim_checkpoint(folder, trained):
    assert_equal(init_model(folder / 'config.py', folder / 'whole/epoch_2.pth', 'cpu'), trained)


def test_moving_averages_are_saved_slim_and_resumed(folder):
    hooks = [dict(type='EpochSeedHook'), dict(type='SlimCheckpointHook'), dict(type='EMAHook', momentum=0.3)]
    train(folder, 'ema', custom_hooks=hooks)
    saved = torch.load(folder / 'ema/epoch_2.pth', weights_only=False)
    assert is_slim(saved['ema_state_dict']) and is_slim(saved['state_dict'])
    train(folder, 'ema_resumed', custom_hooks=hooks, resume=True, load_from=str(folder / 'ema/epoch_1.pth'))
    resumed = torch.load(folder / 'ema_resumed/epoch_2.pth', weights_only=False)
    for part in ('state_dict', 'ema_state_dict'):
        assert saved[part].keys() == resumed[part].keys()
        assert all(torch.equal(value, resumed[part][key]) for key, value in saved[part].items())


def convert(tool, *arguments, code=0):
    done = run_script(ROOT / 'tools/misc' / tool, *arguments)
    assert done.returncode == code, done.stderr
    assert_quiet(done.stdout + done.stderr)
    return done.stdout + done.stderr


def test_the_tools_convert_both_ways(folder, trained, tmp_path):
    config, slim = folder / 'config.py', folder / 'whole/epoch_2.pth'
    assert 'full.pth' in convert('merge_checkpoint.py', config, slim, tmp_path / 'full.pth')
    full = torch.load(tmp_path / 'full.pth', weights_only=False)
    assert all(torch.equal(value, full['state_dict'][key]) for key, value in trained.state_dict().items())
    convert('slim_checkpoint.py', config, tmp_path / 'full.pth', tmp_path / 'again.pth')
    again, before = (torch.load(path, weights_only=False)['state_dict'] for path in (tmp_path / 'again.pth', slim))
    assert again.keys() == before.keys() and all(torch.equal(value, before[key]) for key, value in again.items())
    torch.save(full['state_dict'], tmp_path / 'bare.pth')
    convert('slim_checkpoint.py', config, tmp_path / 'bare.pth', tmp_path / 'from_bare.pth')
    from_bare = torch.load(tmp_path / 'from_bare.pth', weights_only=False)
    assert from_bare.keys() == {'state_dict'} and from_bare['state_dict'].keys() == before.keys()
    for source in (tmp_path / 'full.pth', slim):  # The second is as the training saved it.
        shared = tmp_path / f'{source.stem}.safetensors'
        convert('slim_checkpoint.py', config, source, shared)
        with safe_open(shared, 'pt') as file:
            assert set(file.keys()) == set(before)
        assert_equal(init_model(config, shared, 'cpu'), trained)


def test_the_tools_refuse_what_is_done_already_and_other_clips(folder, trained, tmp_path):
    config, slim = folder / 'config.py', folder / 'whole/epoch_2.pth'
    assert 'is slim already' in convert('slim_checkpoint.py', config, slim, tmp_path / 'x.pth', code=1)
    other = save_clip(tmp_path / 'other.pth', seed=5)
    options = [f'model.{part}.clip_checkpoint={other}' for part in ('backbone', 'text_encoder')]
    message = convert('merge_checkpoint.py', config, slim, tmp_path / 'x.pth', '--cfg-options', *options, code=1)
    assert 'clip.pth' in message and 'other.pth' in message
    assert not (tmp_path / 'x.pth').exists()


def test_a_model_frozen_at_random_weights_is_saved_whole(folder):
    without = {f'model.{part}.clip_checkpoint': None for part in ('backbone', 'text_encoder')}
    model = train(folder, 'random', **without)
    saved = torch.load(folder / 'random/epoch_2.pth', weights_only=False)['state_dict']
    assert saved.keys() == model.state_dict().keys()
    assert 'backbone and text_encoder frozen at random weights' in next((folder / 'random').glob('*/*.log')).read_text()
