"""The Bridger in MMSegmentation's own backbones: every family, every way to name stages, and what may go wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmetris.models import StageSpec
from mmetris.models.backbones import named_stages
from mmetris.models.backbones.named_stages import NamedStage, find_stages, stage_paths, told_grid
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from mmetris.registry import MODELS
from tests import toy

BN = dict(type='BN', requires_grad=True)
# Each family as small as it goes; BEiT's relative positions fix its image size.
BACKBONES = dict(
    resnet=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=BN),
    dilated=dict(
        type='ResNetV1c',
        depth=50,
        base_channels=4,
        stem_channels=8,
        norm_cfg=BN,
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        contract_dilation=True,
    ),
    swin=dict(type='SwinTransformer', embed_dims=12, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
    mit=dict(type='MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 5, 8]),
    mscan=dict(type='MSCAN', embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], norm_cfg=BN),
    beit=dict(
        type='BEiT', img_size=(64, 64), patch_size=8, embed_dims=24, num_layers=4, num_heads=2, out_indices=(1, 2, 3)
    ),
    vit=dict(
        type='VisionTransformer',
        img_size=64,
        patch_size=8,
        embed_dims=24,
        num_layers=4,
        num_heads=2,
        out_indices=(0, 1, 2, 3),
        final_norm=True,
    ),
)
STRIDES = dict(dilated=(8, 8, 8), beit=(8, 8, 8), vit=(8, 8, 8))
FAMILIES = list(BACKBONES)
# MSCAN and BEiT of MMSegmentation have no `with_cp`.
CHECKPOINTING = ['resnet', 'dilated', 'swin', 'mit', 'vit']
CLASSES = ['dog', 'red car', 'sky']


def class_text(**kwargs) -> dict:
    return dict(arch=toy.VIT, vocabulary=dict(classes=CLASSES)) | kwargs


def wrapped_cfg(family: str, **kwargs) -> dict:
    bridger = dict(embed_dims=8, num_heads=2, ffn_dims=16, dropout=0) | kwargs.pop('bridger', {})
    return (
        dict(
            type='BridgedBackbone',
            backbone=copy.deepcopy(BACKBONES[family]) | kwargs.pop('backbone', {}),
            class_text=class_text(),
            bridger=bridger,
        )
        | kwargs
    )


def wrap(family: str, **kwargs) -> nn.Module:
    return toy.build(wrapped_cfg(family, **kwargs))


def plain(model: nn.Module, family: str, **kwargs) -> nn.Module:
    """The backbone as MMSegmentation builds it, with the same weights."""
    backbone = toy.build(copy.deepcopy(BACKBONES[family]) | kwargs)
    backbone.load_state_dict(model.backbone.state_dict())
    backbone.train(model.training)
    return backbone


def randomize(model: nn.Module) -> nn.Module:
    """As if trained: no update is zero any more."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.bridger.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('family', FAMILIES)
def test_a_bridger_that_starts_at_zero_changes_nothing_at_all(family, training):
    model = wrap(family).train(training)
    other = plain(model, family)
    images = toy.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.manual_seed(0)
        ours = model(images)
        torch.manual_seed(0)
        theirs = other(images)
    assert len(ours) == len(theirs) and type(ours) is type(theirs)
    for ours_map, theirs_map in zip(ours, theirs):
        assert torch.equal(ours_map, theirs_map)
    # BatchNorm has followed the same statistics.
    for key, value in other.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value)


@pytest.mark.parametrize('family', FAMILIES)
def test_widths_and_strides_are_found(family):
    specs = [stage.spec for stage in wrap(family).stages]
    assert tuple(spec.stride for spec in specs) == STRIDES.get(family, (8, 16, 32))
    widths = dict(resnet=(16, 32, 64), dilated=(32, 64, 128), swin=(24, 48, 96), mit=(16, 40, 64), mscan=(16, 24, 32))
    assert tuple(spec.channels for spec in specs) == widths.get(family, (24, 24, 24))


@pytest.mark.parametrize('family', FAMILIES)
def test_the_next_stage_and_the_head_see_the_update(family):
    """Only the Bridger at stage 2 says something: the maps of stages 2, 3 and 4 change, that of stage 1 does not."""
    model = wrap(family).eval()
    images = toy.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        nn.init.constant_(model.bridger.bridges['1'].zoom_out.project.weight, 0.1)
        after = model(images)
    same = [torch.equal(ours, other) for ours, other in zip(before, after)]
    assert same == [False] * 3 if len(same) == 3 else same == [True, False, False, False]


