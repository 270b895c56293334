"""Slim checkpoints: what they hold, and that they come back complete."""

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from open_clip import CLIP

from mmetris import tokenize
from mmetris.models.encoders.fingerprint import Fingerprint
from mmetris.models.encoders.slim_checkpoint import is_slim, slim_state_dict
from tests.toy import ARCHS, build, model_cfg, randn


def save_clip(path, kind='vit', seed=0):
    torch.manual_seed(seed)
    torch.save(CLIP(**ARCHS[kind], quick_gelu=True).state_dict(), path)
    return str(path)


def build_on(clip_checkpoint, kind='vit', seed=0, init=True, decode_head=None, **backbone):
    cfg = model_cfg(kind, backbone=dict(clip_checkpoint=clip_checkpoint) | backbone, decode_head=decode_head)
    cfg['text_encoder']['clip_checkpoint'] = clip_checkpoint
    model = build(cfg, seed).eval()
    if init:
        model.init_weights()
    return model


def slim(model):
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    return state


@pytest.mark.parametrize('kind', ARCHS)
@pytest.mark.parametrize('loader', [torch.nn.Module.load_state_dict, load_state_dict])
@pytest.mark.parametrize('init', [True, False], ids=['loaded', 'not_yet_loaded'])
def test_a_slim_state_dict_restores_predictions(tmp_path, kind, loader, init):
    clip = save_clip(tmp_path / 'clip.pth', kind)
    tuned = build_on(clip, kind, seed=0)
    state = slim(tuned)
    assert is_slim(state) and not is_slim(tuned.state_dict())
    other = build_on(clip, kind, seed=1, init=init)
    loader(other, state, strict=True)
    inputs = randn(1, 3, 64, 64), tokenize('the left dog', 17)
    with torch.no_grad():
        assert torch.equal(other.forward_logits(*inputs), tuned.forward_logits(*inputs))


def test_only_clips_frozen_weights_are_left_out(tmp_path):
    model = build_on(
        save_clip(tmp_path / 'clip.pth', 'resnet'),
        'resnet',
        pool_shortcut=True,
        norm_eval=False,
        tunable_parameters=['attnpool.positional_embedding'],
    )
    kept = {key for key in slim(model) if key.startswith('backbone.')}
    buffers = {f'backbone.{name}' for name, _ in model.backbone.named_buffers()}
    shortcut = {key for key in model.state_dict() if 'pool_shortcut' in key}
    assert kept == buffers | shortcut | {'backbone.tower.attnpool.positional_embedding', 'backbone.clip_fingerprint'}


def test_another_clip_is_refused_with_both_names(tmp_path):
    first, second = save_clip(tmp_path / 'first.pth'), save_clip(tmp_path / 'second.pth', seed=1)
    state = slim(build_on(first))
    with pytest.raises(ValueError, match=r'image encoder custom from first.pth .*but the model has the .*second.pth'):
        build_on(second).load_state_dict(state)
    with pytest.raises(ValueError, match='random weights'):
        build(model_cfg('vit'), seed=5).load_state_dict(state)


def test_a_model_frozen_at_random_weights_cannot_be_slimmed():
    with pytest.raises(ValueError, match='backbone is frozen at random weights.*clip_checkpoint'):
        slim(build(model_cfg('vit')))
    with pytest.raises(ValueError, match='set its checkpoint to the file'):  # A DINOv2's argument has another name.
        slim(build(model_cfg('dinov2')))


def test_an_unfrozen_encoder_stays_whole(tmp_path):
    cfg = model_cfg('vit', backbone=dict(frozen=False))
    cfg['text_encoder']['clip_checkpoint'] = save_clip(tmp_path / 'clip.pth')
    model = build(cfg)
    model.init_weights()
    assert {key for key in slim(model) if key.startswith('backbone')} == {
        key for key in model.state_dict() if key.startswith('backbone')
    }


def test_the_fingerprint_follows_the_values_not_dtype_or_order(tmp_path):
    model = build_on(save_clip(tmp_path / 'clip.pth'))
    before = model.backbone.fingerprint()
    assert model.backbone.fingerprint() is before  # Hashed once.
    assert Fingerprint.from_tensor(before.to_tensor()) == before
    with torch.no_grad():
        model.backbone.tower.conv1.weight[0, 0, 0, 0] += 1e-3
    assert model.backbone.fingerprint().sha256 != before.sha256
    with pytest.raises(ValueError, match='damaged'):
        Fingerprint.from_tensor(torch.zeros(4, dtype=torch.uint8))


def test_slim_is_a_small_part_of_vit_b16():
    """ETRIS on ViT-B/16: 14 % of the bytes of a full state dict."""
    with torch.device('meta'):
        model = build(
            dict(
                type='ReferringSegmentor',
                backbone=dict(type='CLIPViT'),
                text_encoder=dict(type='CLIPTextEncoder'),
                neck=dict(type='Bridger', scales=(0.5, 1, 2), zoom_norm=True),
                decode_head=dict(type='ETRISHead'),
            )
        )
    state = model.state_dict()
    left_out = {f'{name}.{key}' for name in ('backbone', 'text_encoder') for key in getattr(model, name).frozen_keys()}
    kept = sum(value.numel() for key, value in state.items() if key not in left_out)
    assert kept / sum(value.numel() for value in state.values()) < 0.15
