"""Contract of the tuning methods, one list for all of them, and the places that they are bound to."""

import copy

import pytest
import torch
from torch import nn

from mmetris import tokenize
from mmetris.engine.hooks.tunable_report_hook import iter_parts, tunable_report
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.models.tuning.places import add_after, add_parallel, add_to_projection, find_places
from mmetris.utils.param_count import count_parameters
from tests.test_models.test_encoders.test_slim_checkpoint import save_clip
from tests.toy import build, build_model, encoder_cfgs, model_cfg, randn

LORA = dict(type='LoRA', rank=2)
POOL_LORA = dict(type='LoRA', rank=2, attentions=(), linears=('attnpool.[qv]_proj',))
# What is tuned -> (kind of image encoder, tuning of its side, tuning of the text side).
CASES = dict(
    lora_vit=('vit', dict(lora=LORA), dict(lora=LORA)),
    lora_resnet=('resnet', dict(lora=POOL_LORA), dict(lora=LORA)),
    bitfit_vit=('vit', dict(bitfit=dict(type='BitFit')), dict(bitfit=dict(type='BitFit'))),
    bitfit_resnet=('resnet', dict(bitfit=dict(type='BitFit')), {}),
    prompts=('vit', dict(prompt=dict(type='PromptTokens', num_tokens=3)), dict(prompt=dict(type='PromptTokens'))),
    together=(
        'vit',
        dict(bitfit=dict(type='BitFit'), lora=LORA, prompt=dict(type='PromptTokens', num_tokens=2)),
        dict(lora=dict(LORA, projections=('q', 'k', 'v')), prompt=dict(type='PromptTokens', num_tokens=2)),
    ),
)
# Those that change nothing before training.
START_AT_ZERO = ('lora_vit', 'lora_resnet', 'bitfit_vit', 'bitfit_resnet')


def tuned_cfg(case, **kwargs):
    kind, image, text = CASES[case]
    cfg = model_cfg(kind, backbone=dict(tuning=image), **kwargs)
    cfg['text_encoder'].update(tuning=text)
    return cfg


def tuned_model(case, seed=0, **kwargs):
    return build(tuned_cfg(case, **kwargs), seed)


def inputs():
    return randn(2, 3, 64, 64), tokenize(['the left dog', 'a cat'], 17)


def same_weights(model, other):
    """Give a model the weights of another one, wherever it has them too."""
    missing, unexpected = model.load_state_dict(other.state_dict(), strict=False)
    assert not unexpected and all('.tuning.' in key for key in missing)
    return model


@pytest.mark.parametrize('case', START_AT_ZERO)
def test_what_starts_as_no_change_gives_the_encoders_own_features_exactly(case):
    plain = build_model(CASES[case][0]).eval()
    tuned = same_weights(tuned_model(case), plain).eval()
    with torch.no_grad():
        logits, expected = tuned.forward_logits(*inputs()), plain.forward_logits(*inputs())
    if case == 'bitfit_resnet':  # BatchNorm has a pass of its own where its bias is tuned.
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(logits, expected)


@pytest.mark.parametrize('case', CASES)
def test_clips_keys_stay_what_they_are(case):
    tuned, plain = tuned_model(case).state_dict(), build_model(CASES[case][0]).state_dict()
    assert set(plain) <= set(tuned) and all('.tuning.' in key for key in set(tuned) - set(plain))


@pytest.mark.parametrize('case', CASES)
def test_a_step_trains_all_that_is_tuned_and_nothing_else(case):
    model = tuned_model(case).train()
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    # Twice: what starts at zero holds back the gradient of what comes before it.
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        model.forward_logits(*inputs()).square().mean().backward()
        optimizer.step()
    tuned = {
        id(value)
        for part in (model.backbone, model.text_encoder)
        for method in part.tuning.values()
        for value in method.tuned_parameters()
    }
    for side in ('backbone', 'text_encoder'):
        encoder = getattr(model, side)
        for name, value in encoder.named_parameters():
            moved = not torch.equal(value, before[f'{side}.{name}'])
            assert value.requires_grad == (id(value) in tuned), name
            if id(value) not in tuned:
                assert not moved, name
            else:
                assert value.grad is not None, name
        assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in encoder.tuning.parameters()) or (
            'bitfit' in case or not encoder.tuning
        )
        for name, _ in encoder.tower.named_buffers():
            key = f'{side}.tower.{name}'
            assert key not in before or torch.equal(model.state_dict()[key], before[key]), name
        assert not any(module.training for module in encoder.tower.modules())
        assert all(module.training for module in encoder.tuning.modules())