@pytest.mark.parametrize('family', FAMILIES)
def test_class_names_change_the_features(family):
    model = randomize(wrap(family)).eval()
    images = toy.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        model.class_text.set_vocabulary(dict(classes=['cat', 'tree']))
        after = model(images)
    assert not torch.allclose(before[-1], after[-1])


@pytest.mark.parametrize('family', FAMILIES)
def test_images_of_a_batch_do_not_see_each_other(family):
    model = randomize(wrap(family)).eval()
    images = toy.randn(2, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(images), model(images[1:])
    for ours, other in zip(together, alone):
        torch.testing.assert_close(ours[1:], other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(64, 96), (100, 75), (32, 32)])
@pytest.mark.parametrize('family', [family for family in FAMILIES if family != 'beit'])
def test_images_of_any_size_give_the_maps_the_backbone_would(family, size):
    model = randomize(wrap(family)).eval()
    images = toy.randn(1, 3, *size)
    with torch.no_grad():
        ours, theirs = model(images), plain(model, family)(images)
    assert [feature_map.shape for feature_map in ours] == [feature_map.shape for feature_map in theirs]


@pytest.mark.parametrize('freeze', [False, True])
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('family', FAMILIES)
def test_one_backward_pass_reaches_every_tunable_parameter(family, with_cp, freeze):
    change = dict(with_cp=True) if with_cp and family in CHECKPOINTING else {}
    model = randomize(wrap(family, freeze_backbone=freeze, backbone=change)).train()
    sum(feature_map.square().sum() for feature_map in model(toy.randn(2, 3, 64, 64))).backward()
    tunable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, value in tunable.items() if value.grad is None] == []
    parts = {name.split('.')[0] for name in tunable}
    assert parts == ({'bridger'} if freeze else {'bridger', 'backbone'})


@pytest.mark.parametrize('family', CHECKPOINTING)
def test_gradients_with_activation_checkpointing_are_the_same(family):
    grads = []
    for with_cp in (False, True):
        model = randomize(wrap(family, backbone=dict(with_cp=with_cp))).eval()
        model(toy.randn(1, 3, 64, 64))[-1].square().sum().backward()
        grads.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-5)


def test_checkpointing_around_the_whole_works_and_around_a_stage_inside_is_refused():
    from torch.utils.checkpoint import checkpoint

    model = randomize(wrap('resnet')).eval()
    images = toy.randn(1, 3, 64, 64)
    direct = model(images)[-1].square().sum()
    direct.backward()
    grads = [value.grad.clone() for value in model.bridger.parameters()]
    model.zero_grad()
    checkpoint(model, images, use_reentrant=False)[-1].square().sum().backward()
    for ours, other in zip(grads, model.bridger.parameters()):
        torch.testing.assert_close(ours, other.grad)
    forward = model.backbone.forward
    model.backbone.forward = lambda images: checkpoint(forward, images, use_reentrant=False)
    loss = model(images)[-1].square().sum()
    with pytest.raises(RuntimeError, match='ran outside of BridgedBackbone.forward'):
        loss.backward()


