"""What is put on a module takes part, exactly: hooks, parametrizations, subclasses, wrapped and replaced modules."""

import copy

import pytest
import torch
from open_clip.modified_resnet import Bottleneck
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from mmetris import tokenize
from mmetris.benchmark.plain_path import plain_path
from mmetris.models.layers.attention import Attention, fuse_attention
from mmetris.models.layers.folded_norm import FoldedBottleneck
from mmetris.models.layers.shortcut import is_plain, keeps_grid
from tests.toy import build_model, randn


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Wrapper(nn.Module):
    """A module around another one, as LoRA libraries and checkpointing have them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return 3 * self.inner(*args, **kwargs)


class HalfConv(nn.Conv2d):
    def forward(self, x):
        return 0.5 * super().forward(x)


class HalfNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 0.5 * super().forward(x)


def replace(root, name, new):
    parent, _, child = name.rpartition('.')
    setattr(root.get_submodule(parent), child, new)


def half(module):
    """The same module of a subclass that halves its result."""
    kind = HalfConv if isinstance(module, nn.Conv2d) else HalfNorm
    twin = copy.deepcopy(module)
    twin.__class__ = kind
    return twin


def quarter(module):
    """Give a module a forward of its own."""
    forward = module.forward
    module.forward = lambda x: forward(x) * 0.25


# What users put on a module: (root, name of the module).
ALTERATIONS = dict(
    forward_hook=lambda root, name: root.get_submodule(name).register_forward_hook(lambda m, a, out: out * 0),
    pre_hook=lambda root, name: root.get_submodule(name).register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
    own_forward=lambda root, name: quarter(root.get_submodule(name)),
    parametrization=lambda root, name: parametrize.register_parametrization(
        root.get_submodule(name), 'weight', Doubled()
    ),
    wrapper=lambda root, name: replace(root, name, Wrapper(root.get_submodule(name))),
    subclass=lambda root, name: replace(root, name, half(root.get_submodule(name))),
)


def block(stride=2):
    torch.manual_seed(0)
    block = Bottleneck(8, 4, stride).eval().requires_grad_(False)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.normal_()
    return FoldedBottleneck.of(block)


@pytest.mark.parametrize('alteration', ALTERATIONS)
@pytest.mark.parametrize('name', ['conv1', 'bn1', 'conv2', 'bn3', 'downsample.0', 'downsample.1', 'act2'])
def test_a_block_of_clip_does_what_its_modules_do(alteration, name):
    if name == 'act2' and alteration in ('parametrization', 'subclass'):
        pytest.skip('it has no weights')
    root, x = block(), randn(2, 8, 6, 6)
    before = root(x.clone())
    ALTERATIONS[alteration](root, name)
    after = root(x.clone())
    torch.testing.assert_close(after, Bottleneck.forward(root, x.clone()), rtol=1e-4, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_a_hook_on_the_whole_downsampling_takes_part():
    root, x = block(), randn(2, 8, 6, 6)
    root.downsample.register_forward_hook(lambda module, args, out: out * 0)
    torch.testing.assert_close(root(x.clone()), Bottleneck.forward(root, x.clone()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'put',
    [
        lambda conv: prune.l1_unstructured(conv, 'weight', 0.5),
        lambda conv: parametrizations.weight_norm(conv),
        lambda conv: conv.register_full_backward_hook(lambda module, grad_in, grad_out: None),
    ],
)
def test_pruning_weight_norm_and_backward_hooks_are_seen(put):
    conv = nn.Conv2d(3, 4, 3)
    assert is_plain(conv, nn.Conv2d)
    put(conv)
    assert not is_plain(conv, nn.Conv2d)


@pytest.mark.parametrize(
    'change',
    [dict(bias=True), dict(stride=2), dict(dilation=2), dict(padding_mode='circular'), dict(groups=2), dict(padding=0)],
)
def test_a_convolution_of_another_geometry_is_called(change):
    model = build_model('vit').eval()
    unit = model.decode_head.projector.pixel_projection[0]
    options = dict(padding=1, bias=False) | change
    unit.conv = nn.Conv2d(16, 16, 3, **options)
    assert keeps_grid(unit.conv) == (change == dict(bias=True))
    x = randn(1, 16, 4, 4)
    torch.testing.assert_close(unit(x), unit.literal_forward(x))


# Where the faster paths are, in a whole model.
WHERE = dict(
    stem=('resnet', 'backbone.tower.conv2'),
    stem_norm=('resnet', 'backbone.tower.bn1'),
    block=('resnet', 'backbone.tower.layer3.0.downsample.0'),
    pool=('resnet', 'backbone.tower.attnpool.v_proj'),
    whole_pool=('resnet', 'backbone.tower.attnpool'),
    attention=('vit', 'backbone.tower.transformer.resblocks.1.attn'),
    out_projection=('vit', 'backbone.tower.transformer.resblocks.1.attn.out_proj'),
    activation=('vit', 'text_encoder.tower.transformer.resblocks.2.mlp.gelu'),
    interactor=('vit', 'neck.bridges.2.image_interactor.cross_attn'),
    gate=('vit', 'decode_head.hierarchical_alignment'),
    enlarged=('vit', 'decode_head.projector.pixel_projection.1.conv'),
    pointwise=('vit', 'decode_head.projector.pixel_projection.4'),
    projector=('vit', 'decode_head.projector.pixel_projection'),
)


@pytest.mark.parametrize('where', WHERE)
def test_a_hook_anywhere_in_a_model_changes_what_it_says(where):
    """Zeroing a module's output by a hook is what replacing it by a module of zeros does."""
    kind, name = WHERE[where]
    model = build_model(kind).eval()
    images, tokens = randn(1, 3, 64, 64), tokenize('the left dog', 17)
    with torch.no_grad():
        before = model.forward_logits(images, tokens)
        seen = []

        def zero(module, args, output):
            seen.append(module)
            return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

        handle = model.get_submodule(name).register_forward_hook(zero)
        hooked = model.forward_logits(images, tokens)
        assert len(seen) == 1 and not torch.equal(hooked, before)
        if where not in ('out_projection', 'interactor'):  # torch's own attention never calls its out_proj.
            with plain_path(model):
                torch.testing.assert_close(model.forward_logits(images, tokens), hooked, rtol=1e-3, atol=1e-4)
        handle.remove()
        assert torch.equal(model.forward_logits(images, tokens), before)


def test_exchanged_modules_share_parameters_and_leave_subclasses_alone():
    class Own(nn.MultiheadAttention):
        pass

    root = nn.ModuleList([nn.MultiheadAttention(8, 2, bias=False, batch_first=True), Own(8, 2), nn.Linear(2, 2)])
    parameters, keys = set(root.parameters()), list(root.state_dict())
    fuse_attention(root)
    assert type(root[0]) is Attention and type(root[1]) is Own
    assert set(root.parameters()) == parameters and list(root.state_dict()) == keys
