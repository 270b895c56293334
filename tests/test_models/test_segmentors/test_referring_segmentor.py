"""ReferringSegmentor: the three modes of MMSeg's segmentors, and masks at original size."""

import copy

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmetris import tokenize
from mmetris.models.decode_heads.mask_prediction import at_input_size
from mmetris.structures import RefDataSample
from mmetris.utils.letterbox import letterbox_geometry
from tests.toy import build_model, randn

KINDS = ('vit', 'resnet')


def sample(text='the left dog', hw=(64, 64), tokens=True, **meta):
    data_sample = RefDataSample(metainfo=dict(expression=text, img_shape=hw, ori_shape=hw, **meta))
    mask = torch.zeros(1, *hw, dtype=torch.long)
    mask[:, : hw[0] // 2] = 1
    data_sample.gt_sem_seg = PixelData(data=mask)
    if tokens:
        data_sample.tokens = tokenize(text, 17)[0]
    return data_sample


def batch(hw=(64, 64), **kwargs):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *hw), generator=generator, dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=[sample('the left dog', hw, **kwargs), sample('a man', hw, **kwargs)])


@pytest.mark.parametrize('kind', KINDS)
def test_loss_gives_a_finite_loss_whose_gradient_reaches_exactly_what_is_tunable(kind):
    model = build_model(kind).train()
    losses = model(**model.data_preprocessor(batch(), training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        tunable = name.startswith(('neck.', 'decode_head.'))
        assert parameter.requires_grad == tunable and (parameter.grad is not None) == tunable, name


@pytest.mark.parametrize('kind', KINDS)
def test_training_moves_the_tunable_part_and_leaves_the_encoders_bit_equal(kind):
    model = build_model(kind).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='Adam', lr=1e-2)))
    first = model.train_step(batch(), optimizer)['loss']
    for _ in range(15):
        last = model.train_step(batch(), optimizer)['loss']
    assert last < first
    for name, value in model.state_dict().items():
        if name.startswith(('backbone.', 'text_encoder.')):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(model.neck.bridges['2'].words_in.weight, before['neck.bridges.2.words_in.weight'])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hw', [(64, 64), (96, 32)])
def test_logits_have_a_quarter_of_the_decoders_stride(kind, hw):
    model = build_model(kind).eval()
    stride = dict(vit=8, resnet=16)[kind] // 4
    assert model.forward_logits(randn(2, 3, *hw), tokenize(['a', 'b'], 17)).shape == (
        2,
        1,
        hw[0] // stride,
        hw[1] // stride,
    )


@pytest.mark.parametrize('kind', KINDS)
def test_tensor_mode_returns_what_forward_logits_does(kind):
    model = build_model(kind).eval()
    data = model.data_preprocessor(batch())
    tokens = torch.stack([item.tokens for item in data['data_samples']])
    assert torch.equal(model(**data, mode='tensor'), model.forward_logits(data['inputs'], tokens))


def test_predictions_have_the_original_size_and_agree_with_their_logits():
    model = build_model('vit').eval()
    data = batch((64, 48))
    for item, ori_hw in zip(data['data_samples'], [(101, 75), (64, 48)]):
        item.set_metainfo(dict(ori_shape=ori_hw))
    with torch.no_grad():
        results = model.test_step(data)
    for item, ori_hw in zip(results, [(101, 75), (64, 48)]):
        assert item.pred_sem_seg.data.shape == item.seg_logits.data.shape == (1, *ori_hw)
        assert item.pred_sem_seg.data.dtype == torch.uint8
        assert torch.equal(item.pred_sem_seg.data == 1, item.seg_logits.data.sigmoid() > model.decode_head.threshold)


def place(model, monkeypatch, logits):
    monkeypatch.setattr(model.decode_head, 'forward', lambda features: logits.expand(len(features.words), -1, -1, -1))


def test_letterboxing_is_undone(monkeypatch):
    """A mask drawn in the letterboxed frame comes back at its place in the original image."""
    model = build_model('vit').eval()
    geometry = letterbox_geometry((50, 100), (64, 64))
    logits = torch.full((1, 1, 64, 64), -9.0)
    logits[..., 16:48, :32] = 9  # The left half of the picture, which fills rows 16 to 48.
    place(model, monkeypatch, logits)
    item = sample()
    item.set_metainfo(dict(ori_shape=(50, 100), letterbox=tuple(geometry)))
    predicted = model.predict(randn(1, 3, 64, 64), [item])[0].pred_sem_seg.data[0].numpy()
    expected = np.zeros((50, 100))
    expected[:, :50] = 1
    assert (predicted != expected).mean() < 0.03


