"""Values of the tuning methods against formulas worked out by hand, the places that they are bound to, and mistakes."""

import copy

import pytest
import torch
from torch import nn

from mmetris import tokenize
from mmetris.models import merge_tuning
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.models.tuning.places import add_after, add_in_series, add_parallel, add_to_projection, find_places
from tests.test_models.test_encoders.test_slim_checkpoint import save_clip
from tests.test_models.test_tuning.test_contract import inputs, shake
from tests.toy import build, build_model, encoder_cfgs, model_cfg, randn
from tests.toy_tuning import tuned_model

NINE_TEXT_LAYERS = ('transformer.resblocks.[3-9].mlp', 'transformer.resblocks.1[01].mlp')
ALL_CONVS = {f'layer[234].*.conv{index}': f'bn{index}' for index in (1, 2, 3)}


# Table 2's columns in the paper, and the placements that give them (docs/tuning.md).
@pytest.mark.parametrize(
    'image, text, count',
    [
        (dict(type='ConvAdapter'), None, 1_199_488),  # 1.20 M
        (dict(type='ConvAdapter'), dict(type='Adapter', places=NINE_TEXT_LAYERS, bias=False, norm=True), 2_388_352),
        (
            dict(type='Compacter', reduction=4, places=ALL_CONVS),
            dict(type='Compacter', reduction=4, places=NINE_TEXT_LAYERS),
            192_768,  # 0.19 M
        ),
        (dict(type='LoRA', rank=1), dict(type='LoRA', rank=1), 32_768),  # 0.03 M
        (None, dict(type='PromptTokens', num_tokens=8), 4096),  # 4.10 K
    ],
    ids=['conv adapter', 'adapter', 'compacter', 'lora', 'coop'],
)
def test_the_papers_counts(image, text, count):
    cfg = model_cfg('resnet')
    for part, method in (('backbone', image), ('text_encoder', text)):
        cfg[part] = dict(type=cfg[part]['type'], arch='RN101', tuning={} if method is None else dict(method=method))
    with torch.device('meta'):
        model = build(cfg)
    tuned = {
        id(value): value.numel() for part in (model.backbone, model.text_encoder) for value in part.tuning.parameters()
    }
    assert sum(tuned.values()) == count


def test_the_whole_clip_is_120_74_million():
    """Table 2, full tuning: RN101 with the released code's shortcut around the pool."""
    cfg = model_cfg('resnet')
    cfg['backbone'] = dict(type='CLIPResNet', arch='RN101', frozen=False, pool_shortcut=True)
    cfg['text_encoder'] = dict(type='CLIPTextEncoder', arch='RN101', frozen=False)
    with torch.device('meta'):
        model = build(cfg)
    tuned = sum(value.numel() for part in (model.backbone, model.text_encoder) for value in part.parameters())
    assert round(tuned / 1e6, 2) == 120.74


def test_an_adapter_by_hand():
    """Houlsby et al.: z + up(gelu(down(z))) of what attention and feed-forward network return."""
    encoder = build(encoder_cfgs('vit')[0] | dict(tuning=dict(a=dict(type='Adapter', places='ffn', norm=True)))).eval()
    shake(encoder)
    mlp = encoder.tower.transformer.resblocks[1].mlp
    down, _, _, up, norm = encoder.tuning['a'].branches['transformer_resblocks_1_mlp']
    x = randn(2, 65, 32)
    z = mlp.c_proj(mlp.gelu(mlp.c_fc(x)))
    torch.testing.assert_close(mlp(x), z + norm(up(torch.nn.functional.gelu(down(z)))))
    assert down.weight.shape == (8, 32) and up.weight.shape == (32, 8)


