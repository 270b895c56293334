"""ETRIS head: published sizes, any input size, parts switched off, gradients, padding, losses, bad arguments."""

import itertools

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmetris.models import ETRISHead
from mmetris.registry import MODELS
from mmetris.structures.bridged_features import BridgedFeatures

CHANNELS = 16
RESNET = dict(in_channels=(12, 20, 8), in_strides=(8, 16, 32))
VIT = dict(in_channels=(12, 12, 8), in_strides=(16, 16, 16))
PARTS = ('hierarchical_alignment', 'global_alignment', 'projector')


def build(encoder=RESNET, **options):
    torch.manual_seed(0)
    sizes = dict(encoder, word_channels=10, sentence_channels=8, channels=CHANNELS, num_heads=4)
    return ETRISHead(**{**sizes, **options})


def make_features(encoder=RESNET, size=(64, 96), batch=2, length=5, seed=0):
    """Random features of an encoder whose grids are the input's size over the stride, rounded down."""
    generator = torch.Generator().manual_seed(seed)
    maps = tuple(
        torch.randn(batch, channels, size[0] // stride, size[1] // stride, generator=generator)
        for channels, stride in zip(encoder['in_channels'], encoder['in_strides'])
    )
    words = torch.randn(batch, length, 10, generator=generator)
    sentence = torch.randn(batch, 8, generator=generator)
    padding_mask = torch.zeros(batch, length, dtype=torch.bool)
    padding_mask[0, -2:] = True
    return BridgedFeatures(maps, words, sentence, padding_mask)


def make_samples(*masks):
    samples = []
    for mask in masks:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=mask)
        samples.append(sample)
    return samples


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ('in_channels', 'in_strides', 'sentence_channels', 'text_projection', 'expected'),
    [
        ((512, 1024, 512), (8, 16, 32), 512, 'auto', 23_981_569),
        ((512, 1024, 512), (8, 16, 32), 512, True, 24_244_225),
        ((512, 1024, 1024), (8, 16, 32), 1024, 'auto', 26_735_105),
        ((768, 768, 512), (16, 16, 16), 512, True, 22_671_361),
    ],
)
def test_full_size_decoders_have_the_published_parameter_counts(
    in_channels, in_strides, sentence_channels, text_projection, expected
):
    """RN101 as the paper counts it; RN101, RN50 and ViT-B/16 as the released code has them."""
    with torch.device('meta'):
        head = ETRISHead(in_channels, in_strides, 512, sentence_channels, text_projection=text_projection)
    assert count_parameters(head) == expected