@pytest.mark.parametrize('case', ['lora_vit', 'lora_resnet', 'together'])
def test_a_trained_update_takes_part_and_copies_go_their_own_way(case):
    model = tuned_model(case).eval()
    with torch.no_grad():
        before = model.forward_logits(*inputs())
        twin = copy.deepcopy(model)
        for name, value in twin.named_parameters():
            if '.tuning.' in name:
                value += 0.5
        assert not torch.allclose(twin.forward_logits(*inputs()), before, atol=1e-4)
        assert torch.equal(model.forward_logits(*inputs()), before)


@pytest.mark.parametrize('case', CASES)
def test_it_travels_in_slim_checkpoints_whose_fingerprint_is_that_of_the_plain_encoder(tmp_path, case):
    clip = save_clip(tmp_path / 'clip.pth', CASES[case][0])

    def on_clip(seed):
        cfg = tuned_cfg(case)
        cfg['backbone']['clip_checkpoint'] = cfg['text_encoder']['clip_checkpoint'] = clip
        model = build(cfg, seed).eval()
        model.init_weights()
        return model

    model, state = on_clip(0), {}
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn_like(value)
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    assert {key for key in state if '.tuning.' in key} == {key for key in model.state_dict() if '.tuning.' in key}
    other = on_clip(1)
    other.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(other.forward_logits(*inputs()), model.forward_logits(*inputs()))
    if 'bitfit' not in case and case != 'together':
        cfg = encoder_cfgs(CASES[case][0])[0] | dict(clip_checkpoint=clip)
        plain = build(cfg)
        plain.init_weights()
        assert plain.fingerprint().sha256 == model.backbone.fingerprint().sha256


def test_tables_name_each_method_and_count_each_parameter_once():
    model = tuned_model('together')
    parts = {name: sum(value.numel() for value in values) for name, _, values in iter_parts(model)}
    width, layers = 32, 4
    assert parts['backbone.tuning.lora'] == layers * 2 * 2 * 2 * width  # q and v, down and up, rank 2
    assert parts['backbone.tuning.prompt'] == 2 * width
    biases = sum(value.numel() for name, value in model.backbone.tower.named_parameters() if name.endswith('bias'))
    assert parts['backbone.tuning.bitfit'] == biases
    counts = count_parameters(model)
    assert counts['backbone_tunable'] == biases
    assert counts['tuning'] == parts['backbone.tuning.lora'] + parts['text_encoder.tuning.lora']
    assert counts['prompt'] == parts['backbone.tuning.prompt'] + parts['text_encoder.tuning.prompt']
    assert counts['total'] == sum(value.numel() for value in model.parameters()) == sum(parts.values())
    assert 'text_encoder.tuning.prompt' in tunable_report(model)


def test_the_paper_counts_eight_tokens_and_rank_one_lora():
    """Table 2: CoOp 4.10 thousand, LoRA 0.03 million (rank 1 on q and v of 12 text layers and of the pool)."""
    with torch.device('meta'):
        text = build(
            dict(
                type='CLIPTextEncoder',
                arch='RN101',
                tuning=dict(prompt=dict(type='PromptTokens'), lora=dict(type='LoRA', rank=1)),
            )
        )
        image = build(dict(type='CLIPResNet', arch='RN101', tuning=dict(lora=dict(POOL_LORA, rank=1))))
    assert sum(value.numel() for value in text.tuning['prompt'].parameters()) == 4096
    lora = [*text.tuning['lora'].parameters(), *image.tuning['lora'].parameters()]
    assert sum(value.numel() for value in lora) == 32_768


