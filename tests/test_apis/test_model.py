"""init_model: from config and checkpoint to a model that predicts."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmetris import tokenize
from mmetris.apis import init_model
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from tests import toy


def toy_cfg(**kwargs):
    return Config(dict(default_scope='mmetris', model=toy.model_cfg('vit', **kwargs)))


def save_clip(path):
    from open_clip import CLIP

    torch.manual_seed(0)
    torch.save(CLIP(**toy.VIT, quick_gelu=True).state_dict(), path)
    return str(path)


@pytest.fixture
def saved(tmp_path):
    """A model and its full checkpoint."""
    model = toy.build_model('vit', seed=3).eval()
    meta = dict(dataset_meta=dict(classes=('a', 'b')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'full.pth')
    return model, tmp_path / 'full.pth'


def logits_of(model):
    with torch.no_grad():
        return model.forward_logits(toy.randn(2, 3, 64, 64), tokenize(['the left dog', 'a cat'], 17))


def test_a_full_checkpoint_restores_predictions_from_a_file_or_a_config(tmp_path, saved):
    model, checkpoint = saved
    toy_cfg().dump(tmp_path / 'config.py')
    for config in (tmp_path / 'config.py', str(tmp_path / 'config.py'), toy_cfg()):
        loaded = init_model(config, checkpoint, device='cpu')
        assert torch.equal(logits_of(loaded), logits_of(model))
        assert logits_of(loaded).shape == (2, 1, 32, 32)  # The patch is 8, so the logits have stride 2.
        assert not loaded.training and loaded.cfg.model.type == 'ReferringSegmentor'
        assert loaded.dataset_meta == dict(classes=('a', 'b'))


def test_a_slim_checkpoint_takes_the_frozen_clip_from_where_the_config_says(tmp_path):
    clip = save_clip(tmp_path / 'clip.pth')
    cfg = toy_cfg(backbone=dict(clip_checkpoint=clip))
    cfg.model.text_encoder.clip_checkpoint = clip
    tuned = init_model(cfg, device='cpu')
    state = dict(tuned.state_dict())
    slim_state_dict(tuned, state)
    torch.save(dict(state_dict=state), tmp_path / 'slim.pth')
    assert torch.equal(logits_of(init_model(cfg, tmp_path / 'slim.pth', device='cpu')), logits_of(tuned))
    with pytest.raises(ValueError, match='clip_checkpoint'):
        init_model(toy_cfg(), tmp_path / 'slim.pth', device='cpu')


def test_without_a_checkpoint_clips_weights_are_loaded(tmp_path):
    clip = save_clip(tmp_path / 'clip.pth')
    model = init_model(toy_cfg(), device='cpu', cfg_options={'model.backbone.clip_checkpoint': clip})
    assert torch.equal(model.backbone.tower.conv1.weight, torch.load(clip)['visual.conv1.weight'])
    assert model.dataset_meta['classes'] == ('background', 'referred object')


def test_a_vit_given_by_sizes_resizes_clips_positions_once(tmp_path):
    cfg = toy_cfg()
    cfg.model.backbone.arch.vision_cfg.image_size = 96
    cfg.model.backbone.clip_checkpoint = save_clip(tmp_path / 'clip.pth')
    assert init_model(cfg, device='cpu').backbone.tower.positional_embedding.shape == (1 + 12 * 12, 32)


def test_the_callers_config_is_left_alone(saved):
    cfg = toy_cfg()
    init_model(cfg, saved[1], device='cpu', cfg_options={'model.decode_head.threshold': 0.5})
    assert 'threshold' not in cfg.model.decode_head


def test_a_checkpoint_of_another_model_is_refused_with_keys_and_shapes(tmp_path, saved):
    model, _ = saved
    cases = dict(
        missing={key: value for key, value in model.state_dict().items() if key != 'neck.bridges.2.words_in.bias'},
        extra=model.state_dict() | {'neck.surprise': torch.ones(1)},
        shape=model.state_dict() | {'neck.bridges.2.words_in.bias': torch.ones(99)},
        published={'module.bridger.linear1.0.bias': torch.ones(1)},
        published_cris={'module.neck.f1_v_proj.0.weight': torch.ones(1)},
        empty={},
    )
    named = dict(
        missing='neck.bridges.2.words_in.bias',
        extra='neck.surprise',
        shape='99',
        published='etris_to_mmetris',
        published_cris='cris_to_mmetris',
        empty='no "state_dict"',
    )
    for name, state in cases.items():
        torch.save(dict(state_dict=state), tmp_path / f'{name}.pth')
        with pytest.raises(ValueError, match=rf'(?s){name}\.pth.*{named[name]}'):
            init_model(toy_cfg(), tmp_path / f'{name}.pth', device='cpu')


class Runs:
    """Makes a folder when it is loaded by a loader that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickled_code_is_refused_and_not_run(tmp_path, saved):
    torch.save(dict(state_dict=saved[0].state_dict(), meta=Runs(tmp_path / 'was_run')), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='nothing in it was run'):
        init_model(toy_cfg(), tmp_path / 'bad.pth', device='cpu')
    assert not (tmp_path / 'was_run').exists()


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, saved):
    """They would compute without an error, and find nothing."""
    state = dict(saved[0].state_dict())
    key = next(key for key in state if key.startswith('decode_head') and state[key].is_floating_point())
    state[key] = state[key].clone().fill_(float('nan'))
    torch.save(dict(state_dict=state), tmp_path / 'nan.pth')
    with pytest.raises(ValueError, match=rf'nan\.pth holds weights that are NaN or infinite: {key}\.'):
        init_model(toy_cfg(), tmp_path / 'nan.pth', device='cpu')
    clip = torch.load(save_clip(tmp_path / 'clip.pth'))
    clip['visual.proj'][0, 0] = float('inf')
    torch.save(clip, tmp_path / 'inf.pth')
    with pytest.raises(ValueError, match=r'inf\.pth holds weights that are NaN or infinite: proj\.'):
        init_model(toy_cfg(backbone=dict(clip_checkpoint=str(tmp_path / 'inf.pth'))), device='cpu')


def test_a_config_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(init_model('etris_tiny_shapes', device='cpu').cfg.filename).name == 'etris_tiny_shapes.py'


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='config file not found: none.py'):
        init_model('none.py', device='cpu')
    with pytest.raises(TypeError, match='Config, not dict'):
        init_model(dict(), device='cpu')
    with pytest.raises(FileNotFoundError, match='checkpoint not found'):
        init_model(toy_cfg(), tmp_path / 'none.pth', device='cpu')
    with pytest.raises(ValueError, match='no "model"'):
        init_model(Config(dict(a=1)), device='cpu')


def test_sentences_as_text_get_the_models_own_length():
    """Where padding is not masked, as in the released variant, the length belongs to the model."""
    from mmetris.structures import RefDataSample

    samples = [RefDataSample(metainfo=dict(expression='a dog'))]
    assert toy.build(toy.model_cfg('vit') | dict(context_length=17)).tokens_of(samples, 'cpu').shape == (1, 17)
    assert toy.build_model('vit').tokens_of(samples, 'cpu').shape == (1, 4)
