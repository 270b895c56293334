"""timm's towers inside open_clip's dual encoders: open_clip's own features, any size, the whole seam, refusals."""

from __future__ import annotations

import copy

import open_clip
import pytest
import timm
import torch
from mmengine.structures import PixelData
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from mmetris import tokenize
from mmetris.deployment import WholeModel
from mmetris.engine.activation_checkpointing import checkpoint_activations
from mmetris.models.clip import DualEncoder, resolve_arch
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.structures import RefDataSample
from tests.toy import build, randn
from tests.toy_timm import CONV_NETS, FAMILIES, TOWERS, encoder_cfg, register_tower, timm_model_cfg

CLOSE = dict(rtol=1e-5, atol=1e-5)
TRAINED = ('siglip', 'siglip2', 'eva', 'convnext', 'mobileclip')
TOKENS = tokenize(['the left dog', 'a cat', 'the right one of two'], 17)


def open_clips(family):
    """open_clip's own model with random weights, none of them zero or one."""
    kind = open_clip.CLIP if family == 'convnext' else open_clip.CustomTextCLIP
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(**FAMILIES[family], quick_gelu=False).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
    return model


def last_state(encoder, images):
    state = encoder.stem(images)
    for index in range(1, encoder.num_stages + 1):
        state = encoder.stage(index, state)
    return state


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_features_are_open_clips(family):
    model = open_clips(family)
    encoder = build(encoder_cfg(family, out_stages=(1, 2, 3, 4))).eval()
    encoder.tower.load_state_dict(model.visual.state_dict())
    images = randn(2, 3, 64, 64)
    maps, state = encoder(images), last_state(encoder, images)
    assert [(one.shape[1], 64 // one.shape[2]) for one in maps] == [tuple(spec) for spec in encoder.out_specs]
    torch.testing.assert_close(encoder.embedding(state), model.encode_image(images), **CLOSE)
    indices = None if family in CONV_NETS else [0, 1, 2, 3]
    expected = model.visual.forward_intermediates(images, indices=indices)['image_intermediates']
    for one, other in zip((*maps[:-1], encoder.feature_map(state)), expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    # The last map: each place by itself on the way on which open_clip sends the whole image.
    trunk, head = model.visual.trunk, model.visual.head
    if family in ('siglip', 'siglip2', 'pe'):
        cells = trunk.norm(expected[-1].flatten(2).transpose(1, 2))
    elif family in CONV_NETS:
        last = trunk.norm_pre(expected[-1]) if hasattr(trunk, 'norm_pre') else trunk.final_conv(expected[-1])
        single = last.permute(0, 2, 3, 1).reshape(-1, last.shape[1], 1, 1)  # Images of one cell.
        cells = head(trunk.head(single)).reshape(2, -1, 24)
    else:
        cells = head(trunk.head(trunk.norm(expected[-1].flatten(2).transpose(1, 2))))
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), cells, **CLOSE)
    if family == 'mobileclip':
        torch.testing.assert_close(maps[-1].mean((2, 3)), model.encode_image(images), **CLOSE)


@pytest.mark.parametrize('family', TRAINED)
@torch.no_grad()
def test_words_and_sentence_are_open_clips(family):
    model = open_clips(family)
    encoder = build(dict(type='CLIPTextEncoder', arch=FAMILIES[family])).eval()
    theirs = getattr(model, 'text', model)
    encoder.tower.load_state_dict(theirs.state_dict(), strict=theirs is not model)
    words, sentence = encoder(TOKENS)
    torch.testing.assert_close(sentence, model.encode_text(TOKENS), **CLOSE)
    last = model.forward_intermediates(text=TOKENS)['text_intermediates'][-1]
    torch.testing.assert_close(words, theirs.ln_final(last), **CLOSE)


@pytest.mark.parametrize('family', ['siglip', 'eva', 'pe'])
@torch.no_grad()
def test_on_other_grids_positions_are_timms(family):
    encoder = build(encoder_cfg(family)).eval()
    kind, sizes = TOWERS[FAMILIES[family]['vision_cfg']['timm_model_name']]
    pool = FAMILIES[family]['vision_cfg']['timm_pool']
    theirs = kind(**sizes, global_pool=pool, num_classes=0 if family == 'siglip' else 24, dynamic_img_size=True).eval()
    theirs.load_state_dict(encoder.trunk.state_dict())
    for height, width in ((64, 64), (32, 96), (128, 80)):
        images = randn(1, 3, height, width)
        expected = theirs.forward_intermediates(images, indices=[3], intermediates_only=True)[0]
        found = encoder.feature_map(last_state(encoder, images))
        torch.testing.assert_close(found, expected, **CLOSE)


NAMES = [
    'ViT-B-16-SigLIP',
    'EVA02-B-16',
    'PE-Core-T-16-384',
    'convnext_tiny',
    'MobileCLIP-S1',
    'vit_medium_patch16_gap_256',
]


@pytest.mark.parametrize('name', NAMES)
def test_published_towers_have_open_clips_keys_strides_and_normalisation(name):
    arch = resolve_arch(name)
    with torch.device('meta'):
        encoder = build(
            dict(type='CLIPTimmConvNet' if 'conv' in name or 'Mobile' in name else 'CLIPTimmViT', arch=name)
        )
        theirs = open_clip.create_model(name, pretrained=None, device='meta').visual
        maps = encoder(torch.zeros(1, 3, 224, 224))
    own = {key: value.shape for key, value in encoder.tower.state_dict().items()}
    assert own == {key: value.shape for key, value in theirs.state_dict().items()}
    assert [(one.shape[1], 224 // one.shape[2]) for one in maps] == [tuple(spec) for spec in encoder.out_specs]
    half, usual = ((0.5,) * 3,) * 2, (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    wanted = {'ViT-B-16-SigLIP': half, 'PE-Core-T-16-384': half, 'MobileCLIP-S1': ((0.0,) * 3, (1.0,) * 3)}
    assert (arch.mean, arch.std) == wanted.get(name, usual)
    for key, values in zip(('mean', 'std'), wanted.get(name, usual), strict=True):
        assert encoder.normalisation[key] == tuple(255 * value for value in values)
    sizes = dict(embed_dim=arch.embed_dim, vision_cfg=arch.vision, text_cfg=dict(arch.text, hf_tokenizer_name=None))
    by_sizes = DualEncoder.describe(sizes)  # Its tower says what images it was trained on.
    assert (by_sizes.mean, by_sizes.std, by_sizes.quick_gelu) == (arch.mean, arch.std, False)


def saved(family, folder):
    """open_clip's model in a file."""
    torch.save(open_clips(family).state_dict(), folder / f'{family}.pth')
    return str(folder / f'{family}.pth')


def samples_of(hw, count=2):
    mask = torch.zeros(1, *hw, dtype=torch.uint8)
    mask[:, 16:40, 8:50] = 1
    samples = []
    for expression in ('the red star', 'left of the blue ring')[:count]:
        sample = RefDataSample(metainfo=dict(expression=expression, img_shape=hw))
        sample.gt_sem_seg = PixelData(data=mask)
        samples.append(sample)
    return samples


@pytest.mark.parametrize('family', TRAINED)
def test_the_seam_holds_on_it(family, tmp_path):
    """Weights of a file, a training step, a slim file, shared images, prefix cache."""
    source = saved(family, tmp_path)
    cfg = timm_model_cfg(family, dual_encoder=dict(clip_checkpoint=source, quick_gelu=False))
    model = build(cfg)
    model.init_weights()
    theirs = open_clips(family)
    for own, other in ((model.backbone, theirs.visual), (model.text_encoder, getattr(theirs, 'text', theirs))):
        expected = other.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in own.tower.state_dict().items())

    # A step moves Bridger and head, and nothing of the encoders.
    model.train()
    frozen = {
        key: value.clone()
        for part in ('backbone', 'text_encoder')
        for key, value in getattr(model, part).state_dict(prefix=f'{part}.').items()
    }
    images = (randn(2, 3, 64, 96) * 50 + 120).clamp(0, 255)
    batch = model.data_preprocessor(dict(inputs=list(images), data_samples=samples_of((64, 96))), training=True)
    model.parse_losses(model(**batch, mode='loss'))[0].backward()
    tuned = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert all(value.grad is not None for value in tuned.values())
    assert not any(key.startswith(('backbone', 'text_encoder')) for key in tuned)
    torch.optim.SGD(tuned.values(), lr=0.1).step()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())

    # A slim file gives the same predictions; on other weights it is refused.
    model.eval()
    pictures, index = randn(2, 3, 64, 64), torch.tensor([0, 1, 1])
    with torch.no_grad():
        expected = model.forward_logits(pictures[index], TOKENS)
        torch.testing.assert_close(model.forward_logits(pictures, TOKENS, index), expected, rtol=1e-4, atol=1e-4)
    state = dict(model.state_dict())
    slim_state_dict(model, state)
    assert {key for key in state if key.startswith(('backbone', 'text_encoder'))} == {
        'backbone.clip_fingerprint',
        'text_encoder.clip_fingerprint',
    }
    twin = build(cfg, seed=1).eval()
    twin.load_state_dict(copy.copy(state))
    with torch.no_grad():
        torch.testing.assert_close(twin.forward_logits(pictures[index], TOKENS), expected, rtol=1e-6, atol=1e-6)
    other = open_clips(family)
    next(other.visual.parameters()).data += 1
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    stranger = build(
        timm_model_cfg(family, dual_encoder=dict(clip_checkpoint=str(tmp_path / 'other.pth'), quick_gelu=False))
    )
    stranger.init_weights()
    with pytest.raises(ValueError, match='this checkpoint holds only what was tuned, on the image encoder custom'):
        stranger.load_state_dict(copy.copy(state))

    # What precedes the first Bridger is read from the cache.
    cached = build(cfg | dict(prefix_cache=dict(dir=str(tmp_path / 'cache'), max_gb=1))).train()
    cached.init_weights()
    cached.load_state_dict(copy.copy(state))
    with torch.no_grad():
        for _ in range(2):
            torch.manual_seed(0)
            found = cached.bridge(pictures[index], TOKENS)
        torch.manual_seed(0)
        for one, two in zip(found.maps, twin.train().bridge(pictures[index], TOKENS).maps, strict=True):
            torch.testing.assert_close(one, two, **CLOSE)
    assert cached.prefix_cache.hits == 3
    twin.eval()


EXPORTED = dict(eva='rotary positions', mobileclip='a convolutional net')


@pytest.mark.parametrize('family', EXPORTED)
@torch.no_grad()
def test_exported_and_compiled_programs_compute_the_same(family):
    model = build(timm_model_cfg(family)).eval()
    images = (randn(3, 3, 64, 64) * 60 + 128).clamp(0, 255)
    whole = WholeModel(model, (64, 64))
    expected = whole(images, TOKENS)
    for one, other in zip(torch.export.export(whole, (images, TOKENS)).module()(images, TOKENS), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    model.neck.compile(backend='eager', fullgraph=True)  # It calls the encoders; the decoder is that of every model.
    for one, other in zip(whole(images, TOKENS), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


LORA = dict(type='LoRA', rank=2)
TUNINGS = dict(
    siglip=dict(
        adapter=dict(type='Adapter'),
        lora=dict(LORA, places='trunk.blocks.*.attn.qkv'),
        prompt=dict(type='PromptTokens', num_tokens=2, deep=True),
        bitfit=dict(type='BitFit'),
    ),
    eva=dict(
        adapter=dict(type='Adapter'),
        lora=dict(LORA, places='trunk.blocks.*.attn.[qv]_proj'),
        bitfit=dict(type='BitFit'),
    ),
    convnext=dict(conv=dict(type='ConvAdapter'), lora=dict(LORA, places='*.mlp.fc1'), bitfit=dict(type='BitFit')),
    mobileclip=dict(lora=dict(LORA, places='trunk.stages.3.blocks.*.token_mixer.*'), bitfit=dict(type='BitFit')),
)


@pytest.mark.parametrize('family', TUNINGS)
def test_methods_find_their_places_and_all_that_is_tuned_learns(family):
    model = build(timm_model_cfg(family, tuning=TUNINGS[family])).train()
    plain = build(timm_model_cfg(family)).train()
    model.load_state_dict(plain.state_dict(), strict=False)
    images = randn(3, 3, 64, 96)
    if family != 'siglip':  # Its prompts are another input.
        for own, other in zip(model.backbone(images), plain.backbone(images), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    for _ in range(2):  # What starts at zero holds back the gradient of what comes before it.
        model.zero_grad()
        model.forward_logits(images, TOKENS).square().mean().backward()
        torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.01).step()
    for key, method in model.backbone.tuning.items():
        asked = [value for value in method.tuned_parameters() if value.requires_grad]
        assert asked and all(value.grad is not None for value in asked), key
    if family == 'siglip':
        state = last_state(model.backbone, images)
        assert state.tokens.shape[1] == 2 + 4 * 6 and model.backbone.feature_map(state).shape[2:] == (4, 6)
        assert model.backbone.embedding(state).shape == (3, 32)


@pytest.mark.parametrize('family', ['siglip', 'mobileclip'])
def test_full_tuning_leaves_no_parameter_without_gradient_and_checkpointing_changes_none(family):
    gradients = []
    for checkpointed in (False, True):
        cfg = timm_model_cfg(family)
        cfg['backbone']['frozen'] = False
        model = build(cfg).eval()
        if checkpointed:
            parts = 'stages' if family in CONV_NETS else 'blocks'
            checkpoint_activations(model, [f'backbone.tower.trunk.{parts}.{index}' for index in range(4)])
        model.forward_logits(randn(3, 3, 64, 64), TOKENS).square().mean().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and any('backbone.tower' in key for key in gradients[0])
    for key, value in gradients[0].items():
        assert value is not None, key
        torch.testing.assert_close(gradients[1][key], value, rtol=1e-4, atol=1e-5)


def arch_with(**vision):
    return FAMILIES['eva'] | dict(vision_cfg=FAMILIES['eva']['vision_cfg'] | vision)


@pytest.mark.parametrize(
    'kind, arch, message',
    [
        ('CLIPViT', 'ViT-B-16-SigLIP', "timm's vit_base_patch16_siglip_224; use CLIPTimmViT, or CLIPTimmConvNet for"),
        ('CLIPResNet', 'convnext_base', 'CLIPResNet cannot be built.*use CLIPTimmViT, or CLIPTimmConvNet'),
        ('CLIPTimmViT', 'ViT-B-16', "CLIPTimmViT is for timm's towers.*'ViT-B-16' is CLIP's own; use CLIPViT"),
        ('CLIPTimmConvNet', 'RN50', 'CLIPTimmConvNet.*use CLIPResNet'),
        (
            'CLIPTimmViT',
            FAMILIES['convnext'],
            'is a ConvNeXt, no VisionTransformer or Eva; those of ConvNeXt and FastVit',
        ),
        ('CLIPTimmConvNet', FAMILIES['eva'], r'is a Eva, no ConvNeXt or FastVit; .*\(CLIPTimmViT\) can be cut too'),
        (
            'CLIPTimmViT',
            'ViTamin-B',
            r'vitamin_base_224 \(vitamin\), none of those that are cut in stages: ConvNeXt, EVA',
        ),
        ('CLIPTimmViT', 'MobileCLIP-B', r'vit_base_mci_224 \(vision_transformer_hybrid\), none of those'),
        ('CLIPTimmViT', arch_with(timm_model_name='nobodys_net'), 'nobodys_net, which this timm does not know'),
        ('CLIPTimmViT', arch_with(timm_pool='rot_attn'), "a pool for one size of images .timm_pool='rot_attn'"),
        ('CLIPTimmViT', arch_with(patch_dropout=0.5), 'patch_dropout would leave holes'),
        (
            'CLIPTimmViT',
            arch_with(timm_model_name='toy_swin', timm_pool='avg'),
            'is a SwinTransformer, no VisionTransformer or Eva',
        ),
        (
            'CLIPTimmViT',
            arch_with(timm_model_name='toy_mixed'),
            'rotary positions of another kind, RotaryEmbeddingMixed',
        ),
        ('CLIPTimmViT', arch_with(timm_model_name='toy_oblong'), r'patches of \(16, 8\), which are not square'),
        ('CLIPTimmViT', arch_with(timm_model_name='toy_hybrid'), 'makes its patches by a OwnPatches'),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(kind, arch, message):
    with pytest.raises(ValueError, match=message):
        build(dict(type=kind, arch=arch))


class OwnPatches(timm.layers.PatchEmbed):
    pass


@pytest.fixture(scope='module', autouse=True)
def strangers():
    """Towers that are not cut, known to timm."""
    swin = dict(img_size=64, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    kind, sizes = TOWERS['toy_eva']
    small = dict(img_size=64, embed_dim=16, depth=1, num_heads=2)
    register_tower('toy_swin', SwinTransformer, swin)
    register_tower('toy_mixed', kind, sizes | dict(rope_type='mixed', attn_type='rope', scale_attn_inner=False))
    register_tower('toy_oblong', VisionTransformer, dict(small, patch_size=(16, 8)))
    register_tower('toy_hybrid', VisionTransformer, dict(small, patch_size=16, embed_layer=OwnPatches))


def test_sizes_stages_and_prompts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match='CLIPTimmConvNet takes images whose height and width are multiples of 32'):
        build(encoder_cfg('mobileclip'))(randn(1, 3, 64, 80))
    with pytest.raises(ValueError, match="num_stages=3 of arch 'custom': its net has 4 stages"):
        build(encoder_cfg('convnext', num_stages=3))
    with pytest.raises(ValueError, match=r'image encoder custom\) has rotary positions.*LoRA, Adapter and BitFit'):
        build(encoder_cfg('eva', tuning=dict(prompt=dict(type='PromptTokens'))))
    with pytest.raises(ValueError, match="'trunk.patch_embed' is no place for a tuning method"):
        build(encoder_cfg('siglip', tuning=dict(adapter=dict(type='Adapter', places='trunk.patch_embed'))))
    with pytest.raises(ValueError, match='DenseAligner reads words .* CLIPTimmViT hands none'):
        build(encoder_cfg('siglip', tuning=dict(aligner=dict(type='DenseAligner'))))


def test_another_models_file_is_refused(tmp_path):
    source = saved('eva', tmp_path)
    model = build(timm_model_cfg('siglip', dual_encoder=dict(clip_checkpoint=source)))
    with pytest.raises(ValueError, match='does not fit the image encoder custom .*another image tower.*missing: trunk'):
        model.init_weights()