def test_padding_and_flip_are_undone(monkeypatch):
    model = build_model('vit').eval()
    logits = torch.full((1, 1, 64, 64), -9.0)
    logits[..., :16] = 9
    logits[..., 40:] = 9  # Padding: must not appear.
    place(model, monkeypatch, logits)
    item = sample()
    item.set_metainfo(dict(ori_shape=(64, 40), img_padding_size=(0, 24, 0, 0), flip=True, flip_direction='horizontal'))
    predicted = model.predict(randn(1, 3, 64, 64), [item])[0].pred_sem_seg.data[0]
    assert predicted[:, 24:].all() and not predicted[:, :23].any()


def test_sentences_are_tokenized_where_the_pipeline_did_not():
    model = build_model('vit').eval()
    with torch.no_grad():
        ours, plain = model.test_step(batch()), model.test_step(batch(tokens=False))
    for item, other in zip(ours, plain):
        torch.testing.assert_close(item.seg_logits.data, other.seg_logits.data, rtol=1e-3, atol=1e-4)


def test_a_sample_without_a_sentence_is_named():
    model = build_model('vit').eval()
    nameless = SegDataSample(metainfo=dict(img_path='photos/dog.jpg'))
    with pytest.raises(ValueError, match='no sentence for photos/dog.jpg.*meta_keys'):
        model.predict(randn(1, 3, 64, 64), [nameless])
    with pytest.raises(ValueError, match='they carry the sentences'):
        model.predict(randn(1, 3, 64, 64))


def test_test_batches_may_mix_image_sizes():
    model = build_model('vit').eval()
    data = dict(
        inputs=[torch.zeros(3, 64, 40, dtype=torch.uint8), torch.zeros(3, 50, 64, dtype=torch.uint8)],
        data_samples=[sample(hw=(64, 40)), sample(hw=(50, 64))],
    )
    processed = model.data_preprocessor(data)
    assert processed['inputs'].shape == (2, 3, 64, 64)
    with torch.no_grad():
        assert [item.pred_sem_seg.data.shape[1:] for item in model.test_step(data)] == [(64, 40), (50, 64)]


def test_images_become_clips():
    model = build_model('vit')
    blue = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 64, 64)  # BGR
    normalised = model.data_preprocessor(dict(inputs=[blue], data_samples=[sample()]))['inputs'][0, :, 0, 0]
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(normalised, (torch.tensor([0.0, 0.0, 1.0]) - mean) / std, rtol=1e-4, atol=1e-4)


def test_slide_inference_is_refused():
    from tests.toy import build, model_cfg

    with pytest.raises(ValueError, match="mode='slide'"):
        build(model_cfg('vit') | dict(test_cfg=dict(mode='slide')))


def seen_types(model):
    """Types of what each layer with weights computes from now on, by its name."""
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.dtype}))
    return seen


@pytest.mark.parametrize('kind', KINDS)
def test_predictions_are_computed_in_the_type_of_test_cfg(kind):
    from tests.toy import build, model_cfg

    plain, model = build_model(kind).eval(), build(model_cfg(kind) | dict(test_cfg=dict(dtype='bfloat16'))).eval()
    with torch.no_grad():
        expected, seen = plain(**plain.data_preprocessor(batch()), mode='tensor'), seen_types(model)
        data = model.data_preprocessor(batch())
        logits = model(**data, mode='tensor')
        assert set(seen.values()) == {torch.bfloat16}
        assert {name.split('.')[0] for name in seen} == {'backbone', 'text_encoder', 'neck', 'decode_head'}
        assert logits.dtype == torch.float32
        assert 0 < (logits - expected).abs().max() < 0.25 * expected.std()
        tokens = model.tokens_of(data['data_samples'], data['inputs'].device)
        assert torch.equal(model.forward_logits(model.encode_images(data['inputs']), tokens), logits)
        assert model.predict(**data)[0].seg_logits.data.dtype == torch.float32


@pytest.mark.parametrize('dtype', [None, 'float32'])
def test_float32_is_what_there_is_without_a_type(dtype):
    model = build_model().eval()
    images, tokens = randn(1, 3, 64, 64), tokenize('dog', 17)
    with torch.no_grad():
        expected = model.forward_logits(images, tokens)
        model.test_cfg['dtype'] = dtype
        assert torch.equal(model.forward_logits(images, tokens), expected)
        with torch.autocast('cpu', torch.bfloat16):  # As around MMEngine's test loop with fp16=True.
            assert model.forward_logits(images, tokens).dtype == torch.bfloat16


