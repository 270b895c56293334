"""QuickGELU by SiLU, against open_clip's."""

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from mmetris.models.clip import build_image_tower, resolve_arch
from mmetris.models.layers.quick_gelu import FusedQuickGELU
from tests.toy import randn


def test_value_and_gradient_are_open_clips():
    results = []
    for activation in (FusedQuickGELU(), QuickGELU()):
        x = (20 * randn(4, 50)).double().requires_grad_()
        out = activation(x)
        out.square().sum().backward()
        results.append((out, x.grad))
    torch.testing.assert_close(*results)


def test_the_input_stays_what_it_is():
    x = randn(3, 4)
    before = x.clone()
    torch.testing.assert_close(FusedQuickGELU()(x), QuickGELU()(x))
    assert torch.equal(x, before)
    with torch.no_grad():
        FusedQuickGELU()(x.requires_grad_())
    assert torch.equal(x, before)


def test_one_tensor_is_kept_for_the_backward_pass_where_the_literal_form_keeps_two():
    def kept(activation):
        tensors = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensors.append(tensor) or tensor, lambda _: _):
            activation(randn(4, 50).requires_grad_())
        return len({tensor.data_ptr() for tensor in tensors if tensor.numel() == 200})

    assert (kept(FusedQuickGELU()), kept(QuickGELU())) == (1, 2)


def test_openai_towers_have_it_and_others_have_gelu():
    for quick, expected in ((True, FusedQuickGELU), (False, nn.GELU)):
        vision = dict(layers=2, width=16, head_width=8, patch_size=8, image_size=16)
        arch = resolve_arch(dict(embed_dim=8, vision_cfg=vision, text_cfg=dict(width=8, heads=2, layers=1)), quick)
        blocks = build_image_tower(arch).transformer.resblocks
        assert [type(block.mlp.gelu) for block in blocks] == [expected] * 2