@pytest.mark.parametrize('size', [(64, 64), (64, 96), (96, 32), (32, 32), (400, 80)])
def test_logits_have_a_quarter_of_the_input_size(size):
    """Also where a grid does not divide: 400 / 32 rounds down to 12, and twice that is not 400 / 16 = 25."""
    for encoder in (RESNET, VIT):
        head = build(encoder)
        assert head.out_stride == 4
        logits = head(make_features(encoder, size))
        assert logits.shape == (2, 1, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize('off', [parts for n in (1, 2, 3) for parts in itertools.combinations(PARTS, n)])
def test_each_part_can_be_left_out(off):
    head = build(**dict.fromkeys(off))
    assert count_parameters(head) < count_parameters(build())
    logits = head(make_features())
    assert head.out_stride == (16 if 'projector' in off else 4)
    assert logits.shape == (2, 1, 64 // head.out_stride, 96 // head.out_stride)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize('off', [(), *((part,) for part in PARTS)])
def test_every_parameter_gets_a_gradient(off):
    """Not zero, except at the queries and keys of the sentence's attention: over a single key they have no effect.

    Those get zeros and not None, so that distributed training need not look for unused parameters.
    """
    head = build(**dict.fromkeys(off)).eval()
    (
        head(make_features())
        * torch.randn(2, 1, 64 // head.out_stride, 96 // head.out_stride, generator=torch.Generator().manual_seed(1))
    ).sum().backward()
    for name, parameter in head.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        if '.gates.' in name and name.endswith(('q_proj_weight', 'k_proj_weight')):
            assert gradient.abs().max() == 0, name
        elif '.gates.' in name and '.in_proj_' in name:
            assert gradient[: 2 * CHANNELS].abs().max() == 0, name
            assert gradient[2 * CHANNELS :].abs().max() > 0, name
        else:
            assert gradient.abs().max() > 0, name


def test_padding_words_change_nothing():
    head = build().eval()
    features = make_features()
    changed = features._replace(words=features.words.clone())
    changed.words[features.padding_mask] = 1e3
    assert torch.allclose(head(features), head(changed), atol=1e-6)
    # Nor does padding further: the padded sentence and the cut one agree.
    cut = BridgedFeatures(
        tuple(m[:1] for m in features.maps),
        features.words[:1, :3],
        features.sentence[:1],
        features.padding_mask[:1, :3],
    )
    assert torch.allclose(head(features)[:1], head(cut), atol=1e-5)


def test_without_padding_mask_every_word_is_read():
    head = build().eval()
    features = make_features()
    no_padding = torch.zeros_like(features.padding_mask)
    everything = head(features._replace(padding_mask=None))
    assert torch.allclose(everything, head(features._replace(padding_mask=no_padding)), atol=1e-6)
    assert not torch.allclose(everything, head(features), atol=1e-4)


@pytest.mark.parametrize('off', [(), *((part,) for part in PARTS)])
def test_a_batch_of_two_equals_two_of_one(off):
    head = build(**dict.fromkeys(off)).eval()
    features = make_features()
    together = head(features)
    for i in range(2):
        single = BridgedFeatures(
            tuple(m[i : i + 1] for m in features.maps), *(field[i : i + 1] for field in features[1:])
        )
        assert torch.allclose(head(single), together[i : i + 1], atol=1e-5)


def test_text_projection_auto_is_there_only_where_widths_differ():
    assert build().text_projection is not None
    assert build(sentence_channels=CHANNELS).text_projection is None
    assert build(sentence_channels=CHANNELS, text_projection=True).text_projection is not None
    # Without it the attention itself reads a sentence of another width.
    head = build(text_projection=False)
    assert head.text_projection is None
    assert head(make_features()).shape == (2, 1, 16, 24)


@pytest.mark.parametrize(
    ('in_strides', 'stride'), [((8, 16, 32), 16), ((14, 14, 14), 14), ((4, 8, 16, 32), 8), ((16,), 16)]
)
def test_automatic_stride_is_the_middle_one(in_strides, stride):
    assert build(dict(in_channels=(8,) * len(in_strides), in_strides=in_strides)).stride == stride


def test_stride_can_be_chosen():
    head = build(stride=8)
    assert head.out_stride == 2
    assert head(make_features()).shape == (2, 1, 32, 48)


def test_builds_from_a_config_with_options_for_each_part():
    head = MODELS.build(
        dict(
            type='ETRISHead',
            **VIT,
            word_channels=10,
            sentence_channels=8,
            channels=16,
            num_heads=4,
            hierarchical_alignment=dict(num_heads=2),
            global_alignment=dict(num_layers=1, ffn_dims=24, dropout=0.5),
            projector=dict(kernel_size=5),
            norm_cfg=dict(type='GN', num_groups=4),
        )
    )
    assert head.hierarchical_alignment.gates[0].attention.num_heads == 2
    assert len(head.global_alignment.layers) == 1
    assert head.global_alignment.layers[0].ffn[0].out_features == 24
    assert head.projector.kernel_projection.out_features == 8 * 25 + 1
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in head.modules())
    assert head(make_features(VIT)).shape == (2, 1, 16, 24)


def test_state_dict_round_trip_restores_predictions():
    head, other = build().eval(), build().eval()
    features = make_features()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(head(features), other(features))
    other.load_state_dict(head.state_dict())
    assert torch.equal(head(features), other(features))


def test_loss_reads_masks_of_input_size_and_logs_the_iou():
    head = build()
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 2, (2, 1, 64, 96), generator=generator, dtype=torch.uint8)
    samples = make_samples(*masks)
    losses = head.loss(make_features(), samples, {})
    assert set(losses) == {'loss_text_to_pixel', 'iou'}
    assert losses['loss_text_to_pixel'].requires_grad and not losses['iou'].requires_grad


def test_iou_by_hand():
    """Probability 3/4 at four pixels: two of the target, one of the background, one ignored; one target is missed."""
    head = build()
    logits = torch.full((1, 1, 2, 4), -1.0986123)
    logits[0, 0, 0] = 1.0986123
    mask = torch.tensor([[[1, 0, 255, 1], [1, 0, 0, 255]]], dtype=torch.uint8)
    assert head.loss_by_feat(logits, make_samples(mask))['iou'].item() == pytest.approx(100 * 2 / 4)
    empty = make_samples(torch.zeros_like(mask))
    assert head.loss_by_feat(logits - 9, empty)['iou'].item() == 0


def test_losses_of_one_name_add_up_and_others_stand_beside():
    one = dict(type='TextToPixelContrastiveLoss')
    head = build(loss_decode=[one, dict(one, loss_weight=2.0), dict(one, loss_name='loss_other')])
    logits = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    losses = head.loss_by_feat(logits, make_samples(torch.ones(1, 4, 4, dtype=torch.uint8)))
    assert losses['loss_text_to_pixel'].item() == pytest.approx(3 * losses['loss_other'].item())


@pytest.mark.parametrize(
    'beside',
    [dict(type='DiceLoss'), dict(type='FocalLoss'), dict(type='LovaszLoss', loss_type='binary', reduction='none')],
)
def test_losses_of_mmseg_stand_beside(beside):
    """A right mask costs less than its opposite."""
    head = build(loss_decode=[dict(type='TextToPixelContrastiveLoss'), beside])
    logits = torch.tensor([[[[9.0, -9.0], [-9.0, -9.0]]]])
    mask = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    right, opposite = (head.loss_by_feat(sign * logits, make_samples(mask)) for sign in (1, -1))
    name = head.loss_decode[1].loss_name
    assert len(right) == 3
    assert right[name] < 0.01 < opposite[name]


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(num_heads=3), 'channels=16 and num_heads=3'),
        (dict(global_alignment=dict(num_heads=5)), 'channels=16 and num_heads=5'),
        (dict(in_strides=(8, 16)), 'in_channels and in_strides'),
        (dict(in_channels=(), in_strides=()), 'in_channels and in_strides'),
        (dict(in_strides=(8, 12, 32), stride=16), 'in_stride=12'),
        (dict(text_projection='always'), 'text_projection'),
        (dict(channels=18, num_heads=2), 'channels must be a multiple of 4'),
        (dict(word_channels=9), 'word_channels must be even'),
        (dict(projector=dict(kernel_size=2)), 'kernel_size must be odd'),
        (dict(channels=15, num_heads=3, global_alignment=None), 'channels must be even'),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        build(**options)


