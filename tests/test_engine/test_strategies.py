"""FSDP: two real processes end where DDP ends, from checkpoints that either reads."""

from __future__ import annotations

import argparse
import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.engine.strategies import is_one_of
from mmetris.models.encoders.frozen_encoder import FINGERPRINT_KEY
from mmetris.registry import OPTIM_WRAPPERS, STRATEGIES
from mmetris.utils.command_line import prepare_strategy
from mmetris.utils.param_count import count_parameters, remember_whole_sizes
from tests import toy
from tests.test_models.test_encoders.test_slim_checkpoint import save_clip
from tests.test_tools.test_tools import TOOLS, run, scores_of

ROOT = Path(__file__).parents[2]
# Two optimizer steps in an epoch of two processes with 3 samples each.
SPEC = ShapesSpec(num_train=3, num_val=1, num_test_a=1, num_test_b=1)

CONFIG = f"""
_base_ = {str(ROOT / 'configs' / 'etris' / 'etris_tiny_shapes.py')!r}

model = dict(_delete_=True, **MODEL)
loading = dict(batch_size=3, num_workers=0, persistent_workers=False, dataset=dict(data_root=DATA_ROOT))
train_dataloader = val_dataloader = test_dataloader = loading
train_cfg = dict(max_epochs=2, val_interval=1)
# A norm that every step exceeds, and groups of parameters as the published ViT has them. A bias before BatchNorm has a
# gradient of zero, of which rounding leaves something that Adam would make whole steps of: its eps is above that.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, eps=1e-6), clip_grad=dict(max_norm=0.05),
    paramwise_cfg=dict(custom_keys=dict(neck=dict(lr_mult=10))))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1), logger=dict(interval=1))
"""
SHARDED = """
_base_ = 'toy_ddp.py'
runner_type = 'mmetris.RefSegFlexibleRunner'
strategy = dict(type='mmetris.RefSegFSDPStrategy')
"""
# tools/train.py several times in one process: starting processes is what costs time here.
SEVERAL = """
import runpy, sys
from torch import distributed
from mmetris.utils.command_line import end_processes
script, *commands = sys.argv[1:-2]
join, leave = distributed.init_process_group, distributed.destroy_process_group
# One group for all: the store keeps the addresses of a group that was left, and the next would wait on those.
distributed.init_process_group = lambda *args: distributed.is_initialized() or join(*args)
distributed.destroy_process_group = lambda: None
for command in ' '.join(commands).split(' , '):
    sys.argv = [script, *command.split(), *sys.argv[-2:]]
    runpy.run_path(script, run_name='__main__')
distributed.destroy_process_group = leave
end_processes()
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Configs of a toy model with a CLIP file, for DDP and for FSDP."""
    folder = tmp_path_factory.mktemp('sharded')
    write_shapes(folder / 'shapes', SPEC)
    clip = str(save_clip(folder / 'clip.pth'))
    model = toy.model_cfg('vit', backbone=dict(clip_checkpoint=clip))
    model['text_encoder']['clip_checkpoint'] = clip
    text = CONFIG.replace('DATA_ROOT', repr(f'{folder / "shapes"}/')).replace('MODEL', repr(model))
    (folder / 'toy_ddp.py').write_text(text)
    (folder / 'toy_fsdp.py').write_text(SHARDED)
    (folder / 'several.py').write_text(SEVERAL)
    return folder


@pytest.fixture(scope='module')
def sharded(folder) -> str:
    """Output of two epochs with FSDP; the work folder is ``fsdp``."""
    return run('bash', TOOLS / 'dist_train.sh', folder / 'toy_fsdp.py', 2, '--work-dir', folder / 'fsdp')


