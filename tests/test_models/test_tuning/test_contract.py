"""What is promised of every tuning method; a new one joins by a line in tests/toy_tuning.py."""

import copy
import itertools
import socket

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import build_optim_wrapper
from torch.nn.parallel import DistributedDataParallel

from mmetris import tokenize
from mmetris.apis.task_switcher import TaskSwitcher
from mmetris.deployment.parts import ImagePart, WholeModel
from mmetris.engine.activation_checkpointing import checkpoint_activations
from mmetris.engine.compiling import compile_parts
from mmetris.engine.hooks.tunable_report_hook import iter_parts
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.utils.command_line import end_processes
from mmetris.utils.param_count import count_parameters
from tests.test_models.test_encoders.test_slim_checkpoint import save_clip
from tests.toy import build, build_model, randn
from tests.toy_tuning import CASES, tuned_cfg, tuned_model

pytestmark = pytest.mark.filterwarnings('ignore:.*lr_scheduler.step')
BRIDGED = dict(bridger={}, no_bridger=dict(neck=dict(stages=())))
FROZEN = [name for name, case in CASES.items() if case.frozen]


def inputs(seed: int = 0):
    return randn(2, 3, 64, 64, seed=seed), tokenize(['the left dog', 'a cat'], 17)


def sides(model):
    return dict(backbone=model.backbone, text_encoder=model.text_encoder)


def tuned_ids(model) -> set[int]:
    """What may change: what methods say, and in full tuning all of both encoders."""
    tuned = set()
    for encoder in sides(model).values():
        tuned |= {id(value) for method in encoder.tuning.values() for value in method.tuned_parameters()}
        if not encoder.frozen:
            tuned |= {id(value) for value in encoder.parameters()}
    return tuned


def shake(model, seed: int = 0):
    """Move all that is tuned, as a training does."""
    with torch.no_grad():
        for index, value in enumerate(value for value in model.parameters() if value.requires_grad):
            value += 0.1 * randn(*value.shape, seed=seed + index)
    return model


@pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.starts_at_zero])
def test_what_starts_as_no_change_gives_the_encoders_own_features(name):
    plain, tuned = build_model(CASES[name].kind, backbone=dict(frozen=CASES[name].frozen)), tuned_model(name)
    missing, unexpected = tuned.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('.tuning.' in key for key in missing)
    images, tokens = inputs()
    for training in (False, True):
        with torch.no_grad():
            found, expected = (
                (*model.backbone(images), *model.text_encoder(tokens))
                for model in (tuned.train(training), plain.train(training))
            )
        for ours, own in zip(found, expected, strict=True):
            if CASES[name].kind == 'resnet':  # A BatchNorm with a branch beside it is not folded into its convolution.
                torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(ours, own)


@pytest.mark.parametrize('name', CASES)
def test_parameters_are_counted_once_and_under_the_methods_own_name(name):
    case, model = CASES[name], tuned_model(name)
    counts = count_parameters(model)
    assert counts['tuning'] + counts['prompt'] == case.count
    assert counts['total'] == sum(value.numel() for value in model.parameters())
    parts = {part: sum(value.numel() for value in values) for part, _, values in iter_parts(model)}
    assert sum(parts.values()) == counts['total']
    for side, encoder in sides(model).items():
        for method in encoder.tuning:
            assert parts.get(f'{side}.tuning.{method}', 0) > 0 or name == 'compacter'


@pytest.mark.parametrize('name', CASES)
def test_clips_keys_stay_what_they_are(name):
    tuned, plain = tuned_model(name).state_dict(), build_model(CASES[name].kind).state_dict()
    added = set(tuned) - set(plain)
    assert set(plain) <= set(tuned)
    assert all('.tuning.' in key or key.endswith('.tuned_by') for key in added)


