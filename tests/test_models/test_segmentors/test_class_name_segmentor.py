"""ClassNameSegmentor: both ways from names to a segmentation, MMSeg's inference, training on classes."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmetris import tokenize
from mmetris.apis.model import load_weights
from mmetris.registry import MODELS
from tests import toy
from tests.test_models.test_segmentors.test_referring_segmentor import seen_types

CLASSES = ['background', 'cat', ['sofa', 'the couch'], 'traffic light']
VOCABULARY = dict(classes=CLASSES[1:])
WITH_BACKGROUND = dict(classes=CLASSES, background=0)


def model_cfg(kind='vit', vocabulary=None, decode_head=None, **kwargs):
    cfg = toy.model_cfg(kind, decode_head=decode_head)
    cfg.update(type='ClassNameSegmentor', vocabulary=vocabulary or VOCABULARY, **kwargs)
    cfg['text_encoder']['type'] = 'ClassText'
    return cfg


def build(*args, **kwargs):
    return toy.build(model_cfg(*args, **kwargs))


def sample(labels=None, hw=(64, 48), **meta):
    data_sample = SegDataSample(metainfo=dict(img_shape=hw, ori_shape=hw, pad_shape=hw, **meta))
    if labels is not None:
        data_sample.gt_sem_seg = PixelData(data=labels)
    return data_sample


def striped_labels(classes, hw=(64, 48)):
    """Horizontal stripes of the given classes, (1, H, W)."""
    return torch.tensor(classes).repeat_interleave(hw[0] // len(classes)).view(1, -1, 1).expand(1, *hw).clone()


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_per_class_logits_are_the_referring_models_for_each_name(kind):
    referring = toy.build_model(kind).eval()
    model = build(kind, text_mode='per_class', chunk_size=5).eval()
    load_weights(model, referring.state_dict())
    images = toy.randn(2, 3, 64, 96)
    asked = torch.cat(
        [
            referring.forward_logits(images, tokenize([name] * 2))
            for name in ('cat', 'sofa', 'the couch', 'traffic light')
        ],
        dim=1,
    )
    expected = torch.stack([asked[:, 0], asked[:, 1:3].amax(1), asked[:, 3]], dim=1)
    torch.testing.assert_close(model.class_logits(images), expected, rtol=0, atol=1e-4)


def test_templates_of_per_class_are_averaged():
    templates = ['a {}.', 'the {}']
    both = build(vocabulary=dict(VOCABULARY, templates=templates), text_mode='per_class').eval()
    images = toy.randn(1, 3, 64, 64)
    single = []
    for template in templates:
        both.set_vocabulary(dict(classes=['cat', 'sofa'], templates=[template]))
        single.append(both.class_logits(images))
    both.set_vocabulary(dict(classes=['cat', 'sofa'], templates=templates))
    torch.testing.assert_close(both.class_logits(images), torch.stack(single).mean(0))


@pytest.mark.parametrize('chunk_size', [1, 3, 100])
def test_the_size_of_chunks_changes_nothing(chunk_size):
    images = toy.randn(2, 3, 64, 64)
    expected = build(text_mode='per_class').eval().class_logits(images)
    chunked = build(text_mode='per_class', chunk_size=chunk_size).eval().class_logits(images)
    torch.testing.assert_close(chunked, expected)


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_joint_logits_do_not_depend_on_the_order_of_names(kind):
    model, images = build(kind).eval(), toy.randn(2, 3, 64, 96)
    logits = model.class_logits(images)
    model.set_vocabulary(dict(classes=VOCABULARY['classes'][::-1]))
    assert logits.shape[:2] == (2, 3) and logits.std() > 0
    torch.testing.assert_close(model.class_logits(images).flip(1), logits, rtol=1e-4, atol=1e-5)


def test_a_batch_of_two_equals_two_of_one():
    model, images = build().eval(), toy.randn(2, 3, 64, 64)
    apart = torch.cat([model.class_logits(image[None]) for image in images])
    torch.testing.assert_close(model.class_logits(images), apart, rtol=1e-4, atol=1e-5)


def test_every_part_of_the_decoder_can_be_left_out_of_joint():
    for part in ('hierarchical_alignment', 'global_alignment', 'projector'):
        assert build(decode_head={part: None}).eval().class_logits(toy.randn(1, 3, 64, 64)).shape[1] == 3


@pytest.mark.parametrize('text_mode', ['joint', 'per_class'])
def test_the_background_is_zero_at_its_index_and_the_others_count_from_its_logit(text_mode):
    images = toy.randn(1, 3, 64, 64)
    plain = build(text_mode=text_mode).eval().class_logits(images)
    model = build(
        vocabulary=dict(classes=['cat', ['sofa', 'the couch'], 'nothing', 'traffic light'], background=2),
        text_mode=text_mode,
    ).eval()
    model.background_logit.data.fill_(0.5)
    logits = model.class_logits(images)
    assert not logits[:, 2].any()
    torch.testing.assert_close(logits[:, [0, 1, 3]], plain - 0.5)


def test_another_vocabulary_needs_no_training_and_no_weights():
    model = build(vocabulary=WITH_BACKGROUND).eval()
    model.set_vocabulary(dict(classes='voc', background=0))
    assert model.out_channels == 21 and model.class_logits(toy.randn(1, 3, 64, 64)).shape[1] == 21
    model.set_vocabulary(dict(classes='cityscapes'))
    prediction = model.predict(toy.randn(1, 3, 64, 48), [sample()])[0]
    assert prediction.seg_logits.shape == (64, 48) and prediction.seg_logits.data.shape[0] == 19


def test_checkpoints_go_between_vocabularies_with_and_without_background():
    plain, with_background = build(), build(vocabulary=WITH_BACKGROUND)
    assert set(with_background.state_dict()) - set(plain.state_dict()) == {'background_logit'}
    load_weights(with_background, plain.state_dict())
    load_weights(plain, with_background.state_dict())


def test_whole_inference_is_mmsegs_up_to_masks_of_the_original_size():
    model = build().eval()
    meta = dict(img_padding_size=(0, 16, 0, 0), flip=True, flip_direction='horizontal')
    prediction = model.predict(toy.randn(1, 3, 64, 48), [sample(hw=(128, 64), **meta)])[0]
    assert prediction.pred_sem_seg.data.shape == (1, 128, 64)
    assert torch.equal(prediction.pred_sem_seg.data[0], prediction.seg_logits.data.argmax(0))


def test_sliding_over_one_window_is_whole_inference_and_windows_are_averaged():
    images = toy.randn(1, 3, 64, 96)
    whole = build().eval().predict(images, [sample(hw=(64, 96))])[0].seg_logits.data
    one = build(test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(32, 32))).eval()
    torch.testing.assert_close(one.predict(images, [sample(hw=(64, 96))])[0].seg_logits.data, whole)
    slide = build(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32))).eval()
    logits = slide.predict(images, [sample(hw=(64, 96))])[0].seg_logits.data
    left, right = (slide.encode_decode(images[..., start : start + 64]) for start in (0, 32))
    torch.testing.assert_close(logits[:, :, 32:64], (left[0, :, :, 32:] + right[0, :, :, :32]) / 2)


@pytest.mark.parametrize('text_mode', ['joint', 'per_class'])
@pytest.mark.parametrize('test_cfg', [dict(), dict(mode='slide', crop_size=(64, 64), stride=(32, 32))])
def test_predictions_are_computed_in_the_type_of_test_cfg(text_mode, test_cfg):
    images = toy.randn(1, 3, 64, 96)
    expected = build(text_mode=text_mode, test_cfg=test_cfg).eval().inference(images, [dict(ori_shape=(64, 96))])
    model = build(text_mode=text_mode, test_cfg=dict(test_cfg, dtype='bfloat16')).eval()
    # The names of mode 'joint' are encoded once and kept, in full precision whatever surrounds the first call.
    model.text_encoder.stage_features()
    seen = seen_types(model)
    logits = model.inference(images, [dict(ori_shape=(64, 96))])
    assert set(seen.values()) == {torch.bfloat16} and {name.split('.')[0] for name in seen} >= {
        'backbone',
        'neck',
        'decode_head',
    }
    assert logits.dtype == torch.float32 and 0 < (logits - expected).abs().max() < 0.25 * expected.std()


@pytest.mark.parametrize('text_mode', ['joint', 'per_class'])
def test_losses_do_not_heed_the_type_of_predictions(text_mode):
    images, samples = toy.randn(1, 3, 64, 48), [sample(striped_labels([0, 2]))]
    expected, lowered = (
        build(text_mode=text_mode, test_cfg=dict(dtype=dtype)).eval().loss(images, samples)
        for dtype in (None, 'bfloat16')
    )
    assert torch.equal(lowered['loss_ce'], expected['loss_ce'])


def test_mmsegs_test_time_augmentation_takes_the_model():
    init_default_scope('mmetris')
    model = build().eval()
    tta = MODELS.build(dict(type='SegTTAModel', module=model))
    meta = dict(img_path='picture.jpg')
    views = dict(inputs=[[toy.randn(3, 64, 48)], [toy.randn(3, 96, 64)]], data_samples=[[sample(**meta)]] * 2)
    prediction = tta.test_step(views)[0].pred_sem_seg.data
    assert prediction.shape[-2:] == (64, 48) and prediction.max() < 3


LOSSES = [
    None,
    dict(type='ClassMaskContrastiveLoss'),
    [dict(type='CrossEntropyLoss', avg_non_ignore=True), dict(type='ClassMaskContrastiveLoss', loss_weight=0.5)],
]


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('text_mode', ['joint', 'per_class'])
def test_losses_reach_exactly_what_is_tunable(loss, text_mode):
    """As DDP needs it: no tunable parameter without a gradient, the background's logit included."""
    head = {} if loss is None else dict(loss_decode=loss)
    model = build(vocabulary=WITH_BACKGROUND, decode_head=head, text_mode=text_mode).train()
    samples = [sample(striped_labels([0, 2])), sample(striped_labels([0, 255]))]
    total, log = model.parse_losses(model.loss(toy.randn(2, 3, 64, 48), samples))
    total.backward()
    assert torch.isfinite(total) and 0 <= log['acc_seg'] <= 100
    for name, parameter in model.named_parameters():
        tunable = name.startswith(('neck.', 'decode_head.', 'background_logit'))
        assert parameter.requires_grad == tunable and (parameter.grad is not None) == tunable, name
    assert model.background_logit.grad != 0