def test_losses_do_not_heed_the_type_of_predictions():
    model = build_model().eval()
    data = model.data_preprocessor(batch(), training=True)
    expected = model.loss(**data)
    model.test_cfg['dtype'] = 'bfloat16'
    seen = seen_types(model)
    assert {name: torch.equal(value, expected[name]) for name, value in model.loss(**data).items()} == dict(
        loss_text_to_pixel=True, iou=True
    )
    assert set(seen.values()) == {torch.float32}


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(test_cfg=dict(corner_alined=True)),
            'test_cfg.corner_alined would be ignored: did you mean corner_al',
        ),
        (
            dict(test_cfg=dict(crop_size=(64, 64))),
            'test_cfg.crop_size would be ignored: read are corner_aligned, d',
        ),
        (dict(train_cfg=dict(share_image=True)), 'train_cfg.share_image would be ignored: did you mean share_im'),
    ],
)
def test_an_option_that_nothing_reads_is_refused(options, message):
    from tests.toy import build, model_cfg

    with pytest.raises(ValueError, match=message):
        build(model_cfg() | options)


def test_a_head_names_options_of_its_own(monkeypatch):
    from mmetris.models import ETRISHead
    from tests.toy import build, model_cfg

    monkeypatch.setattr(ETRISHead, 'test_options', frozenset({'sharpness'}), raising=False)
    assert build(model_cfg() | dict(test_cfg=dict(sharpness=2))).test_cfg == dict(sharpness=2)


def test_types_that_cannot_be_are_refused():
    from tests.toy import build, model_cfg

    with pytest.raises(ValueError, match=r"test_cfg.dtype='bf16' must be one of \('float32', 'bfloat16', 'float16'\)"):
        build(model_cfg() | dict(test_cfg=dict(dtype='bf16')))
    model = build(model_cfg() | dict(test_cfg=dict(dtype='float16'))).eval()
    with pytest.raises(ValueError, match='float16 is for GPUs; on a CPU compute in bfloat16'):
        model.forward_logits(randn(1, 3, 64, 64), tokenize('dog', 17))
    with pytest.raises(ValueError, match='float16 is for GPUs'):
        model.encode_images(randn(1, 3, 64, 64))


def test_encoders_with_other_numbers_of_stages_are_refused():
    with pytest.raises(ValueError, match='must be equally many'):
        build_model('vit', backbone=dict(out_stages=(3, 4)))


def test_a_state_dict_round_trip_restores_predictions():
    model, other = build_model('resnet', seed=0).eval(), build_model('resnet', seed=1).eval()
    images, tokens = randn(1, 3, 64, 64), tokenize('dog', 17)
    with torch.no_grad():
        assert not torch.allclose(model.forward_logits(images, tokens), other.forward_logits(images, tokens))
        other.load_state_dict(model.state_dict())
        assert torch.equal(model.forward_logits(images, tokens), other.forward_logits(images, tokens))


@pytest.mark.parametrize('stride', [1, 2, 4])
def test_each_cell_lands_on_the_pixel_that_the_loss_compared_it_with(stride):
    """Without this, masks drift towards the lower right by up to stride - 1 pixels."""
    cells = randn(1, 1, 64 // stride, 32 // stride).sigmoid()
    enlarged = at_input_size(cells, (64, 32))
    assert enlarged.shape == (1, 1, 64, 32)
    torch.testing.assert_close(enlarged[..., ::stride, ::stride], cells, rtol=1e-4, atol=1e-4)
    corners = at_input_size(cells, (64, 32), corner_aligned=True)
    torch.testing.assert_close(corners[..., -1, -1], cells[..., -1, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('input_hw, grid_hw', [((56, 28), (16, 8)), ((96, 48), (64, 32))])
def test_strides_that_are_no_whole_numbers_reach_as_far_as_the_grid_does(input_hw, grid_hw):
    """3.5 pixels, of a patch of 14, and 1.5: each cell's value is within a pixel of where the loss took its target."""
    ramp = torch.arange(grid_hw[0], dtype=torch.float32).view(1, 1, -1, 1).expand(1, 1, *grid_hw)
    enlarged = at_input_size(ramp, input_hw, mode='bilinear')[0, 0, :, 0]
    stride = input_hw[0] / grid_hw[0]
    compared = [int(cell * stride) for cell in range(grid_hw[0])]
    assert (enlarged[compared] - ramp[0, 0, :, 0]).abs().max() * stride <= 1