@pytest.fixture(scope='module')
def others(folder, sharded) -> str:
    """Output of two epochs with DDP, second ones with FSDP after both first ones and with DDP after that with FSDP; and
    of two epochs with either in bfloat16, a step for every second batch."""
    ddp, fsdp = (f'{folder / kind}.py --work-dir {folder}' for kind in ('toy_ddp', 'toy_fsdp'))
    after_ddp, after_fsdp = (f'--resume {folder / kind / "epoch_1.pth"}' for kind in ('ddp', 'fsdp'))
    lowered = '--amp-dtype bfloat16 --cfg-options optim_wrapper.accumulative_counts=2'
    return run(
        'bash',
        '-c',
        'tools=$0/tools; source "$tools/launch.sh"; launch 2 "$@"',
        ROOT,
        folder / 'several.py',
        TOOLS / 'train.py',
        f'{ddp}/ddp',
        ',',
        f'{fsdp}/fsdp_after_fsdp {after_fsdp}',
        ',',
        f'{fsdp}/fsdp_after_ddp {after_ddp}',
        ',',
        f'{ddp}/ddp_after_fsdp {after_fsdp}',
        ',',
        f'{ddp}/ddp_bfloat16 {lowered}',
        ',',
        f'{fsdp}/fsdp_bfloat16 {lowered}',
    )


def weights(folder: Path, run_name: str, epoch: int = 2) -> dict[str, torch.Tensor]:
    return torch.load(folder / run_name / f'epoch_{epoch}.pth', weights_only=False)['state_dict']


@pytest.mark.processes
@pytest.mark.parametrize('epoch', [1, 2])
def test_sharded_training_ends_where_ddp_ends(folder, others, epoch):
    """With clipped gradients, several learning rates, BatchNorm and a validation between the steps."""
    plain, sharded = weights(folder, 'ddp', epoch), weights(folder, 'fsdp', epoch)
    assert plain.keys() == sharded.keys()
    assert max((plain[key].float() - sharded[key].float()).abs().max() for key in plain) < 1e-6


@pytest.mark.processes
@pytest.mark.parametrize('name', ['fsdp_after_fsdp', 'fsdp_after_ddp', 'ddp_after_fsdp'])
def test_a_resumed_run_equals_an_uninterrupted_one(folder, others, name):
    whole, resumed = weights(folder, 'ddp'), weights(folder, name)
    assert max((whole[key].float() - resumed[key].float()).abs().max() for key in whole) < 1e-6


@pytest.mark.processes
@pytest.mark.parametrize('epoch', [1, 2])
def test_sharded_training_in_bfloat16_ends_where_that_with_ddp_ends(folder, others, epoch):
    """With accumulated gradients too; parameters are gathered in float32 and cast where they are used."""
    plain, sharded = weights(folder, 'ddp_bfloat16', epoch), weights(folder, 'fsdp_bfloat16', epoch)
    assert max((plain[key].float() - sharded[key].float()).abs().max() for key in plain) < 1e-6
    in_float32, *lowered = re.findall(r'Epoch\(train\) +\[1\]\[1/2\].* loss: ([\d.]+)', others)
    assert len(lowered) == 2 and lowered[0] == lowered[1] != in_float32


@pytest.mark.processes
def test_each_process_keeps_half_and_the_report_tells_the_whole(folder, sharded):
    kept, whole = (
        int(number.replace(',', '')) for number in re.search(r'keeps ([\d,]+) of ([\d,]+) parameters', sharded).groups()
    )
    assert 0.5 <= kept / whole < 0.51
    assert f'of {whole:,} (' in sharded  # the table of tuned and frozen parameters
    assert 'keys in the checkpoint' not in sharded and 'grad_norm' in sharded


@pytest.mark.processes
def test_the_checkpoint_is_slim_and_scores_the_same_on_one_process(folder, sharded, monkeypatch, capsys):
    state = weights(folder, 'fsdp')
    frozen = [key for key in state if key.startswith(('backbone', 'text_encoder'))]
    assert frozen == [f'backbone.{FINGERPRINT_KEY}', f'text_encoder.{FINGERPRINT_KEY}']
    # The config with its strategy: one process leaves it out.
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'test.py',
            str(folder / 'toy_fsdp.py'),
            str(folder / 'fsdp' / 'epoch_2.pth'),
            '--split',
            'val',
            '--work-dir',
            str(folder / 'tested'),
        ],
    )
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(TOOLS / 'test.py'), run_name='__main__')
    scores = scores_of(capsys.readouterr().out)['val']
    logged = re.findall(r'Epoch\(val\) \[2\].* mIoU: ([\d.]+)', sharded)[-1]
    assert scores['mIoU'] == pytest.approx(float(logged), abs=0.006)