def test_wrong_number_of_maps_is_named():
    features = make_features()
    with pytest.raises(ValueError, match='3 maps.*got 2'):
        build()(features._replace(maps=features.maps[:2]))


@pytest.mark.parametrize('part', PARTS)
def test_unknown_option_of_a_part_is_an_error(part):
    with pytest.raises(TypeError, match='no_such_option'):
        build(**{part: dict(no_such_option=1)})


def test_runs_in_half_precision_autocast():
    head = build()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss(make_features(), make_samples(*torch.ones(2, 1, 64, 96, dtype=torch.uint8)))
    losses['loss_text_to_pixel'].backward()
    assert torch.isfinite(losses['loss_text_to_pixel'])
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_learns_two_masks_of_one_image_told_apart_by_the_sentence():
    """The same maps twice with two sentences and two disjoint masks: without the text IoU could not pass 50."""
    head = build().train()
    features = make_features(size=(64, 64))
    features = features._replace(maps=tuple(m[:1].expand(2, -1, -1, -1) for m in features.maps))
    masks = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    masks[0, :, :32, :32] = 1
    masks[1, :, 32:, 16:48] = 1
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        losses = head.loss(features, make_samples(*masks))
        optimizer.zero_grad()
        losses['loss_text_to_pixel'].backward()
        optimizer.step()
    head.eval()
    assert head.loss(features, make_samples(*masks))['iou'] > 75


def test_a_single_class_name_is_a_sentence_of_one_word():
    """Positions of words are all that differs: a name has none."""
    head = build(global_alignment=None).eval()
    features = make_features(length=1)._replace(padding_mask=None)
    named = features._replace(sentence=features.sentence.unsqueeze(1))
    torch.testing.assert_close(head(named), head(features), rtol=1e-5, atol=1e-5)


def test_class_names_are_a_set():
    head = build().eval()
    features = make_features(length=3)._replace(padding_mask=None, sentence=torch.randn(2, 3, 8))
    turned = features._replace(words=features.words.flip(1), sentence=features.sentence.flip(1))
    logits = head(features)
    assert logits.shape == (2, 3, 16, 24) and not torch.allclose(logits[:, 0], logits[:, 1])
    torch.testing.assert_close(head(turned).flip(1), logits, rtol=1e-4, atol=1e-5)


def test_each_pixel_weighs_the_class_names_by_itself():
    gate = build().hierarchical_alignment.gates[0]
    gated = gate(
        torch.ones(1, CHANNELS, 1, 1).expand(1, CHANNELS, 2, 2) * torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.randn(1, 3, CHANNELS),
    )
    per_pixel = gated / torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert not torch.allclose(per_pixel[..., 0, 0], per_pixel[..., 1, 1])
