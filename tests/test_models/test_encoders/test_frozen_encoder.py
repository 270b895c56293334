"""A frozen encoder: what is frozen by structure, and an identity that follows what is there."""

import copy

import pytest
import torch
from open_clip import CLIP
from torch import nn
from torch.nn.utils import parametrize

from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.utils.tensor_memo import TensorMemo
from tests.test_models.test_encoders.test_slim_checkpoint import build_on, save_clip, slim
from tests.test_models.test_layers.test_shortcut import Doubled, Wrapper
from tests.toy import ARCHS, build, encoder_cfgs, randn

BLOCK = dict(vit='transformer.resblocks.1.mlp', resnet='layer2.0')
LAYER = dict(vit='transformer.resblocks.1.mlp.c_fc', resnet='layer2.0.conv2')


def wrap(encoder, name):
    parent, _, child = name.rpartition('.')
    parent = encoder.tower.get_submodule(parent)
    setattr(parent, child, Wrapper(getattr(parent, child)))


@pytest.fixture
def on_clip(tmp_path):
    return lambda kind, **kwargs: build_on(save_clip(tmp_path / f'{kind}.pth', kind), kind, **kwargs)


@pytest.mark.parametrize('kind', ARCHS)
def test_wrapping_and_parametrizing_change_neither_fingerprint_nor_what_is_left_out(on_clip, kind):
    model = on_clip(kind)
    before, left_out = model.backbone.fingerprint(), len(model.backbone.frozen_keys())
    wrap(model.backbone, LAYER[kind])
    assert model.backbone.fingerprint().sha256 == before.sha256
    assert len(model.backbone.frozen_keys()) == left_out
    assert any('.inner.weight' in key for key in model.backbone.frozen_keys())
    name = f'{LAYER[kind]}.inner'
    parametrize.register_parametrization(model.backbone.tower.get_submodule(name), 'weight', Doubled())
    assert model.backbone.fingerprint().sha256 == before.sha256
    assert any(key.endswith('parametrizations.weight.original') for key in model.backbone.frozen_keys())
    assert set(model.backbone.frozen_keys()) <= set(model.backbone.state_dict())


@pytest.mark.parametrize('kind', ARCHS)
def test_what_is_added_to_the_tower_is_trained_and_saved_and_no_part_of_it(on_clip, kind):
    model = on_clip(kind)
    before = model.backbone.fingerprint()
    added = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))
    model.backbone.tower.get_submodule(BLOCK[kind]).add_module('added', added)
    model.train()
    assert all(module.training for module in added.modules())
    assert all(parameter.requires_grad for parameter in added.parameters())
    assert not any(module.training for name, module in model.backbone.tower.named_modules() if 'added' not in name)
    assert model.backbone.fingerprint().sha256 == before.sha256
    kept = {key for key in slim(model) if key.startswith('backbone')}
    expected = {f'backbone.tower.{BLOCK[kind]}.added.{key}' for key in added.state_dict()}
    assert kept == expected | {'backbone.clip_fingerprint'}


def test_what_is_clips_stays_frozen_whoever_asks_for_gradients(on_clip):
    model = on_clip('vit')
    model.requires_grad_(True)
    model.train()
    assert not any(parameter.requires_grad for parameter in model.backbone.tower.parameters())
    assert all(parameter.requires_grad for parameter in model.neck.parameters())


@pytest.mark.parametrize('kind', ARCHS)
def test_a_wrapped_encoder_comes_back_from_its_slim_checkpoint(on_clip, kind):
    model, other = on_clip(kind, seed=0), on_clip(kind, seed=1)
    plain = on_clip(kind, seed=2)
    for one in (model, other):
        wrap(one.backbone, LAYER[kind])
    state = slim(model)
    other.load_state_dict(state)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    plain.load_state_dict(state)  # Nothing of what is saved is in the wrapper, so it fits both.


def test_copies_have_an_identity_of_their_own(on_clip):
    model = on_clip('vit')
    before = model.backbone.fingerprint()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.backbone.tower.conv1.weight += 1
    assert twin.backbone.fingerprint().sha256 != before.sha256
    assert model.backbone.fingerprint() == before
    twin.requires_grad_(True).train()
    assert not twin.backbone.tower.conv1.weight.requires_grad


@pytest.mark.parametrize('init', [True, False])
def test_loading_a_state_dict_reads_no_other_file(tmp_path, monkeypatch, init):
    """Weights that a slim checkpoint counts on are read before, or when the encoder is first used."""
    clip = save_clip(tmp_path / 'clip.pth')
    state, model = slim(build_on(clip)), build_on(clip, seed=1, init=init)
    reads = []
    monkeypatch.setattr(type(model.backbone), 'load_tower', lambda self, source: reads.append(source))
    model.load_state_dict(state)
    assert reads == []


