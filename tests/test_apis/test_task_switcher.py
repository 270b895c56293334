"""Several tuned models over one frozen CLIP."""

import pytest
import torch

from mmetris import tokenize
from mmetris.apis.task_switcher import TaskSwitcher
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from tests.test_models.test_encoders.test_slim_checkpoint import build_on, save_clip, slim
from tests.test_models.test_tuning.test_contract import on_clip, shake
from tests.toy import randn

INPUTS = randn(1, 3, 64, 64), tokenize('the left dog', 17)


def logits(model):
    with torch.no_grad():
        return model.forward_logits(*INPUTS)


@pytest.fixture
def clip(tmp_path):
    return save_clip(tmp_path / 'clip.pth')


@pytest.mark.parametrize('form', ['slim', 'full'])
def test_each_task_predicts_as_its_own_model_did(clip, form):
    models = {name: build_on(clip, seed=seed) for seed, name in enumerate(['refcoco', 'g-ref'])}
    expected = {name: logits(model) for name, model in models.items()}
    host = build_on(clip, seed=9)
    switcher = TaskSwitcher(host)
    for name, model in models.items():
        switcher.add(name, slim(model) if form == 'slim' else model.state_dict())
    assert switcher.tasks == ('refcoco', 'g-ref')
    for name in ('refcoco', 'g-ref', 'refcoco'):
        switcher.switch(name)
        assert torch.equal(logits(host), expected[name])
    with switcher.use('g-ref') as model:
        assert torch.equal(logits(model), expected['g-ref'])
    assert torch.equal(logits(host), expected['refcoco'])


def test_a_task_adds_the_memory_of_its_tuned_part_only(clip):
    host = build_on(clip)
    switcher = TaskSwitcher(host)
    state = host.state_dict()
    switcher.add('second', state)
    held = [value for task in switcher._tasks.values() for value in task.weights.values()]
    tuned = {key: value for key, value in state.items() if not key.startswith(('backbone.', 'text_encoder.'))}
    assert sum(value.untyped_storage().nbytes() for value in held) == sum(value.nbytes for value in tuned.values())
    own = {value.data_ptr() for value in state.values()}
    assert not own & {value.data_ptr() for value in held if value.numel()}


def test_another_clip_or_architecture_is_refused(clip, tmp_path):
    switcher = TaskSwitcher(build_on(clip))
    other = build_on(save_clip(tmp_path / 'other.pth', seed=1))
    for state in (slim(other), other.state_dict()):
        with pytest.raises(ValueError, match='was tuned on the .* but the model has the .*clip.pth'):
            switcher.add('other', state)
    state = slim(build_on(clip))
    del state['decode_head.projector.kernel_projection.bias']
    with pytest.raises(ValueError, match='1 tensors are missing.*kernel_projection.bias'):
        switcher.add('cut', state)


def test_names_are_checked(clip):
    model = build_on(clip)
    switcher = TaskSwitcher(model)
    switcher.add('a', slim(model))
    with pytest.raises(ValueError, match="'a' already"):
        switcher.add('a', slim(model))
    with pytest.raises(KeyError, match="no task 'b'"):
        switcher.switch('b')
    switcher.remove('a')
    assert switcher.tasks == ()


def test_slimming_leaves_the_model_itself_alone(clip):
    model = build_on(clip)
    before = logits(model)
    slim_state_dict(model, dict(model.state_dict()))
    assert torch.equal(logits(model), before)


def test_tasks_of_several_methods_share_one_clip(tmp_path):
    """LoRA, biases, adapters and no method at all, each with a model of its own: the CLIP is in memory once."""
    clips = dict(vit=save_clip(tmp_path / 'clip.pth', 'vit'))
    names = ('lora', 'bitfit_vit', 'adapter', 'full_vit')
    host = on_clip('fixed', clips, 0)
    switcher, expected = TaskSwitcher(host), {}
    switcher.add('fixed', slim(host))
    expected['fixed'] = logits(host)
    for name in names:
        trained = shake(on_clip(name, clips, 1))
        expected[name] = logits(trained)
        own = on_clip(name, clips, 2)
        switcher.add(name, slim(trained) if name != 'full_vit' else trained.state_dict(), own)
        shared = {value.data_ptr() for value in host.parameters()} & {value.data_ptr() for value in own.parameters()}
        frozen = {value.data_ptr() for value in own.parameters() if not value.requires_grad}
        assert shared == frozen
    for name in ('fixed', *names, 'lora', 'fixed'):
        with switcher.use(name) as model:
            assert torch.equal(logits(model), expected[name])
    other = on_clip('lora', dict(vit=save_clip(tmp_path / 'other.pth', 'vit', seed=3)), 0)
    with pytest.raises(ValueError, match='backbone.class_embedding has other values'):
        switcher.add('other', slim(other), other)
    assert 'other' not in switcher.tasks


@torch.no_grad()
def test_tasks_with_and_without_a_no_target_head_share_one_clip(clip):
    """The slim file holds the head, whose answers come back with its task."""
    headed = dict(decode_head=dict(no_target_head=dict(channels=8)))
    plain, trained, own = build_on(clip), build_on(clip, seed=1, **headed), build_on(clip, seed=2, **headed)
    expected = trained.forward_answers(*INPUTS)
    assert 'decode_head.no_target_head.classifier.bias' in slim(trained)
    switcher = TaskSwitcher(plain)
    switcher.add('refcoco', slim(plain))
    with pytest.raises(ValueError, match='no_target_head'):
        switcher.add('grefcoco', slim(trained))
    switcher.add('grefcoco', slim(trained), own)
    with switcher.use('grefcoco') as model:
        for found, wanted in zip(model.forward_answers(*INPUTS), expected, strict=True):
            assert torch.equal(found, wanted)
    with switcher.use('refcoco') as model:
        assert model.forward_answers(*INPUTS)[1] is None