CONFIGS = ROOT / 'configs' / 'etris'


def prepared(name: str, launcher: str) -> Config:
    """A config after the checks that tools/train.py makes."""
    parser = argparse.ArgumentParser()
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    prepare_strategy(parser, cfg, argparse.Namespace(config=f'{name}.py', launcher=launcher))
    return cfg


def test_one_process_needs_no_sharding():
    cfg = prepared('etris_vitl14_fsdp_refcoco', 'none')
    assert 'strategy' not in cfg and 'runner_type' not in cfg


def test_deepspeed_on_one_process_is_told_its_launcher(monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
    with pytest.raises(SystemExit):
        prepared('etris_vitl14_deepspeed_refcoco', 'none')
    assert 'bash tools/dist_train.sh etris_vitl14_deepspeed_refcoco.py 1' in capsys.readouterr().err


@pytest.mark.parametrize(
    'missing, message',
    [
        ('deepspeed', 'the package deepspeed is not installed'),
        ('deepspeed.runtime.fp16.onebit', 'no longer has the 1-bit optimizers'),
    ],
)
def test_what_deepspeed_lacks_is_said_before_anything_is_built(missing, message, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == missing else name)
    with pytest.raises(SystemExit):
        prepared('etris_vitl14_deepspeed_refcoco', 'pytorch')
    assert message in capsys.readouterr().err


def test_the_deepspeed_config_is_what_mmengines_strategy_takes(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
    cfg = prepared('etris_vitl14_deepspeed_refcoco', 'pytorch')
    known = inspect.signature(STRATEGIES.get(cfg.strategy.pop('type'))).parameters
    assert set(cfg.strategy) <= set(known)
    assert OPTIM_WRAPPERS.get(cfg.optim_wrapper.type) is not None and cfg.optim_wrapper.optimizer.type == 'Adam'


class BridgerStage(nn.Linear):
    """A class with a name that is wrapped."""


def test_only_named_classes_with_parameters_left_are_gathered_together():
    module = BridgerStage(2, 2)
    assert is_one_of(module, False, 6) and not is_one_of(module, False, 0)
    assert not is_one_of(nn.Linear(2, 2), False, 6) and is_one_of(nn.Linear(2, 2), True, 6)
    assert is_one_of(nn.Linear(2, 2), False, 6, class_names=['Linear'])


def test_counts_are_those_of_the_whole_model_after_parameters_have_shrunk():
    model = toy.build_model()
    before = count_parameters(model)
    remember_whole_sizes(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.flatten()[:1]
    assert count_parameters(model) == before


def test_a_remembered_clip_outlives_its_weights(tmp_path):
    clip = str(save_clip(tmp_path / 'clip.pth'))
    model = toy.build_model(backbone=dict(clip_checkpoint=clip))
    model.init_weights()
    encoder = model.backbone
    keys, known = encoder.frozen_keys(), encoder.fingerprint()
    slim = {f'{FINGERPRINT_KEY}': known.to_tensor()}
    encoder.remember()
    for parameter in encoder.parameters():
        parameter.data = parameter.data.flatten()[:1] + 1
    assert (encoder.frozen_keys(), encoder.fingerprint()) == (keys, known)
    encoder.complete(slim)
    assert slim == {}  # nothing to fill in
    encoder.remember_loaded({})
    assert encoder.fingerprint() == known
    encoder.remember_loaded(dict.fromkeys(keys, torch.ones(1)))
    assert encoder.fingerprint().sha256 != known.sha256