def test_training_learns_stripes():
    model = build(vocabulary=WITH_BACKGROUND).train()
    image = torch.full((1, 3, 64, 48), -1.0)
    image[:, 0, 32:] = 2
    samples = [sample(striped_labels([0, 3]))]
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    for _ in range(30):
        losses = model.loss(image, samples)
        optimizer.zero_grad()
        losses['loss_ce'].backward()
        optimizer.step()
    assert losses['acc_seg'] > 90
    predicted = model.eval().predict(image, [sample()])[0].pred_sem_seg.data
    assert (predicted == striped_labels([0, 3])).float().mean() > 0.85


def test_the_cap_keeps_what_is_present_and_draws_what_is_absent():
    model = build(vocabulary=dict(classes='voc', background=0), max_train_classes=6)
    labels = striped_labels([5, 255, 9, 2])
    drawn = [model._train_classes(labels) for _ in range(20)]
    assert all(len(classes) == 6 and {0, 2, 5, 9} <= set(classes) and sorted(classes) == classes for classes in drawn)
    assert len({tuple(classes) for classes in drawn}) > 1
    assert model._train_classes(striped_labels(list(range(1, 17)))) == list(range(17))


def test_the_loss_of_a_subset_is_that_of_a_vocabulary_with_these_classes(monkeypatch):
    model = build(vocabulary=WITH_BACKGROUND, max_train_classes=2).eval()
    small = build(vocabulary=dict(classes=['background', 'traffic light'], background=0)).eval()
    images = toy.randn(1, 3, 64, 48)
    capped = model.loss(images, [sample(striped_labels([0, 3]))])['loss_ce']
    torch.testing.assert_close(capped, small.loss(images, [sample(striped_labels([0, 1]))])['loss_ce'])