def test_a_conv_adapter_by_hand():
    """The branch reads what goes into conv2, and is added to what BatchNorm makes of its result, before the ReLU."""
    encoder = build(encoder_cfgs('resnet')[0] | dict(tuning=dict(c=dict(type='ConvAdapter')))).eval()
    for value in shake(encoder).tower.layer3[0].bn3.parameters():
        nn.init.ones_(value)
    block = encoder.tower.layer3[0]
    branch = encoder.tuning['c'].branches['layer3_0_conv2_to_bn2']
    x = randn(2, 64, 8, 8)
    inner = torch.relu(block.bn1(block.conv1(x)))
    added = branch.up_norm(branch.up(torch.relu(branch.down_norm(branch.down(inner)))))
    middle = torch.relu(
        nn.functional.batch_norm(
            nn.functional.conv2d(inner, block.conv2.weight, padding=1),
            block.bn2.running_mean,
            block.bn2.running_var,
            block.bn2.weight,
            block.bn2.bias,
        )
        + added
    )
    expected = torch.relu(block.bn3(block.conv3(block.avgpool(middle))) + block.downsample(x))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_hypercomplex_layer_by_hand():
    """W is the sum of n Kronecker products of the shared matrices and the layer's own of rank r."""
    encoder = build(
        encoder_cfgs('vit')[0] | dict(tuning=dict(c=dict(type='Compacter', reduction=2, n=4, rank=2, places='ffn')))
    )
    method = shake(encoder).tuning['c']
    layer = method.branches['transformer_resblocks_2_mlp'][0]
    expected = sum(
        torch.kron(rule, left @ right) for rule, left, right in zip(method.rule.weight, layer.left, layer.right)
    )
    assert expected.shape == (32, 16) and layer.left.shape == (4, 8, 2) and layer.right.shape == (4, 2, 4)
    x = randn(3, 5, 32)
    torch.testing.assert_close(layer(x), x @ expected + layer.bias)
    maps = randn(2, 32, 3, 5)
    by_pixel = layer(maps.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(layer(maps), by_pixel)


def test_deep_prompts_are_new_in_every_block():
    encoder = shake(
        build(
            encoder_cfgs('vit')[0]
            | dict(
                tuning=dict(
                    shallow=dict(type='PromptTokens', num_tokens=2),
                    deep=dict(type='PromptTokens', num_tokens=3, deep=True),
                )
            )
        )
    ).eval()
    seen = []
    for block in encoder.tower.transformer.resblocks:
        block.ln_1.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    encoder(randn(2, 3, 64, 64))
    deep, shallow = encoder.tuning['deep'].tokens, encoder.tuning['shallow'].tokens
    assert deep.shape == (4, 3, 32) and shallow.shape == (2, 32)
    for index, tokens in enumerate(seen):
        assert tokens.shape == (2, 1 + 2 + 3 + 64, 32)
        assert torch.equal(tokens[1, 3:6], deep[index])
        assert torch.equal(tokens[1, 1:3], shallow) == (index == 0)  # The shallow ones go through the blocks.


@pytest.mark.parametrize('name', ['lora', 'lora_resnet', 'lora_linear'])
def test_merged_updates_give_the_same_predictions_at_the_plain_models_cost(name, tmp_path):
    model = shake(tuned_model(name)).eval()
    with torch.no_grad():
        expected = model.forward_logits(*inputs())
        merged = copy.deepcopy(model)
        paths = merge_tuning(merged)
        torch.testing.assert_close(merged.forward_logits(*inputs()), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.forward_logits(*inputs()), expected)
    assert paths and all(path.endswith('.tuning.lora') for path in paths)
    plain = build_model(name.endswith('resnet') and 'resnet' or 'vit').eval()
    assert set(merged.state_dict()) == set(plain.state_dict())
    plain.load_state_dict(merged.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.forward_logits(*inputs()), merged.forward_logits(*inputs()))


def test_merged_weights_are_in_no_file_so_a_slim_checkpoint_is_refused(tmp_path):
    cfg = model_cfg('vit', backbone=dict(tuning=dict(lora=dict(type='LoRA'))))
    model = build(cfg | dict(dual_encoder=dict(clip_checkpoint=save_clip(tmp_path / 'clip.pth', 'vit'))))
    model.init_weights()
    merge_tuning(model)
    with pytest.raises(ValueError, match='frozen at random weights'):
        slim_state_dict(model, dict(model.state_dict()))


def test_what_cannot_be_merged_says_why_and_nothing_is_touched():
    model = tuned_model('together')
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='backbone.tuning.bitfit: BitFit is no linear change'):
        merge_tuning(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match='no tuning method to merge'):
        merge_tuning(build_model('vit'))
    late = dict(
        before=dict(type='Adapter', places='transformer.resblocks.0.mlp.c_fc', reduction=8),
        lora=dict(type='LoRA', places='transformer.resblocks.0.mlp.c_fc'),
    )
    encoder = build(encoder_cfgs('vit')[0] | dict(tuning=late))
    with pytest.raises(ValueError, match='another method changes the output before it is added. Name LoRA first'):
        encoder.tuning['lora'].check_mergeable()


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
    with pytest.raises(ValueError, match='78 tokens are more than the 69 positions of .*, beside 8 learnt ones; set'):
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
        (dict(type='LoRA', places='blocks.*'), "'blocks.\\*' matches no module of class Linear or MultiheadAttention"),
        (dict(type='LoRA', places='transformer.*.c_fk'), 'c_fc'),
        (dict(type='LoRA', rank=0), 'rank=0'),
        (dict(type='LoRA', rank=40), "rank=40 of LoRA exceeds the width of 'transformer.resblocks.0.attn.q', .* 32"),
        (dict(type='LoRA', projections=('q', 'o')), "projections=.'o'."),
        (dict(type='Adapter', places='conv'), "CLIPViT has no places of the role 'conv'; it has attention, ffn, block"),
        (dict(type='Adapter', reduction=5), 'reduction=5 of Adapter must divide the width of .*, which is 32'),
        (dict(type='Adapter', activation='tanh'), "activation='tanh'"),
        (dict(type='Adapter', places='transformer'), "'transformer' is no place .* one by one; name these"),
        (dict(type='Adapter', places={'conv1': 'bn1'}), "beside 'conv1' there is no module 'bn1'"),
        (dict(type='Adapter', places='transformer.resblocks.0.mlp.gelu'), 'is a .*, whose width cannot be told'),
        (dict(type='Compacter', reduction=16), 'bottleneck of the network at .* is 2 wide'),
        (dict(type='Compacter', reduction=4, n=3), 'input of the network at .* multiple of n=3'),
        (dict(type='Compacter', n=0), 'n=0'),
        (dict(type='BitFit', names='*offset'), "'\\*offset' matches no parameter"),
        (dict(type='PromptTokens', num_tokens=0), 'num_tokens=0'),
    ],
)
def test_what_fits_nowhere_is_refused_by_name(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(encoder_cfgs('vit')[0] | dict(tuning=dict(method=cfg)))


@pytest.mark.parametrize(
    'side, cfg, message',
    [
        ('resnet', dict(type='PromptTokens'), 'CLIPResNet .* has no tokens'),
        ('resnet', dict(type='Adapter'), "CLIPResNet has no places of the role 'ffn'; it has attention, conv"),
        ('resnet', dict(type='Adapter', places='conv', norm=True), 'makes maps: use ConvAdapter'),
        ('text', dict(type='ConvAdapter', places='ffn'), 'ConvAdapter is for images: in CLIPTextEncoder'),
        (
            'text',
            dict(type='PromptTokens', num_tokens=75),
            'num_tokens=75 .* no room for a sentence in the 77',
        ),
    ],
)
def test_what_has_no_meaning_for_an_encoder_says_so(side, cfg, message):
    encoder_cfg = encoder_cfgs('vit')[1] if side == 'text' else encoder_cfgs(side)[0]
    with pytest.raises(ValueError, match=message):
        build(encoder_cfg | dict(tuning=dict(method=cfg)))


def test_a_models_sentences_and_learnt_tokens_share_the_context():
    cfg = model_cfg('vit') | dict(context_length=17)
    cfg['text_encoder'].update(tuning=dict(prompt=dict(type='PromptTokens', num_tokens=70)))
    with pytest.raises(ValueError, match='context_length=17 of the model exceeds the 7 tokens'):
        build(cfg)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(tuning=dict(a=dict(type='LoRA'), b=dict(type='LoRA', rank=1))), "'.*attn.q' has a LoRA already"),
        (dict(frozen=False, tuning=dict(a=dict(type='BitFit'))), 'tuned already'),
        (dict(tuning=dict(a=dict(type='BitFit'), b=dict(type='BitFit', names='ln_post.bias'))), 'tuned already'),
    ],
)
def test_methods_that_cannot_be_combined(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(encoder_cfgs('vit')[0] | cfg)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_places_by_hand():
    """After, parallel to one module, and parallel from one module to another one, which another thread may run too."""
    x = randn(4, 3)
    for place in ('after', 'in series', 'parallel', 'across'):
        block, branch = Block(), nn.Linear(3, 3)
        first = torch.relu(block.first(x))
        expected = dict(
            after=block.second(torch.relu(branch(block.first(x)))),
            in_series=block.second(torch.relu(block.first(x) + branch(block.first(x)))),
            parallel=block.second(torch.relu(block.first(x) + branch(x))),
            across=block.second(first) + branch(x),
        )[place.replace(' ', '_')]
        plain = block(x)
        if place == 'after':
            handle = add_after(block.first, branch)
        elif place == 'in series':
            handle = add_in_series(block.first, branch)
        else:
            handle = add_parallel(block.first, branch, block.second if place == 'across' else None)
        torch.testing.assert_close(block(x), expected)
        torch.testing.assert_close(copy.deepcopy(block)(x), expected)
        assert set(block.state_dict()) == set(Block().state_dict())
        handle.remove()
        assert torch.equal(block(x), plain)


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