@pytest.mark.parametrize('family', FAMILIES)
def test_autocast_keeps_the_precision_of_each_stage(family):
    model = randomize(wrap(family)).train()
    other = plain(model, family)
    images = toy.randn(2, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        ours, theirs = model(images), other(images)
        loss = sum(feature_map.float().square().mean() for feature_map in ours)
    assert [feature_map.dtype for feature_map in ours] == [feature_map.dtype for feature_map in theirs]
    loss.backward()
    assert all(value.grad.isfinite().all() for value in model.bridger.parameters())


@pytest.mark.parametrize(
    'args, kwargs, grid_hw',
    [
        (((2, 3),), {}, (2, 3)),  # Swin, MiT
        ((2, 3), {}, (2, 3)),  # MSCAN
        ((None,), dict(hw_shape=torch.Size((2, 3))), (2, 3)),
        ((True, False), {}, None),
        ((), {}, None),
    ],
)
def test_the_grid_is_read_from_the_call_of_a_block(args, kwargs, grid_hw):
    assert told_grid((torch.zeros(1, 6, 4), *args), kwargs) == grid_hw


@pytest.mark.parametrize('num_prefix, shape', [(None, (1, 4, 2, 3)), (0, (1, 6, 4)), (2, (1, 8, 4))])
def test_an_update_goes_where_the_map_came_from_in_the_precision_of_the_stage(num_prefix, shape):
    stage = NamedStage('stage', StageSpec(4, 8), num_prefix)
    output = toy.randn(*shape).bfloat16()
    before = stage.read(output, None, (16, 24))
    changed = stage.add(output, torch.ones(1, 4, 2, 3))
    assert before.shape == (1, 4, 2, 3) and changed.shape == shape and changed.dtype == torch.bfloat16
    assert torch.equal(stage.read(changed, (2, 3), (0, 0)), before + 1)
    assert torch.equal(changed[:, : num_prefix or 0], output[:, : num_prefix or 0])


@pytest.mark.parametrize('stages', [(2, 3, 4), (2, 3)])
def test_the_text_has_run_as_far_as_its_stage_says(stages, monkeypatch):
    model = wrap('resnet', stages=stages).eval()
    seen, step = [], model.bridger.step
    monkeypatch.setattr(model.bridger, 'step', lambda *args: (seen.append(args[2]), step(*args))[1])
    with torch.no_grad():
        model(toy.randn(2, 3, 64, 64))
        features = model.class_text.stage_features()
    assert tuple(text.stage for text in seen) == model.class_text.out_stages == ((2, 3, 4), (3, 4))[len(stages) == 2]
    for text in seen:  # No update so far: what CLIP itself holds after that stage.
        torch.testing.assert_close(text.words, features[text.stage].expand(2, -1, -1), rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_stays_as_it_is():
    model = wrap('resnet', freeze_backbone=True).train()
    assert not any(module.training for module in model.backbone.modules())
    assert model.bridger.training
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model(toy.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_a_tuned_text_encoder_has_no_parameter_without_gradient():
    model = randomize(wrap('resnet', class_text=class_text(frozen=False))).train()
    sum(feature_map.square().sum() for feature_map in model(toy.randn(2, 3, 64, 64))).backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


HEAD = dict(channels=8, num_classes=3, norm_cfg=BN, align_corners=False)
AUXILIARY = dict(type='FCNHead', in_index=2, num_convs=1, concat_input=False, **HEAD)
# head -> backbone, decode head without widths, in_index, auxiliary head
SEGMENTORS = dict(
    upernet=('swin', dict(type='UPerHead', pool_scales=(1, 2)), (0, 1, 2, 3)),
    segformer=('mit', dict(type='SegformerHead'), (0, 1, 2, 3)),
    deeplabv3plus=('dilated', dict(type='DepthwiseSeparableASPPHead', dilations=(1, 2), c1_channels=4), 3),
    deeplabv3=('dilated', dict(type='ASPPHead', dilations=(1, 2)), 3),
)


def segmentor_cfg(name: str) -> dict:
    """A small segmentor around the wrapped backbone, with an FCN auxiliary head."""
    family, head, in_index = SEGMENTORS[name]
    backbone = toy.build(copy.deepcopy(BACKBONES[family]))
    backbone.eval()
    with torch.no_grad():
        widths = [feature_map.shape[1] for feature_map in backbone(torch.zeros(1, 3, 64, 64))]
    if head['type'] == 'DepthwiseSeparableASPPHead':
        head = head | dict(c1_in_channels=widths[0])
    in_channels = widths[in_index] if isinstance(in_index, int) else widths
    return ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=wrapped_cfg(family),
        decode_head=dict(in_channels=in_channels, in_index=in_index, **head, **HEAD),
        auxiliary_head=dict(in_channels=widths[2], **AUXILIARY),
        test_cfg=dict(mode='whole'),
    )


def labelled(num: int, size: int = 64) -> list[SegDataSample]:
    samples = []
    for index in range(num):
        label = torch.randint(0, 3, (1, size, size), generator=torch.Generator().manual_seed(index))
        sample = SegDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return samples


@pytest.mark.parametrize('name', list(SEGMENTORS))
def test_segmentors_train_and_predict_with_it(name):
    model = toy.build(segmentor_cfg(name)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):  # In the second step the words, too, get a gradient: what starts at zero has moved.
        losses = model(toy.randn(2, 3, 64, 64), labelled(2), mode='loss')
        assert 'decode.loss_ce' in losses and 'aux.loss_ce' in losses
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        assert [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
        optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not [key for key in moved if 'class_text' in key]
    first = 'backbone.bridger.bridges.1'
    assert {f'{first}.zoom_out.project.weight', f'{first}.words_out.weight'} <= moved
    prediction = model.eval()(toy.randn(1, 3, 64, 64), labelled(1), mode='predict')[0]
    assert prediction.pred_sem_seg.data.shape == (1, 64, 64) and prediction.seg_logits.data.shape == (3, 64, 64)


def mask2former_head(num_classes: int, in_channels: list[int]) -> dict:
    """Mask2Former's head as MMSegmentation configures it, small."""
    attention = dict(embed_dims=32, num_heads=2, batch_first=True)
    ffn = dict(embed_dims=32, feedforward_channels=32, num_fcs=2, act_cfg=dict(type='ReLU', inplace=True))
    positions = dict(num_feats=16, normalize=True)
    return dict(
        type='Mask2FormerHead',
        in_channels=in_channels,
        strides=[4, 8, 16, 32],
        feat_channels=32,
        out_channels=32,
        num_classes=num_classes,
        num_queries=5,
        num_transformer_feat_level=3,
        positional_encoding=positions,
        enforce_decoder_input_project=False,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            num_outs=3,
            norm_cfg=dict(type='GN', num_groups=4),
            act_cfg=dict(type='ReLU'),
            positional_encoding=positions,
            encoder=dict(
                num_layers=1, layer_cfg=dict(self_attn_cfg=dict(num_levels=3, num_points=2, **attention), ffn_cfg=ffn)
            ),
        ),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=2,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn),
        ),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', class_weight=[1.0] * num_classes + [0.1]),
        loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
        loss_dice=dict(type='mmdet.DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.0),
        train_cfg=dict(
            num_points=64,
            oversample_ratio=3.0,
            importance_sample_ratio=0.75,
            assigner=dict(
                type='mmdet.HungarianAssigner',
                match_costs=[
                    dict(type='mmdet.ClassificationCost'),
                    dict(type='mmdet.CrossEntropyLossCost', use_sigmoid=True),
                    dict(type='mmdet.DiceCost', pred_act=True, eps=1.0),
                ],
            ),
            sampler=dict(type='mmdet.MaskPseudoSampler'),
        ),
    )


def test_mask2former_trains_and_predicts_with_it():
    pytest.importorskip('mmcv._ext', reason="Mask2Former needs mmcv's compiled ops")
    pytest.importorskip('mmdet.models', reason='Mask2Former needs MMDetection')
    model = toy.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=wrapped_cfg('resnet'),
            decode_head=mask2former_head(3, [8, 16, 32, 64]),
            test_cfg=dict(mode='whole'),
        )
    ).train()
    randomize(model.backbone)
    model.parse_losses(model(toy.randn(2, 3, 64, 64), labelled(2), mode='loss'))[0].backward()
    assert [key for key, value in model.backbone.named_parameters() if value.requires_grad and value.grad is None] == []
    prediction = model.eval()(toy.randn(1, 3, 64, 64), labelled(1), mode='predict')[0]
    assert prediction.seg_logits.data.shape == (3, 64, 64)