@pytest.mark.parametrize('bridged', BRIDGED)
@pytest.mark.parametrize('name', CASES)
def test_steps_train_all_that_is_tuned_and_nothing_else(name, bridged):
    model = tuned_model(name, **BRIDGED[bridged]).train()
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pulled: dict[int, float] = {}
    torch.manual_seed(0)  # Of dropout.
    # What starts at zero holds back the gradient of what comes before it, and a ReLU that of some inputs.
    for step in range(6):
        optimizer.zero_grad()
        model.forward_logits(*inputs(seed=step)).square().mean().backward()
        optimizer.step()
        for value in model.parameters():
            if value.grad is not None:
                pulled[id(value)] = pulled.get(id(value), 0.0) + float(value.grad.abs().sum())
    after, tuned = model.state_dict(), tuned_ids(model)
    for side, encoder in sides(model).items():
        for key, value in encoder.named_parameters():
            assert value.requires_grad == (id(value) in tuned), key
            if value.requires_grad:
                assert value.grad is not None, key
            else:
                assert torch.equal(after[f'{side}.{key}'], before[f'{side}.{key}']), key
        if CASES[name].frozen:
            for key in encoder.frozen_keys():
                assert torch.equal(after[f'{side}.{key}'], before[f'{side}.{key}']), key
        for key, method in encoder.tuning.items():
            without = [value for value in method.tuned_parameters() if pulled[id(value)] == 0]
            if key == 'dense':
                # At the one word that the text encoder's end reads, a ReLU of the toy's single channel stops a branch.
                assert len(without) <= len(list(method.tuned_parameters())) // 4, key
            else:
                # Of what BitFit tunes, biases of keys have no effect, nor have those after the last word that is read.
                assert not without or key == 'bitfit', key


@pytest.mark.parametrize('name', FROZEN)
def test_the_tower_is_in_evaluation_mode_and_the_method_in_the_models(name):
    model = tuned_model(name)
    for mode in (True, False):
        model.train(mode)
        for encoder in sides(model).values():
            assert not any(module.training for module in encoder.tower.modules())
            assert all(module.training is mode for module in encoder.tuning.modules())


@pytest.mark.parametrize('name', ['adapter', 'lora_linear'])
def test_a_methods_dropout_works_in_training_only(name):
    model = shake(tuned_model(name, neck=dict(dropout=0), decode_head=dict(global_alignment=None)))
    with torch.no_grad():
        model.train()
        assert not torch.equal(model.forward_logits(*inputs()), model.forward_logits(*inputs()))
        model.eval()
        assert torch.equal(model.forward_logits(*inputs()), model.forward_logits(*inputs()))


@pytest.mark.parametrize('name', CASES)
def test_what_is_learnt_takes_part_and_copies_go_their_own_way(name):
    model = tuned_model(name).eval()
    with torch.no_grad():
        before = model.forward_logits(*inputs())
        twin = copy.deepcopy(model)
        for encoder in sides(twin).values():
            for value in encoder.parameters():
                if value.requires_grad:
                    value += 0.3 * randn(*value.shape, seed=1)
        assert torch.allclose(twin.forward_logits(*inputs()), before, atol=1e-4) == (name == 'fixed')
        assert torch.equal(model.forward_logits(*inputs()), before)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clip')
    torch.save(build_model('dinov2', seed=5).backbone.tower.state_dict(), folder / 'dinov2.pth')
    return {kind: save_clip(folder / f'{kind}.pth', kind) for kind in ('vit', 'resnet')} | dict(
        dinov2=str(folder / 'dinov2.pth')
    )


def on_clip(name, clips, seed, **kwargs):
    """The model of a case on CLIP weights from a file."""
    cfg = tuned_cfg(name, **kwargs)
    if (kind := CASES[name].kind) == 'dinov2':
        cfg['backbone']['checkpoint'], kind = clips[kind], 'vit'
    cfg['dual_encoder'] = dict(clip_checkpoint=clips[kind])
    model = build(cfg, seed).eval()
    model.init_weights()
    return model


@pytest.mark.parametrize('name', FROZEN)
def test_a_slim_file_holds_what_was_tuned_and_gives_the_same_predictions(name, clips):
    model = shake(on_clip(name, clips, 0))
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    expected_keys = {
        f'{side}.{key}'
        for side, encoder in sides(model).items()
        for key in encoder.state_dict()
        if key not in encoder.frozen_keys()
    }
    in_encoders = {key for key in state if key.startswith(('backbone.', 'text_encoder.'))}
    assert {key for key in in_encoders if not key.endswith('clip_fingerprint')} == expected_keys
    other = on_clip(name, clips, 1)
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other.forward_logits(*inputs()), model.forward_logits(*inputs()))


@pytest.mark.parametrize('name', FROZEN)
def test_tasks_are_switched_over_one_clip(name, clips):
    model, states, expected = on_clip(name, clips, 0), {}, {}
    for task in ('one', 'two'):
        trained = shake(on_clip(name, clips, 0), seed=len(states) + 5)
        states[task] = dict(trained.state_dict())
        slim_state_dict(trained, states[task])
        with torch.no_grad():
            expected[task] = trained.forward_logits(*inputs())
    switcher = TaskSwitcher(model)
    for task, state in states.items():
        switcher.add(task, state)
    for task in ('one', 'two', 'one'):
        with switcher.use(task), torch.no_grad():
            assert torch.equal(model.forward_logits(*inputs()), expected[task])


