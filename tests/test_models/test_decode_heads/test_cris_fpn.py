"""CRIS's FPN in an ETRIS head: published sizes, its steps by hand, odd grids, gradients, bad arguments."""

import pytest
import torch
import torch.nn.functional as F

from mmetris.models import ETRISHead
from mmetris.models.decode_heads import CRISFPN
from mmetris.registry import MODELS
from mmetris.structures.bridged_features import BridgedFeatures

WIDTHS, STRIDES, SENTENCE, CHANNELS = (6, 10, 7), (8, 16, 32), 9, 8


def build(**options):
    torch.manual_seed(0)
    return CRISFPN(
        **{**dict(in_channels=WIDTHS, in_strides=STRIDES, sentence_channels=SENTENCE, channels=8), **options}
    )


def make_maps(size=(64, 96), batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, width, size[0] // stride, size[1] // stride, generator=generator)
        for width, stride in zip(WIDTHS, STRIDES)
    ]


def make_sentence(batch=2, seed=1):
    return torch.randn(batch, SENTENCE, generator=torch.Generator().manual_seed(seed))


def head_of(**options):
    torch.manual_seed(0)
    return ETRISHead(
        WIDTHS,
        STRIDES,
        word_channels=10,
        sentence_channels=SENTENCE,
        channels=CHANNELS,
        num_heads=2,
        hierarchical_alignment=dict(type='CRISFPN'),
        text_projection=False,
        global_alignment=dict(num_layers=1, ffn_dims=12),
        **options,
    )


def features_of(sentence, size=(64, 96)):
    words = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(2))
    return BridgedFeatures(tuple(make_maps(size)), words, sentence, torch.zeros(2, 5, dtype=torch.bool))


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ('in_channels', 'sentence_channels', 'fpn', 'decoder'),
    [((512, 1024, 1024), 1024, 24_142_336, 42_742_785), ((512, 1024, 512), 512, 23_093_760, 40_514_049)],
    ids=['r50', 'r101'],
)
def test_full_size_decoders_have_the_published_parameter_counts(in_channels, sentence_channels, fpn, decoder):
    """configs/cris/README.md tells how the printed 42.88 and 40.66 million follow from them."""
    with torch.device('meta'):
        head = ETRISHead(
            in_channels,
            STRIDES,
            512,
            sentence_channels,
            hierarchical_alignment=dict(type='CRISFPN'),
            text_projection=False,
            global_alignment=dict(ffn_dims=2048),
        )
    assert (count_parameters(head.hierarchical_alignment), count_parameters(head)) == (fpn, decoder)


def test_the_result_follows_from_its_steps():
    """c = ReLU(BN(v5 * text)); m = [v4, up(c)]; f = [half(v3), m]; then the three outputs and x and y together."""
    fpn, maps, sentence = build().eval(), make_maps(), make_sentence()
    with torch.no_grad():
        for name, buffer in fpn.named_buffers():
            if 'running' in name:  # Means near 0, or ReLU would leave nothing to compare.
                buffer.uniform_(*((0.1, 0.5) if name.endswith('var') else (-0.1, 0.1)))
        norm = fpn.text_projection.norm
        text = sentence @ fpn.text_projection.linear.weight.T
        text = F.relu(F.batch_norm(text, norm.running_mean, norm.running_var, norm.weight, norm.bias))
        v3, v4, v5 = (project(one) for project, one in zip(fpn.projections, maps))
        coarse = F.relu(fpn.gate_norm(v5 * text[:, :, None, None]))
        middle = fpn.merges[1](torch.cat((v4, F.interpolate(coarse, scale_factor=2, mode='bilinear')), dim=1))
        fine = fpn.merges[0](torch.cat((F.avg_pool2d(v3, 2), middle), dim=1))
        enlarged = F.interpolate(fpn.outputs[2](coarse), scale_factor=2, mode='bilinear')
        together = torch.cat((fpn.outputs[0](fine), fpn.outputs[1](middle), enlarged), dim=1)
        expected = fpn.refine(fpn.coord_conv(fpn.fuse(together)))
        torch.testing.assert_close(fpn(maps, sentence), expected, rtol=1e-5, atol=1e-6)
    assert (expected > 0.01).float().mean() > 0.2