PATHS = dict(
    resnet=('layer2', 'layer3', 'layer4'),
    swin=('stages.1.blocks.0', 'stages.2.blocks.1', 'stages.3.blocks.0'),
    mit=('layers.1.1.0', 'layers.2.1.1', 'layers.3.1.0'),
    mscan=('block2.0', 'block3.1', 'block4.0'),
    vit=('layers.1', 'layers.2', 'layers.3'),
)


@pytest.mark.parametrize('family', list(PATHS))
def test_numbers_and_paths_name_the_same_stages(family):
    by_number, by_path = wrap(family), wrap(family, stages=PATHS[family])
    assert by_number.stages == by_path.stages


def test_stages_need_not_be_the_last_three():
    model = wrap('vit', stages=('layers.0', 'layers.3'))
    assert model.class_text.out_stages == (3, 4)
    assert [len(feature_map) for feature_map in model(toy.randn(2, 3, 64, 64))] == [2] * 4
    assert wrap('resnet', stages=(2, 3, 4), bridger=dict(stages=())).bridger.bridges.keys() == set()
    four = wrap('resnet', stages=(1, 2, 3, 4), bridger=dict(scales=(0.5, 1, 1, 2)))
    assert four.class_text.out_stages == (1, 2, 3, 4)
    randomize(four)(toy.randn(1, 3, 64, 64))