def test_prompts_stand_between_the_first_token_and_the_rest():
    model = tuned_model('prompts').eval()
    text, tokens = model.text_encoder, tokenize(['the left dog', 'a cat'], 17)
    words = text.embed(tokens)
    assert words.shape == (2, 17 + 8, 16)
    inserted = text.tuning['prompt'].tokens + text.tower.positional_embedding[1:9]
    torch.testing.assert_close(words[:, 1:9], inserted.expand(2, -1, -1))
    assert torch.equal(text.padding_mask(tokens).sum(1), 17 - (text.end_position(tokens) + 1))
    features = model.bridge(*inputs())
    assert features.words.shape[1] == features.padding_mask.shape[1] == 25
    with pytest.raises(ValueError, match='78 tokens are more than the 69 positions'):
        text.embed(torch.ones(1, 78, dtype=torch.long))
    state = model.backbone.stage(1, model.backbone.stem(randn(1, 3, 64, 64)))
    assert state.tokens.shape[1] == 1 + 3 + 64 and model.backbone.feature_map(state).shape == (1, 32, 8, 8)


def test_padding_changes_nothing_behind_prompts():
    model = tuned_model('prompts').eval()
    images = randn(1, 3, 64, 64)
    with torch.no_grad():
        short, long = (model.forward_logits(images, tokenize('the left dog', length)) for length in (8, 20))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='LoRA', attentions='blocks.*'), "'blocks.\\*' matches no module of class Attention"),
        (dict(type='LoRA', attentions=(), linears='transformer.*.c_fk'), 'c_fc'),
        (dict(type='LoRA', rank=0), 'rank=0'),
        (dict(type='LoRA', projections=('q', 'o')), "projections=.'o'."),
        (dict(type='LoRA', attentions=()), 'nothing to update'),
        (dict(type='BitFit', names='*offset'), "'\\*offset' matches no parameter"),
        (dict(type='PromptTokens', num_tokens=0), 'num_tokens=0'),
    ],
)
def test_what_fits_nowhere_is_refused_by_name(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(encoder_cfgs('vit')[0] | dict(tuning=dict(method=cfg)))


def test_a_resnet_has_no_tokens_for_prompts():
    with pytest.raises(ValueError, match='CLIPResNet has no tokens'):
        build(encoder_cfgs('resnet')[0] | dict(tuning=dict(prompt=dict(type='PromptTokens'))))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_places_by_hand():
    """After, parallel to one module, and parallel from one module to another one, which another thread may run too."""
    x = randn(4, 3)
    for place in ('after', 'parallel', 'across'):
        block, branch = Block(), nn.Linear(3, 3)
        first = torch.relu(block.first(x))
        expected = dict(
            after=block.second(torch.relu(branch(block.first(x)))),
            parallel=block.second(torch.relu(block.first(x) + branch(x))),
            across=block.second(first) + branch(x),
        )[place]
        if place == 'after':
            add_after(block.first, branch)
        else:
            add_parallel(block.first, branch, block.second if place == 'across' else None)
        torch.testing.assert_close(block(x), expected)
        torch.testing.assert_close(copy.deepcopy(block)(x), expected)
        assert set(block.state_dict()) == set(Block().state_dict())


def test_names_and_patterns_find_modules_in_order():
    tower = build(encoder_cfgs('vit')[0]).tower
    assert list(find_places(tower, 'transformer.resblocks.[02].mlp')) == [
        'transformer.resblocks.0.mlp',
        'transformer.resblocks.2.mlp',
    ]
    with pytest.raises(ValueError, match='near it are .*transformer.resblocks'):
        find_places(tower, 'transformer.resblock.0.mlp')
    with pytest.raises(ValueError, match='no projections that can be added to'):
        add_to_projection(nn.Linear(3, 3), 'q', nn.Linear(3, 3))


def test_updates_are_compiled_and_trained_under_autocast():
    model = tuned_model('together').train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.forward_logits(*inputs()).float().square().mean()
    loss.backward()
    model = model.eval()
    with torch.no_grad():
        expected = model.forward_logits(*inputs())
        model.neck.compile(backend='eager', fullgraph=True)
        torch.testing.assert_close(model.forward_logits(*inputs()), expected, rtol=1e-4, atol=1e-5)