METHODS = ['adapter', 'lora', 'compacter', 'bitfit_vit', 'prompts', 'deep_prompts', 'adapter_parallel']


@pytest.mark.parametrize('one, other', [*itertools.pairwise(METHODS), *itertools.pairwise(METHODS[::-1])])
def test_a_checkpoint_of_one_method_is_refused_by_another_with_both_names(one, other, clips):
    trained, target = on_clip(one, clips, 0), on_clip(other, clips, 0)
    theirs, own = (next(iter(CASES[name].image.values()))['type'] for name in (one, other))
    for slim in (True, False):
        state = dict(trained.state_dict())
        if slim:
            slim_state_dict(trained, state)
        with pytest.raises(ValueError, match=f'tuned by .*{theirs}.* has .*{own}'):
            target.load_state_dict(state, strict=False)
        with pytest.raises(ValueError, match=f'tuned by .*{theirs}.* has .*{own}'):
            TaskSwitcher(target).add('task', state)


def test_the_same_method_at_other_places_is_refused_and_none_at_all_is_too(clips):
    trained, plain = on_clip('adapter', clips, 0), on_clip('fixed', clips, 0)
    cfg = tuned_cfg('adapter')
    cfg['backbone']['tuning'] = dict(adapter=dict(type='Adapter', places='ffn'))
    elsewhere = build(cfg)
    with pytest.raises(ValueError, match='at other places: 16 tensors .* such as tuning.adapter.branches.transformer'):
        elsewhere.load_state_dict(trained.state_dict(), strict=False)
    with pytest.raises(ValueError, match='tuned by adapter: Adapter.* has no tuning method'):
        plain.load_state_dict(trained.state_dict(), strict=False)
    # What was trained without a method is where one with a method may start.
    missing, unexpected = trained.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('.tuning.adapter.' in key for key in missing)


@pytest.mark.parametrize('name', CASES)
def test_gradients_under_autocast_are_near_those_without(name):
    model = tuned_model(name, neck=dict(dropout=0), decode_head=dict(global_alignment=dict(dropout=0))).train()
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss = model.forward_logits(*inputs()).float().square().mean()
        loss.backward()
        values = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in values)
        gradients.append(torch.cat(values))
    if CASES[name].kind != 'resnet':  # Random ResNets double their features in every block, and rounding with them.
        # bfloat16 has 8 bits: these random models give 0.97 to 0.99.
        assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95


@pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.kind != 'resnet'])
def test_activation_checkpointing_of_blocks_changes_no_gradient(name):
    gradients = []
    for checkpointed in (False, True):
        model = shake(tuned_model(name)).eval()  # Without dropout.
        if checkpointed:
            stacks = {f'{side}.tower.transformer.resblocks' for side in sides(model)}
            if CASES[name].kind == 'dinov2':
                stacks = {'backbone.tower.blocks', 'text_encoder.tower.transformer.resblocks'}
            blocks = [f'{stack}.{i}' for stack in stacks for i in range(4)]
            checkpoint_activations(model, blocks)
        model.forward_logits(*inputs()).square().mean().backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    assert any(value is not None for value in gradients[0])
    for ours, expected in zip(*gradients, strict=True):
        assert (ours is None) == (expected is None)
        if ours is not None:
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('name', CASES)
def test_the_walk_is_one_graph(name):
    """Both encoders with what tunes them; Bridger and decoder, which know of no method, once."""
    whole = name == 'together'
    model = shake(tuned_model(name, **({} if whole else BRIDGED['no_bridger']))).eval()
    with torch.no_grad():
        expected = model.forward_logits(*inputs())
        if whole:
            compile_parts(model, backend='eager', fullgraph=True)
        else:
            model.neck.compile(backend='eager', fullgraph=True)
        torch.testing.assert_close(model.forward_logits(*inputs()), expected, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize('bridged', BRIDGED)
@pytest.mark.parametrize('name', CASES)
def test_sentences_of_one_image_share_its_encoding(name, bridged):
    model = shake(tuned_model(name, **BRIDGED[bridged])).eval()
    images, tokens = inputs()
    with torch.no_grad():
        expected = model.forward_logits(images[[0, 0]], tokens)
        shared = model.forward_logits(model.encode_images(images[:1]), tokens, torch.tensor([0, 0]))
    torch.testing.assert_close(shared, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('bridged', BRIDGED)
@pytest.mark.parametrize('name', CASES)
def test_the_prefix_cache_ends_where_the_first_tuned_part_begins(name, bridged, tmp_path):
    case, cfg = CASES[name], tuned_cfg(name, **BRIDGED[bridged])
    model = build(cfg | dict(prefix_cache=dict(dir=str(tmp_path / 'cache'), max_gb=1))).train()
    images, tokens = inputs()
    if case.first_tuned == 0:
        with pytest.raises(ValueError, match='backbone.* is tuned|backbone.* move'):
            model.bridge(images, tokens)
        return
    ran, run = [], model.backbone.stage

    def stage(index, state):
        ran.append(index)
        return run(index, state)

    model.backbone.stage = stage
    first_bridged = 2 if bridged == 'bridger' else None
    plain = build(cfg).train()
    for _ in range(2):  # The second time what was kept is read, whatever was learnt in between.
        shake(model)
        plain.load_state_dict(model.state_dict())
        ran.clear()
        torch.manual_seed(0)
        found = model.bridge(images, tokens)
        torch.manual_seed(0)
        expected = plain.bridge(images, tokens)
        for ours, own in zip(found.maps, expected.maps, strict=True):
            torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)
    kept = min(case.first_tuned or 5, first_bridged + 1 if first_bridged else 5) - 1
    assert ran == list(range(kept + 1, 5))
    assert model.prefix_cache.hits == model.prefix_cache.misses == 2


@pytest.mark.parametrize('name', ['together', 'compacter', 'conv_adapter_resnet', 'lora_resnet', 'dense_aligner'])
def test_exported_programs_compute_the_same(name):
    model = shake(tuned_model(name)).eval()
    images, tokens = 255 * torch.rand(2, 3, 64, 64), tokenize(['the left dog', 'a cat'], 17)
    for part in (WholeModel(model, (64, 64)), ImagePart(model)):
        given = (images, tokens)[: 1 + isinstance(part, WholeModel)]
        with torch.no_grad():
            expected = part(*given)
            found = torch.export.export(part, given).module()(*given)
        for ours, own in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['adapter', 'lora', 'bitfit_vit', 'prompts', 'deep_prompts'])
