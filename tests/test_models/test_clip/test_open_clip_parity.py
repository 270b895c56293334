"""With the Bridger switched off, features are open_clip's own, for every kind of tower, activation and precision."""

import pytest
import torch
from open_clip import CLIP

from mmetris import tokenize
from tests.toy import ARCHS, build, model_cfg, randn

CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ARCHS)
@pytest.mark.parametrize('quick_gelu', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_features_without_bridger_are_open_clips(tmp_path, kind, quick_gelu, dtype):
    torch.manual_seed(0)
    clip = CLIP(**ARCHS[kind], quick_gelu=quick_gelu).eval()
    stored = {key: value.to(dtype) for key, value in clip.state_dict().items()}
    torch.save(stored, tmp_path / 'clip.pth')
    clip.load_state_dict({key: value.float() for key, value in stored.items()})

    source = dict(clip_checkpoint=str(tmp_path / 'clip.pth'), quick_gelu=quick_gelu)
    cfg = model_cfg(kind, neck=dict(stages=()), backbone=source)
    cfg['text_encoder'].update(source)
    model = build(cfg, seed=1).eval()
    model.init_weights()

    images, tokens = randn(2, 3, 64, 64), tokenize(['the left dog', 'a man in a red shirt'], 77)
    with torch.no_grad():
        features = model.extract_feat(images, tokens)
        indices = dict(vit=[1, 2], resnet=[2, 3])[kind]  # Of ViT blocks, of ResNet's stem and layers.
        expected = clip.visual.forward_intermediates(images, indices=indices, intermediates_only=True)
        for feature_map, other in zip(features.maps, expected['image_intermediates']):
            torch.testing.assert_close(feature_map, other, **CLOSE)
        torch.testing.assert_close(features.sentence, clip.encode_text(tokens), **CLOSE)
        torch.testing.assert_close(model.backbone.tower(images), clip.encode_image(images), **CLOSE)
        words = clip.transformer(clip.token_embedding(tokens) + clip.positional_embedding, attn_mask=clip.attn_mask)
        torch.testing.assert_close(features.words, clip.ln_final(words), **CLOSE)


@pytest.mark.parametrize('kind', ARCHS)
def test_the_other_activation_gives_other_features(tmp_path, kind):
    tokens = tokenize('the left dog', 77)
    features = []
    for quick_gelu in (True, False):
        cfg = model_cfg(kind, neck=dict(stages=()))
        for part in ('backbone', 'text_encoder'):
            cfg[part]['quick_gelu'] = quick_gelu
        with torch.no_grad():
            features.append(build(cfg, seed=1).eval().extract_feat(randn(1, 3, 64, 64), tokens).sentence)
    assert (features[0] - features[1]).abs().max() > 1e-4