class OddBackbone(nn.Module):
    """Someone's backbone: keywords for the grid, two tokens before the patches, computing with values."""

    def __init__(self, width=8):
        super().__init__()
        self.patches = nn.Conv2d(4, width, 8, 8)
        self.block, self.last, self.unused = Block(width), Block(width), nn.Linear(width, width)

    def forward(self, images):
        patches = self.patches(images)
        scale = 1 + patches.mean().item() * 0
        tokens = patches.flatten(2).transpose(1, 2) * scale
        tokens = torch.cat([tokens[:, :2], tokens], dim=1)
        return self.last(self.block(tokens, hw=patches.shape[-2:]), hw=patches.shape[-2:])[:, 2:]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear, self.pair = nn.Linear(width, width), Pair()

    def forward(self, tokens, hw):
        return self.pair(self.linear(tokens))[0]


class Pair(nn.Module):
    def forward(self, tokens):
        return tokens, tokens


def test_an_unknown_backbone_needs_paths_only():
    stages = find_stages(OddBackbone(), ['block', 'last'])
    assert [(stage.spec, stage.num_prefix) for stage in stages] == [((8, 8), 2)] * 2
    inside = find_stages(OddBackbone(), ['block.linear'])[0]  # Nobody tells the grid there; the image does.
    assert (inside.spec, inside.num_prefix) == ((8, 8), 2)


@pytest.mark.parametrize(
    'paths, message',
    [
        (['blok'], "'blok' leads to no module of OddBackbone; near it are block"),
        (['block.pair'], "'block.pair' gives no map but a tuple"),
        (['unused'], "'unused' must run once for an image, but runs 0 times"),
        (['last', 'block'], 'in the order in which they run'),
        ([], 'stages is empty'),
        ([2, 3], 'stages of OddBackbone are not known by number, only those of ResNet, SwinTransformer'),
        (['block', 2], 'all be numbers, or all be module paths'),
    ],
)
def test_a_stage_that_cannot_be_used_is_refused(paths, message):
    with pytest.raises(ValueError, match=message):
        find_stages(OddBackbone(), stage_paths(OddBackbone(), paths))


def test_a_map_with_its_channels_last_is_no_map():
    call = named_stages._Call('norm', None, torch.zeros(1, 8, 8, 32))
    with pytest.raises(ValueError, match=r"'norm' gives no map but a tensor of shape \(1, 8, 8, 32\)"):
        named_stages._stage_of(call, (64, 64))


@pytest.mark.parametrize(
    'family, change, message',
    [
        ('resnet', dict(stages=(2, 5)), 'must increase within 1..4'),
        ('resnet', dict(stages=(3, 2)), 'must increase within 1..4'),
        ('resnet', dict(stages=('layer2', 'layer5')), "'layer5' leads to no module of ResNet"),
        ('resnet', dict(stages=(1, 2, 3, 4)), 'give scales'),
        ('swin', dict(stages=('stages.1', 'stages.2')), "'stages.1' gives no map but a tuple"),
        ('vit', dict(stages=tuple(f'layers.{i}' for i in range(4)), class_text=class_text(num_stages=3)), 'num_stages'),
        ('vit', dict(class_text=class_text(out_stages=(3, 4))), 'need as many out_stages'),
        ('beit', dict(input_hw=(128, 128)), 'does not run on an image of 128 x 128'),
        ('vit', dict(bridger=dict(zoom_norm=True)), 'zoom_norm=True'),
    ],
)
def test_bad_arguments_are_refused_when_the_model_is_built(family, change, message):
    with pytest.raises(ValueError, match=message):
        wrap(family, **change)


@pytest.mark.parametrize('family', FAMILIES)
def test_the_trial_run_computes_shapes_only(family, monkeypatch):
    devices = []
    run = named_stages._run
    monkeypatch.setattr(
        named_stages,
        '_run',
        lambda copied, *args: (devices.append(next(copied.parameters()).device.type), run(copied, *args))[1],
    )
    wrap(family)
    assert devices == ['meta']


def test_the_trial_run_leaves_the_backbone_as_it_was():
    backbone = toy.build(BACKBONES['resnet'])
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    find_stages(backbone, ['layer3'])
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in backbone.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_a_checkpoint_of_the_model_without_bridger_finds_its_place():
    model, other = wrap('resnet'), toy.build(BACKBONES['resnet'], seed=5)
    outer, loaded = nn.Module(), {f'backbone.{key}': value for key, value in other.state_dict().items()}
    outer.backbone = model
    missing, unexpected = outer.load_state_dict(loaded, strict=False)
    assert not unexpected and all(key.startswith(('backbone.bridger', 'backbone.class_text')) for key in missing)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.backbone.state_dict().items())
    # And its own checkpoint, as ever.
    other = nn.Module()
    other.backbone = wrap('resnet')
    other.load_state_dict(outer.state_dict())