def test_the_sentence_is_normalised_as_vectors_are():
    """BatchNorm of one-pixel maps is BatchNorm1d, statistics included."""
    projection = build().text_projection.train()
    plain = torch.nn.BatchNorm1d(2 * CHANNELS)
    sentence = make_sentence(batch=4)
    expected = F.relu(plain(projection.linear(sentence)))
    torch.testing.assert_close(projection(sentence)[..., 0, 0], expected)
    torch.testing.assert_close(projection.norm.running_var, plain.running_var)


@pytest.mark.parametrize('size', [(64, 64), (32, 32), (96, 32), (400, 80), (72, 104)])
def test_any_grid_is_fused_on_that_of_the_middle_map(size):
    """Also where one does not divide: 400 / 32 rounds down to 12, and twice that is not 400 / 16 = 25."""
    fused = build()(make_maps(size), make_sentence())
    assert fused.shape == (2, CHANNELS, size[0] // 16, size[1] // 16)
    assert fused.min() >= 0
    assert head_of()(features_of(make_sentence(), size)).shape == (2, 1, size[0] // 16 * 4, size[1] // 16 * 4)


def test_the_sentence_tells_samples_apart_and_each_is_by_itself_in_evaluation():
    fpn, maps, sentence = build().eval(), make_maps(), make_sentence()
    together = fpn(maps, sentence)
    for index in range(2):
        row = slice(index, index + 1)
        torch.testing.assert_close(fpn([one[row] for one in maps], sentence[row]), together[row], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(fpn(maps, sentence.flip(0)), together)


def test_every_parameter_gets_a_gradient():
    head = head_of()
    noise = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(3))
    (head(features_of(make_sentence())) * noise).sum().backward()
    for name, parameter in head.hierarchical_alignment.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_config_chooses_the_normalisation_and_its_weights_come_back():
    cfg = dict(type='CRISFPN', in_channels=WIDTHS, in_strides=STRIDES, sentence_channels=SENTENCE, channels=CHANNELS)
    fpn, other = (MODELS.build(dict(cfg, norm_cfg=dict(type='GN', num_groups=4))) for _ in range(2))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fpn.modules())
    assert not torch.allclose(fpn(make_maps(), make_sentence()), other(make_maps(), make_sentence()))
    other.load_state_dict(fpn.state_dict())
    assert torch.equal(fpn(make_maps(), make_sentence()), other(make_maps(), make_sentence()))


def test_runs_in_half_precision_autocast():
    head = head_of()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = head(features_of(make_sentence()))
    logits.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_batch_norm_cannot_learn_of_one_sentence():
    with pytest.raises(ValueError, match='more than 1 value'):
        build().train()(make_maps(batch=1), make_sentence(batch=1))


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(in_strides=(16, 16, 16)), r'stride=16 reads three maps.*in_strides=\(16, 16, 16\)'),
        (dict(in_strides=(8, 16, 32), stride=8), r'stride=8 reads three maps.*in_strides=\(8, 16, 32\)'),
        (dict(in_channels=(6, 10), in_strides=(8, 16)), r'in_strides=\(8, 16\)'),
        (dict(in_channels=(6, 10, 7, 5), in_strides=(8, 16, 32, 64)), r'in_strides=\(8, 16, 32, 64\)'),
        (dict(in_strides=(8, 16)), 'in_channels and in_strides need one entry for each map'),
        (dict(channels=9), 'channels must be even, but it is 9'),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        build(**options)


def test_class_names_are_refused_with_what_reads_them():
    names = torch.randn(2, 3, SENTENCE)
    with pytest.raises(ValueError, match=r'one sentence.*\(2, 3, 9\).*HierarchicalAlignment'):
        head_of()(features_of(names))