def test_held_out_classes_take_no_part_in_training_and_are_tested():
    model = build(vocabulary=WITH_BACKGROUND, held_out=['sofa'])
    assert model._train_classes(striped_labels([0, 2])) == [0, 1, 3]
    images = toy.randn(1, 3, 64, 48)
    ignored = model.eval().loss(images, [sample(striped_labels([0, 255]))])
    assert torch.equal(model.loss(images, [sample(striped_labels([0, 2]))])['loss_ce'], ignored['loss_ce'])
    assert model.class_logits(images).shape[1] == 4


def test_a_label_beyond_the_vocabulary_is_named():
    model = build()
    with pytest.raises(ValueError, match='label 3 .* the vocabulary has 3 classes.*reduce_zero_label'):
        model.loss(toy.randn(1, 3, 64, 48), [sample(striped_labels([0, 3]))])


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(text_mode='both'), "text_mode='both'"),
        (dict(chunk_size=0), 'chunk_size=0'),
        (dict(max_train_classes=1), 'max_train_classes=1'),
        (dict(held_out=['dog']), "held_out=.'dog'.* no classes"),
        (dict(held_out=['cat', 'sofa']), 'fewer than two classes'),
        (dict(test_cfg=dict(mode='windows')), "test_cfg.mode='windows'"),
        (dict(test_cfg=dict(mode='slide')), 'crop_size and stride'),
        (dict(test_cfg=dict(dtype='half')), "test_cfg.dtype='half' must be one of"),
        (dict(vocabulary=dict(classes='ade21k')), 'ade21k'),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(**wrong)


def test_a_text_encoder_that_knows_no_names_is_refused():
    cfg = copy.deepcopy(model_cfg())
    cfg['text_encoder']['type'] = 'CLIPTextEncoder'
    with pytest.raises(ValueError, match="'CLIPTextEncoder': class names need a ClassText"):
        toy.build(cfg)
