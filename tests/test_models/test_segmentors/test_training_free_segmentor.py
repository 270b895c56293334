"""TrainingFreeSegmentor: class logits against the formulas, windows against MMSeg's, heat maps of sentences."""

import pytest
import torch
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from mmetris import tokenize
from mmetris.models.segmentors.training_free_segmentor import windows_of
from mmetris.structures import Vocabulary
from tests import toy, toy_training_free
from tests.toy_training_free import CLASSES, plain_class_logits, plain_resnet, plain_vit

TEXT = ['the man in red']
SLIDE = dict(mode='slide', crop_size=(32, 32), stride=(16, 24))


@pytest.fixture(scope='module')
def sliding():
    return toy_training_free.build(test_cfg=SLIDE)


@torch.no_grad()
def test_class_logits_are_forty_times_the_cosine_with_the_mean_of_the_templates():
    """Of the best name of a class, for ViT and ResNet."""
    image = toy.randn(3, 64, 64)
    for kind in ('vit', 'resnet'):
        model = toy_training_free.build(kind)
        tower = model.backbone.tower
        feature_map = plain_vit(tower, image, 'sclip', True) if kind == 'vit' else plain_resnet(tower, image)
        expected = plain_class_logits(model, feature_map)
        torch.testing.assert_close(model.class_logits(image[None])[0], expected, rtol=1e-4, atol=1e-3)
        # Bilinear, each cell at the middle of its pixels.
        enlarged = F.interpolate(expected[None], scale_factor=64 // expected.shape[-1], mode='bilinear')
        torch.testing.assert_close(model.inference(image[None], [{}]), enlarged, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_windows_are_mmsegs_sliding_inference(sliding):
    images = toy.randn(2, 3, 40, 72)
    metas = [dict(ori_shape=(40, 72))] * 2
    expected = EncoderDecoder.slide_inference(sliding, images, metas)
    assert torch.equal(sliding.inference(images, metas), expected)
    assert torch.equal(sliding.inference(sliding.encode_windows(images), metas), expected)
    assert [[(side.start, side.stop) for side in box] for box in windows_of((40, 72), (32, 32), (16, 24))] == [
        [rows, columns] for rows in ((0, 32), (8, 40)) for columns in ((0, 32), (24, 56), (40, 72))
    ]
    assert windows_of((24, 32), (32, 32), (16, 16)) == [(slice(0, 24), slice(0, 32))]


@torch.no_grad()
def test_a_sentences_heat_map_is_its_cosine_stretched_over_the_picture(sliding):
    """The right third of the input is padding, which plays no part; the mask is what is above the middle."""
    images, texts = toy.randn(2, 3, 40, 72), ['the man in red', 'a dog', 'grass']
    tokens = tokenize(texts, 77)
    logits, scores = sliding.forward_answers(images, tokens, torch.tensor([1, 0, 1]))
    assert logits.shape == (3, 1, 40, 72) and scores is None
    vectors = F.normalize(sliding.text_encoder(tokens)[1], dim=-1)
    total, count = torch.zeros(40, 72), torch.zeros(40, 72)
    for rows, columns in windows_of((40, 72), (32, 32), (16, 24)):
        pixels = F.normalize(sliding.backbone(images[1:, :, rows, columns])[0][0], dim=0)
        cosine = torch.einsum('chw,c->hw', pixels, vectors[0])
        total[rows, columns] += F.interpolate(cosine[None, None], size=(32, 32), mode='bilinear')[0, 0]
        count[rows, columns] += 1
    torch.testing.assert_close(logits[0, 0] / 40, total / count, rtol=1e-4, atol=1e-5)

    sample = SegDataSample(metainfo=dict(ori_shape=(40, 48), img_padding_size=(0, 24, 0, 0)))
    (predicted,) = sliding.postprocess_result(logits[:1], [sample], (40, 72), None)
    inside = (total / count)[:, :48]
    heat = (inside - inside.min()) / (inside.max() - inside.min())
    torch.testing.assert_close(predicted.seg_logits.data[0].sigmoid(), heat, rtol=1e-3, atol=1e-3)
    assert (predicted.pred_sem_seg.data[0] != (heat > 0.5)).float().mean() < 1e-3


def test_where_all_pixels_are_alike_nothing_is_warm(sliding):
    (sample,) = sliding.decode_head.heat_maps(torch.full((1, 1, 8, 8), 3.0))
    assert not sample.pred_sem_seg.data.any() and sample.seg_logits.data.sigmoid().max() < 1e-5


@torch.no_grad()
def test_a_less_precise_type_changes_logits_a_little():
    """Vectors of names are kept in full precision; logits are float32 in any case."""
    image, tokens = toy.randn(1, 3, 40, 72), tokenize(TEXT, 77)
    for attention in ('sclip', 'naclip'):
        full, lowered = (
            toy_training_free.build(backbone=dict(attention=attention), test_cfg=SLIDE | dict(dtype=dtype))
            for dtype in ('float32', 'bfloat16')
        )
        for answer in (lambda model: model.inference(image), lambda model: model.forward_answers(image, tokens)[0]):
            assert answer(lowered).dtype == torch.float32
            assert 0 < (answer(lowered) - answer(full)).abs().max() < 2  # Of logits up to 40.


@torch.no_grad()
def test_vectors_of_names_are_clips_zero_shot_classifier(sliding):
    encoder = sliding.text_encoder
    names = ['dog', 'cat', 'the kitten', 'grass']
    sentences = [template.format(name) for name in names for template in toy_training_free.TEMPLATES]
    features = F.normalize(encoder(tokenize(sentences, 77))[1], dim=-1).unflatten(0, (4, 3)).mean(1)
    text = encoder.for_names(torch.tensor([3, 1]))
    words, vectors = text.forward(text.ids(2))
    torch.testing.assert_close(vectors, F.normalize(features, dim=-1)[[3, 1]].expand(2, -1, -1))
    assert words.shape == vectors.shape and encoder.stage_features()[0] is encoder.stage_features()[0]


@torch.no_grad()
def test_other_classes_need_no_training_and_a_background_a_cosine():
    model = toy_training_free.build(background_cosine=0.3)
    image = toy.randn(1, 3, 32, 48)
    plain = model.class_logits(image)
    model.set_vocabulary(dict(classes=['nothing', *CLASSES], templates=toy_training_free.TEMPLATES, background=0))
    torch.testing.assert_close(model.class_logits(image), torch.cat([0 * plain[:, :1], plain - 40 * 0.3], dim=1))
    model.set_vocabulary(Vocabulary.build(CLASSES, toy_training_free.TEMPLATES))
    torch.testing.assert_close(model.class_logits(image), plain)
    assert not [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_weights_are_read_by_the_first_picture_if_nobody_read_them(tmp_path):
    """MMEngine's test of a model without checkpoint asks for none; and a state dict counts as read."""
    path = str(tmp_path / 'clip.pth')
    own = toy.build(toy_training_free.model_cfg(), seed=5)
    weights = {f'visual.{key}': value for key, value in own.backbone.tower.state_dict().items()}
    torch.save(weights | dict(own.text_encoder.tower.state_dict()), path)
    model = toy.build(toy_training_free.model_cfg(dual_encoder=dict(arch=toy.VIT, clip_checkpoint=path))).eval()
    image = toy.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.inference(image), own.eval().inference(image))
    missing = dict(arch=toy.VIT, clip_checkpoint=str(tmp_path / 'missing.pt'))
    loaded = toy.build(toy_training_free.model_cfg(dual_encoder=missing)).eval()
    with pytest.raises(FileNotFoundError, match=r'missing\.pt'):
        loaded.encode_windows(image)
    loaded.load_state_dict(own.state_dict())
    loaded.encode_windows(image)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(vocabulary=dict(classes=['sky', 'dog'], background=0)), 'background=0: that class has no text'),
        (dict(vocabulary=dict(classes=['dog'])), 'needs at least two classes'),
        (dict(background_cosine=2), 'background_cosine=2 must be between -1 and 1'),
        (dict(test_cfg=dict(SLIDE, crop_size=(36, 32))), 'crop_size=(36, 32) must be multiples of 8'),
        (dict(test_cfg=dict(mode='slide')), 'needs crop_size and stride'),
        (dict(held_out=['dog']), 'held_out is an argument of a ClassNameSegmentor'),
        (dict(text_encoder=dict(type='ClassText')), "text_encoder.type='ClassText'"),
        (dict(decode_head=dict(threshold=1.5)), 'threshold'),
        (dict(decode_head=dict(logit_scale=0)), 'logit_scale=0 must be positive'),
        (dict(backbone=dict(arch=toy.VIT | dict(embed_dim=32))), '32 channels and the text 24'),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError) as error:
        toy.build(toy_training_free.model_cfg(**changes))
    assert message in str(error.value)


def test_there_is_nothing_to_train(sliding):
    with pytest.raises(RuntimeError, match='nothing to train'):
        sliding(toy.randn(1, 3, 32, 32), [SegDataSample()], mode='loss')