def test_weights_that_are_awaited_are_compared_when_they_are_read(tmp_path):
    first, second = save_clip(tmp_path / 'first.pth'), save_clip(tmp_path / 'second.pth', seed=1)
    state, model = slim(build_on(first)), build_on(second, init=False)
    model.load_state_dict(state)
    with pytest.raises(ValueError, match=r'from first.pth .*but the model has the .*second.pth'):
        model.backbone.stem(randn(1, 3, 64, 64))
    model = build_on(second, init=False)
    model.load_state_dict(state)
    with pytest.raises(ValueError, match='first.pth'):
        model.init_weights()
    gone = build_on(str(tmp_path / 'gone.pth'), init=False)
    gone.load_state_dict(state)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match='gone.pth'):
            gone.backbone.stem(randn(1, 3, 64, 64))


def test_a_full_checkpoint_awaits_nothing(tmp_path):
    clip = save_clip(tmp_path / 'clip.pth')
    tuned = build_on(clip)
    model = build_on(str(tmp_path / 'gone.pth'), init=False)
    model.load_state_dict(slim(tuned))
    model.load_state_dict(tuned.state_dict())
    model.backbone.stem(randn(1, 3, 64, 64))


def test_the_released_resnet_moves_what_it_says_and_nothing_else():
    encoder = build(
        encoder_cfgs('resnet', norm_eval=False, pool_shortcut=True)[0]
        | dict(tunable_parameters=['attnpool.positional_embedding'])
    ).train()
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.training for norm in norms)
    tuned = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert tuned == ['tower.attnpool.positional_embedding']
    assert not any(norm.training for norm in encoder.eval().modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_misspelt_parameter_is_refused():
    with pytest.raises(ValueError, match="tunable_parameters \\['conv.weight'\\].*class_embedding"):
        build(encoder_cfgs('vit')[0] | dict(tunable_parameters=['conv.weight']))


def test_an_encoder_frozen_at_random_weights_refuses_to_be_slim():
    model = build(dict(type='CLIPViT', arch=ARCHS['vit']))
    with pytest.raises(ValueError, match='frozen at random weights'):
        slim_state_dict(nn.ModuleDict(dict(backbone=model)), {})


def test_a_memo_follows_the_tensors_and_the_key():
    memo, calls = TensorMemo(), []

    def result(key, *tensors):
        return memo.get(
            key, tensors, lambda: calls.append(key) or sum(float(one.sum()) for one in tensors if one is not None)
        )

    one, two = torch.ones(2), torch.ones(2)
    assert result('a', one) == result('a', one) == 2 and len(calls) == 1
    assert result('b', one) == 2 and len(calls) == 2
    one += 1
    assert result('a', one) == 4 and len(calls) == 3
    assert result('a', two) == 2 and result('a', one, None) == 4 and len(calls) == 5
    del two
    for _ in range(3):  # A new tensor where an old one lay.
        fresh = torch.full((2,), 3.0)
        assert result('c', fresh) == 6
        fresh = torch.full((2,), 4.0)
        assert result('c', fresh) == 8
    tuned = torch.ones(2, requires_grad=True)
    before = len(calls)
    assert result('d', tuned) == result('d', tuned) == 2 and len(calls) == before + 2
    with torch.inference_mode():
        untracked = torch.ones(2)
    assert result('e', untracked) == result('e', untracked) == 2 and len(calls) == before + 4
    assert copy.deepcopy(memo)._results == {}


def test_what_a_memo_keeps_can_be_trained_with():
    memo, weight = TensorMemo(), torch.ones(2)
    with torch.inference_mode():
        memo.get('double', [weight], lambda: weight * 2)
    scale = torch.ones(2, requires_grad=True)
    (memo.get('double', [weight], lambda: weight * 2) * scale).sum().backward()
    assert torch.equal(scale.grad, torch.full((2,), 2.0))


def test_clips_own_towers_keep_their_output(tmp_path):
    """The map-keeping pool is asked for: called as open_clip calls it, a tower gives open_clip's feature."""
    torch.manual_seed(0)
    clip = CLIP(**ARCHS['resnet'], quick_gelu=True).eval()
    torch.save(clip.state_dict(), tmp_path / 'clip.pth')
    model = build_on(str(tmp_path / 'clip.pth'), 'resnet')
    images = randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone.tower(images), clip.encode_image(images), rtol=1e-4, atol=1e-5)
