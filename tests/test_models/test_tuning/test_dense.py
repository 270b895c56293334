"""Dense adapters: the published formula by hand, what is trained, what a checkpoint holds, mistakes."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn import functional as F

from mmetris import tokenize
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.models.tuning.dense import ConvUnit, DenseConvs, ReadingBranch, SequenceBranch, WordAttention
from mmetris.registry import MODELS
from mmetris.utils.param_count import count_parameters
from tests.toy import DINOV2, TEXT_CFG, build, build_model, randn, text_first_cfg

TOKENS = tokenize(['the left dog', 'a cat'], 17)
IMAGES = randn(2, 3, 64, 64)


def shaken(module, seed=0):
    """Random weights and statistics everywhere, in evaluation mode."""
    with torch.no_grad():
        for index, value in enumerate(module.state_dict().values()):
            if value.is_floating_point():
                value.copy_(0.3 * randn(*value.shape, seed=seed + index).abs() + 0.05)
                value.mul_(randn(*value.shape, seed=99 + index).sign() if value.dim() > 1 else 1)
    return module.eval()


def unit(x, weights, conv, dims):
    """Convolution with bias, BatchNorm with eps 1e-3, ReLU, written out."""
    x = conv(x, weights['conv.weight'], weights['conv.bias'], padding=weights['conv.weight'].shape[-1] // 2)
    shape = (1, -1) + (1,) * dims
    mean, var = weights['norm.running_mean'].view(shape), weights['norm.running_var'].view(shape)
    x = (x - mean) / (var + 1e-3).sqrt() * weights['norm.weight'].view(shape) + weights['norm.bias'].view(shape)
    return x.clamp(min=0)


def dense(x, state, conv, dims):
    def at(name):
        return {key.removeprefix(f'{name}.'): value for key, value in state.items() if key.startswith(f'{name}.')}

    first = unit(x, at('first'), conv, dims)
    second = unit(unit(torch.cat([x, first], 1), at('second.0'), conv, dims), at('second.1'), conv, dims)
    third = torch.cat([x, first, second], 1)
    third = unit(unit(third, at('third.0'), conv, dims), at('third.1'), conv, dims)
    return torch.cat([first, second, third], 1)


@pytest.mark.parametrize('dims, shape', [(1, (2, 32, 7)), (2, (2, 32, 3, 5))])
@torch.no_grad()
def test_branches_read_all_before_them(dims, shape):
    """b1 = CBR1(m); b2 = CBR3(CBR1([m, b1])); b3 = CBR5(CBR1([m, b1, b2]))."""
    convs = shaken(DenseConvs(32, dims))
    expected = dense(randn(*shape), convs.state_dict(), (F.conv1d, F.conv2d)[dims - 1], dims)
    torch.testing.assert_close(convs(randn(*shape)), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_text_adapters_leave_the_first_token_out_of_the_convolutions():
    """scale * up([h_1, dense(h_2...)] + h), h = relu(down(x)): no shortcut around the convolutions but that of h."""
    branch = shaken(SequenceBranch(24, 16, 0.2))
    x = randn(2, 9, 24)
    hidden = F.linear(x, branch.down.weight, branch.down.bias).clamp(min=0)
    convolved = dense(hidden[:, 1:].transpose(1, 2), branch.convs.state_dict(), F.conv1d, 1).transpose(1, 2)
    summed = torch.cat([2 * hidden[:, :1], convolved + hidden[:, 1:]], 1)
    expected = 0.2 * F.linear(summed, branch.up.weight, branch.up.bias)
    torch.testing.assert_close(branch(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_image_adapters_put_what_patches_find_in_the_words_in_their_place():
    """scale * up([h of the first tokens, attention(dense(m) + m, words)] + h), m the patches of h."""
    words = WordAttention(16, 10, 12, 3, 0.1)
    branch = shaken(ReadingBranch(24, 16, 0.2, words))
    x, text, grid = randn(2, 3 + 10, 24), randn(2, 4, 10, seed=1), (2, 5)
    hidden = F.linear(x, branch.down.weight, branch.down.bias).clamp(min=0)
    patches = hidden[:, 3:].transpose(1, 2).reshape(2, 16, *grid)
    patches = (dense(patches, branch.convs.state_dict(), F.conv2d, 2) + patches).flatten(2).transpose(1, 2)
    queries = F.linear(patches, words.patches_in.weight, words.patches_in.bias)
    keys = F.linear(text, words.words_in.weight, words.words_in.bias)
    weights, biases = words.attention.in_proj_weight.chunk(3), words.attention.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(one, weight, bias).reshape(2, -1, 3, 4).transpose(1, 2)
        for one, weight, bias in zip((queries, keys, keys), weights, biases)
    )
    attended = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
    attended = F.linear(attended, words.attention.out_proj.weight, words.attention.out_proj.bias)
    found = F.linear(attended, words.patches_out.weight, words.patches_out.bias)
    expected = 0.2 * F.linear(torch.cat([hidden[:, :3], found], 1) + hidden, branch.up.weight, branch.up.bias)
    torch.testing.assert_close(branch(x, text, grid), expected, rtol=1e-5, atol=1e-5)


def test_initial_weights_are_kaimings():
    branch = SequenceBranch(512, 256, 0.2)
    for module in branch.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            assert module.bias.abs().sum() == 0
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
    assert isinstance(branch.convs.first, ConvUnit) and branch.convs.first.norm.eps == 1e-3


@torch.no_grad()
def test_they_stand_inside_the_scale_and_beside_the_network():
    """Image: x + ls2(mlp(norm2 x) + A(norm2 x, words)); text: x + mlp(ln_2 x) + T(x)."""
    model = build(text_first_cfg()).eval()
    block, branch = model.backbone.tower.blocks[1], model.backbone.tuning['aligner'].branches['1']
    block.ls2.gamma.copy_(randn(32))
    x, words = randn(1, 1 + 2 + 6, 32), randn(1, 5, 16)
    after = x + block.ls1(block.attn(block.norm1(x)))
    normed = block.norm2(after)
    plain = block.mlp.fc2(block.mlp.act(block.mlp.fc1(normed)))
    expected = after + block.ls2.gamma * (plain + branch(normed, words, (2, 3)))
    torch.testing.assert_close(block(x, words, (2, 3)), expected, rtol=1e-5, atol=1e-5)
    block, branch = (
        model.text_encoder.tower.transformer.resblocks[1],
        model.text_encoder.tuning['adapter'].branches['1'],
    )
    x = randn(1, 6, 16)
    after = x + block.attn(block.ln_1(x), block.ln_1(x), block.ln_1(x))[0]
    bare = build_model('vit').text_encoder.tower.transformer.resblocks[1]
    bare.load_state_dict(block.state_dict())
    expected = after + bare.mlp(bare.ln_2(after)) + branch(after)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_counts_by_hand():
    """Of each convolution its weights, and bias and normalisation of each channel."""
    model = build(text_first_cfg())

    def convs(dims):
        units = ((16, 8, 1), (24, 1, 1), (1, 4, 3), (28, 1, 1), (1, 4, 5))
        return sum(one * other * side**dims + 3 * other for one, other, side in units)

    attention = 16 * 12 + 12 + 16 * 12 + 12 + 4 * 12 * 12 + 4 * 12 + 12 * 16 + 16
    image = 2 * (2 * 32 * 16 + 32 + 16 + convs(2) + attention)
    text = 2 * (2 * 16 * 16 + 16 + 16 + convs(1))
    assert count_parameters(model)['tuning'] == image + text
    assert count_parameters(model)['backbone_tunable'] == 0


def test_steps_train_the_adapters_and_leave_both_towers_as_they_are():
    model = build(text_first_cfg()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tuned = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(tuned, lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model.forward_logits(IMAGES, TOKENS).square().mean().backward()
        assert all(value.grad is not None for value in tuned)
        optimizer.step()
    for side in ('backbone', 'text_encoder'):
        encoder = getattr(model, side)
        for key, value in encoder.state_dict().items():
            moved = not torch.equal(value, before[f'{side}.{key}'])
            assert moved == key.startswith('tuning.'), key
        assert not encoder.tower.training and encoder.tuning.training


def test_gradients_under_autocast_are_near_those_without():
    model = build(text_first_cfg(aligner=dict(dropout=0.0))).eval()
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss = model.forward_logits(IMAGES, TOKENS).float().square().mean()
        loss.backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.98


def weights_of(folder):
    """Files of a CLIP and a DINOv2 with random weights."""
    source = build(text_first_cfg(), seed=5)
    torch.save(dict(source.backbone.tower.state_dict()), folder / 'dinov2.pth')
    clip = build_model('vit', seed=6)
    visual = {f'visual.{key}': value for key, value in clip.backbone.tower.state_dict().items()}
    torch.save(visual | clip.text_encoder.tower.state_dict(), folder / 'clip.pth')
    return dict(dinov2=str(folder / 'dinov2.pth'), clip=str(folder / 'clip.pth'))


def on_files(files, seed=0, **kwargs):
    cfg = text_first_cfg(**kwargs)
    cfg['backbone']['checkpoint'] = files['dinov2']
    cfg['text_encoder']['clip_checkpoint'] = files['clip']
    model = build(cfg, seed).eval()
    model.init_weights()
    return model


def test_a_slim_file_holds_the_adapters_and_gives_the_same_predictions(tmp_path):
    files = weights_of(tmp_path)
    model = on_files(files)
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    assert not any('.tower.' in key for key in state)
    assert {key for key in state if key.endswith('fingerprint')} == {
        'backbone.clip_fingerprint',
        'text_encoder.clip_fingerprint',
    }
    other = on_files(files, seed=1)
    other.load_state_dict(dict(state))
    with torch.no_grad():
        assert torch.equal(other.forward_logits(IMAGES, TOKENS), model.forward_logits(IMAGES, TOKENS))
    with pytest.raises(ValueError, match=r'num_heads=3.*num_heads=2'):
        on_files(files, aligner=dict(num_heads=2)).load_state_dict(dict(state))
    with torch.no_grad():
        other.backbone.tower.cls_token += 1
    with pytest.raises(ValueError, match='Let checkpoint of that encoder'):
        other.load_state_dict(dict(state))


@pytest.mark.parametrize(
    'change, match',
    [
        (dict(aligner=dict(channels=20)), 'channels=20 of DenseAligner must be a multiple of 16'),
        (dict(adapter=dict(channels=0)), 'channels=0 of DenseTextAdapter must be a multiple of 16'),
        (dict(aligner=dict(layers=(1, 4))), r'layers=\(1, 4\) of DenseAligner .* of the 4 blocks of the image encoder'),
        (dict(adapter=dict(layers=(1, 1))), r'layers=\(1, 1\) of DenseTextAdapter must be different numbers'),
        (dict(adapter=dict(layers=())), r'layers=\(\) of DenseTextAdapter'),
        (dict(aligner=dict(num_heads=5)), 'align_dims=12 of DenseAligner must be a multiple of num_heads=5'),
    ],
)
def test_mistakes_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        build(text_first_cfg(**change))


def test_each_is_for_its_side_and_says_so():
    init_default_scope('mmetris')
    aligner, adapter = dict(one=dict(type='DenseAligner')), dict(one=dict(type='DenseTextAdapter'))
    arch = dict(embed_dim=24, vision_cfg={}, text_cfg=TEXT_CFG)
    with pytest.raises(ValueError, match='CLIPTextEncoder hands none to them; DINOv2ViT does'):
        MODELS.build(dict(type='CLIPTextEncoder', arch=arch, quick_gelu=True, tuning=aligner))
    with pytest.raises(ValueError, match='DenseTextAdapter is for text, and DINOv2ViT reads images; use DenseAligner'):
        MODELS.build(dict(type='DINOv2ViT', arch=DINOV2, tuning=adapter))
    with pytest.raises(ValueError, match='CLIPViT hands none to them'):
        build_model('vit', backbone=dict(tuning=aligner))


def test_the_published_sizes():
    """One adapter of each kind of the base model and of the large one."""
    for width, published in ((768, 382896), (1024, 448688)):
        with torch.device('meta'):
            branch = ReadingBranch(width, 128, 0.2, WordAttention(128, 512, 128, 8, 0.1))
        assert sum(value.numel() for value in branch.parameters()) == published
    with torch.device('meta'):
        assert sum(value.numel() for value in SequenceBranch(512, 64, 0.2).parameters()) == 69720