def test_a_copy_walks_past_its_own_bridger():
    """As moving averages make one."""
    model = randomize(wrap('resnet')).eval()
    images = toy.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)[-1]
        twin = copy.deepcopy(model)
        for parameter in model.bridger.parameters():
            parameter.zero_()
        assert torch.equal(twin(images)[-1], before) and not torch.equal(model(images)[-1], before)


def test_threads_do_not_mix_their_texts():
    from concurrent.futures import ThreadPoolExecutor

    model = randomize(wrap('resnet')).eval()
    batches = [toy.randn(1 + index % 3, 3, 64, 64, seed=index) for index in range(6)]

    def run(images):
        with torch.no_grad():
            return model(images)[-1]

    with ThreadPoolExecutor(3) as pool:
        for ours, images in zip(pool.map(run, batches), batches):
            torch.testing.assert_close(ours, run(images))


@pytest.mark.parametrize(
    'scope, name',
    [
        ('mmseg', 'mmetris.BridgedBackbone'),
        ('mmetris', 'BridgedBackbone'),
        ('mmengine', 'mmseg.mmetris.BridgedBackbone'),
    ],
)
def test_it_is_found_from_other_scopes(scope, name):
    from mmseg.registry import MODELS as MMSEG_MODELS

    cfg = wrapped_cfg('resnet') | dict(type=name)
    if scope == 'mmengine':
        cfg['backbone']['type'] = 'mmseg.ResNet'
    with DefaultScope.overwrite_default_scope(scope):
        assert (MODELS if scope == 'mmetris' else MMSEG_MODELS).build(cfg).stages[0].path == 'layer2'


def test_pretrained_weights_named_by_the_segmentor_go_to_the_wrapped_backbone():
    model = toy.build(wrapped_cfg('vit') | dict(pretrained='weights.pth'))
    assert model.backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')


@pytest.fixture
def one_process_group(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('family', FAMILIES)
def test_distributed_training_finds_no_unused_parameter(family, one_process_group):
    """DDP refuses the second step if, in the first, a parameter had no gradient."""
    model = nn.parallel.DistributedDataParallel(wrap(family, bridger=dict(dropout=0.1)).train())
    for _ in range(2):
        sum(feature_map.square().mean() for feature_map in model(toy.randn(2, 3, 64, 64))).backward()


TINY_CLIP = Path(__file__).parents[3] / 'pretrained' / 'tiny_clip_resnet.safetensors'


def test_a_slim_checkpoint_leaves_the_frozen_clip_out_and_restores_the_model():
    tiny = dict(
        embed_dim=64,
        quick_gelu=True,
        vision_cfg=dict(image_size=128, width=16, head_width=32, layers=[1, 1, 1, 1]),
        text_cfg=dict(context_length=77, vocab_size=49408, width=48, heads=4, layers=4),
    )
    text = class_text(arch=tiny, clip_checkpoint=str(TINY_CLIP))
    model, other = (wrap('resnet', class_text=text) for _ in range(2))
    model.init_weights()
    randomize(model).eval()
    slim = model.state_dict()
    full = len(slim)
    slim_state_dict(model, slim)
    assert {key for key in slim if key.startswith('class_text')} == {'class_text.clip_fingerprint'}
    assert len(slim) < full and all(key.startswith(('backbone', 'bridger', 'class_text')) for key in slim)
    other.load_state_dict(slim)
    images = toy.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(other.eval()(images)[-1], model(images)[-1])


def test_initial_weights_come_from_the_wrapped_backbone_and_leave_clip_and_bridger_as_they_are():
    """MiT, ViT and BEiT give new weights to every layer inside themselves."""
    for family in ('mit', 'vit', 'beit'):
        model = wrap(family)
        kept = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith('backbone')}
        own = [value.clone() for value in model.backbone.parameters()]
        model.init_weights()
        assert not all(torch.equal(*pair) for pair in zip(own, model.backbone.parameters()))
        assert all(torch.equal(model.state_dict()[key], value) for key, value in kept.items())