def test_class_names_are_read_through_what_is_tuned(name):
    cfg = tuned_cfg(name) | dict(type='ClassNameSegmentor', vocabulary=dict(classes=['cat', 'dog', 'sky']))
    cfg['text_encoder']['type'] = 'ClassText'
    cfg['backbone'].update(tuning={})
    model = build(cfg).eval()
    with torch.no_grad():
        before = model.class_logits(inputs()[0])
        for value in model.text_encoder.parameters():
            if value.requires_grad:
                value.data += 0.3 * randn(*value.shape)  # As moving averages do: no version of the tensor tells.
        assert not torch.allclose(model.class_logits(inputs()[0]), before, atol=1e-3)
    model.train().class_logits(inputs()[0]).square().mean().backward()
    assert all(value.grad is not None for value in model.text_encoder.parameters() if value.requires_grad)


def test_methods_of_one_name_share_the_rule_and_optimizers_hold_it_once():
    model = tuned_model('compacter')
    image, text = model.backbone.tuning['compacter'], model.text_encoder.tuning['compacter']
    assert text.shared_rule is image.shared_rule is image.rule and text.rule is None
    wrapper = dict(optimizer=dict(type='Adam', lr=1e-3), paramwise_cfg=dict(custom_keys={'neck': dict(lr_mult=10)}))
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    held = [value for group in optimizer.param_groups for value in group['params']]
    assert sum(value is image.rule.weight for value in held) == 1


def _two_processes(rank, port, results):
    """Every method in DistributedDataParallel, which refuses parameters without gradient at the second step."""
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name in CASES:
        model = tuned_model(name).train()
        if name == 'fixed':
            assert not tuned_ids(model)
        wrapped = DistributedDataParallel(_Logits(model))
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            wrapped(*inputs(seed=rank)).square().mean().backward()
            optimizer.step()
        weights = torch.cat([value.detach().flatten() for value in model.parameters() if value.requires_grad])
        both = [torch.empty_like(weights) for _ in range(2)]
        dist.all_gather(both, weights)
        results.put((rank, name, bool(torch.equal(*both)), bool(weights.isfinite().all())))
    end_processes()


class _Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, tokens):
        return self.model.forward_logits(images, tokens)


@pytest.mark.processes
def test_two_processes_learn_the_same():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context('spawn')
    results = context.SimpleQueue()
    processes = torch.multiprocessing.spawn(_two_processes, (port, results), nprocs=2, join=False)
    seen = {}
    while not processes.join(timeout=1) or not results.empty():
        while not results.empty():
            rank, name, same, finite = results.get()
            seen[rank, name] = same and finite
    assert seen == {(rank, name): True for rank in range(2) for name in CASES}
