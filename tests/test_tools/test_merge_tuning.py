"""The tool that merges LoRA into the weights that it updates."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmetris.apis import init_model
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from tests.quiet_start import assert_quiet
from tests.test_models.test_encoders.test_slim_checkpoint import save_clip
from tests.test_models.test_tuning.test_contract import inputs, shake
from tests.toy import model_cfg, randn, text_first_cfg
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]


def write_model(folder, image, text):
    """Config and slim checkpoint of a toy model that was tuned by these methods."""
    cfg = Config(dict(default_scope='mmetris', model=model_cfg('vit', backbone=dict(tuning=image))))
    cfg.model.text_encoder.update(tuning=text)
    cfg.model.dual_encoder = dict(clip_checkpoint=save_clip(folder / 'clip.pth', 'vit'))
    cfg.dump(folder / 'config.py')
    model = shake(init_model(folder / 'config.py', device='cpu'))
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), folder / 'slim.pth')
    return model


def merge(*arguments):
    done = run_script(ROOT / 'tools/misc/merge_tuning.py', *arguments)
    assert_quiet(done.stdout + done.stderr)
    return done


@pytest.mark.processes
def test_a_merged_model_needs_no_lora(tmp_path):
    trained = write_model(tmp_path, dict(lora=dict(type='LoRA')), dict(lora=dict(type='LoRA', rank=2, alpha=8)))
    done = merge(tmp_path / 'config.py', tmp_path / 'slim.pth', tmp_path / 'merged')
    assert done.returncode == 0, done.stderr
    assert 'merged: backbone.tuning.lora, text_encoder.tuning.lora' in done.stdout
    cfg = Config.fromfile(tmp_path / 'merged/config.py')
    assert not cfg.model.backbone.tuning and cfg.model.text_encoder.clip_checkpoint is None
    assert torch.load(tmp_path / 'merged/model.pth', weights_only=True)['meta'] == dict(epoch=3)
    (tmp_path / 'clip.pth').unlink()  # All that it needs is in the file.
    model = init_model(tmp_path / 'merged/config.py', tmp_path / 'merged/model.pth', device='cpu')
    assert not any('tuning' in key for key in model.state_dict())
    with torch.no_grad():
        found, expected = model.forward_logits(*inputs()), trained.eval().forward_logits(*inputs())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.processes
def test_what_cannot_be_merged_leaves_no_file(tmp_path):
    write_model(tmp_path, dict(lora=dict(type='LoRA'), adapter=dict(type='Adapter')), {})
    done = merge(tmp_path / 'config.py', tmp_path / 'slim.pth', tmp_path / 'merged')
    assert done.returncode == 1 and not (tmp_path / 'merged').exists()
    assert done.stderr.splitlines()[-1].startswith('ValueError: backbone.tuning.adapter: Adapter is no linear change')


@pytest.mark.processes
def test_an_encoder_that_calls_its_weights_otherwise_is_merged_too(tmp_path):
    """DINOv2ViT has `checkpoint` where CLIP's encoders have `clip_checkpoint`."""
    model = text_first_cfg()
    lora = dict(lora=dict(type='LoRA', places='blocks.*.attn.qkv'))
    model['backbone'].update(tuning=lora)
    model['text_encoder'].update(tuning={})
    cfg = Config(dict(default_scope='mmetris', model=model))
    cfg.dump(tmp_path / 'config.py')
    trained = shake(init_model(tmp_path / 'config.py', device='cpu'))
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'full.pth')
    done = merge(tmp_path / 'config.py', tmp_path / 'full.pth', tmp_path / 'merged')
    assert done.returncode == 0, done.stderr
    merged = init_model(tmp_path / 'merged/config.py', tmp_path / 'merged/model.pth', device='cpu')
    images = randn(1, 3, 32, 64)
    with torch.no_grad():
        for ours, expected in zip(merged.backbone(images), trained.eval().backbone(images), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
