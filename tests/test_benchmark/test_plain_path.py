"""The fast path equals the literal one, and each does, and leaves out, what it says."""

import pytest
import torch
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch import nn

from mmetris import tokenize
from mmetris.benchmark.plain_path import plain_path
from mmetris.models.layers.coord_conv import coordinate_maps
from mmetris.models.layers.position_encoding import sine_encoding_2d
from tests import toy

KINDS = ('vit', 'resnet')
TOKENS = tokenize(['the left dog', 'a man', 'the cat on the right side'], 17)
INDEX = torch.tensor([0, 1, 1])


def model_without_dropout(kind, **kwargs):
    return toy.build_model(kind, neck=dict(dropout=0), decode_head=dict(global_alignment=dict(dropout=0)), **kwargs)


def images(hw=(64, 96), number=2):
    return toy.randn(number, 3, *hw)


def step(model, index=INDEX):
    """Logits, and the gradients of what is tuned."""
    model.zero_grad()
    pixels = images().to(next(model.parameters()).dtype)
    logits = (
        model.forward_logits(pixels[index], TOKENS) if index is None else model.forward_logits(pixels, TOKENS, index)
    )
    logits.square().mean().backward()
    return logits.detach(), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def move_statistics(model):
    """BatchNorm as after a training: no statistic and no scale is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value += 0.5 * torch.rand(value.shape, generator=generator, dtype=value.dtype)


def saved_bytes(call):
    """What autograd keeps of a call's activations; parameters, which are there anyway, are not counted."""
    total = 0

    def pack(tensor):
        nonlocal total
        if not isinstance(tensor, nn.Parameter):
            total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    del result
    return total


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('kind', KINDS)
def test_fast_and_plain_give_the_same_logits_and_gradients(kind, training):
    # In double precision, so that what rounding does in another order is told from a mistake.
    model = model_without_dropout(kind).train(training).double()
    move_statistics(model)
    fast = step(model)
    with plain_path(model):
        plain = step(model)
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_fast_and_plain_predict_the_same_without_gradients(kind):
    model = model_without_dropout(kind).eval()
    with torch.no_grad():
        fast = model.forward_logits(model.encode_images(images()), TOKENS, INDEX)
        with plain_path(model):
            plain = model.forward_logits(model.encode_images(images()), TOKENS, INDEX)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_the_fast_path_keeps_nothing_before_the_first_bridger_and_the_plain_one_does(kind):
    model = model_without_dropout(kind).train()

    def prefix():
        text = model.neck.run_text(
            model.text_encoder, model.neck.start_text(model.text_encoder, TOKENS), model.text_encoder.out_stages[0]
        )
        prefix = type(model.neck).image_prefix(model.neck, model.backbone, images())
        return prefix, text

    assert saved_bytes(prefix) == 0
    assert not prefix()[0].state[0].requires_grad and not prefix()[1].words.requires_grad
    with plain_path(model):
        assert saved_bytes(prefix) > 0 and prefix()[1].words.requires_grad
    with plain_path(model, graph_from_stem=False):
        assert saved_bytes(prefix) == 0


def test_the_plain_path_makes_weights_and_encodes_an_image_for_each_sentence(monkeypatch):
    model = model_without_dropout('vit').eval()
    fused, rows = [], []
    attend, conv = nn.functional.scaled_dot_product_attention, model.backbone.tower.conv1
    monkeypatch.setattr(
        nn.functional,
        'scaled_dot_product_attention',
        lambda *args, **kwargs: fused.append(1) or attend(*args, **kwargs),
    )
    conv.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    with torch.no_grad():
        model.forward_logits(images(), TOKENS, INDEX)
        num_fused = len(fused)
        with plain_path(model):
            model.forward_logits(images(), TOKENS, INDEX)
    assert num_fused > 0 and len(fused) == num_fused
    assert rows == [2, 3]


def test_the_plain_path_convolves_the_enlarged_maps_and_the_fast_one_the_small_ones(monkeypatch):
    model = model_without_dropout('vit').eval()
    first, second, last = model.decode_head.projector.pixel_projection
    kernels = [conv.weight for conv in (first.conv, second.conv, last)]
    grids, convolve = [], torch.nn.functional.conv2d

    # Of the operation and not of a module: a module that is no longer its class's takes the plain way at once.
    def count(x, weight, *args, **kwargs):
        if any(weight is kernel for kernel in kernels):
            grids.append(tuple(x.shape[2:]))
        return convolve(x, weight, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, 'conv2d', count)
    with torch.no_grad():
        height, width = model.forward_logits(images(), TOKENS, INDEX).shape[2:]
        assert grids == []
        with plain_path(model):
            model.forward_logits(images(), TOKENS, INDEX)
    assert grids == [(height // 2, width // 2), (height, width), (height, width)]


def test_the_plain_path_keeps_no_tables_and_the_fast_one_does():
    model = model_without_dropout('vit')
    for make in (lambda: sine_encoding_2d((3, 4), 8), lambda: coordinate_maps((3, 4))):
        assert make() is make()
        with plain_path(model):
            assert make() is not make()
    cache, embedding = model.backbone._positions, model.backbone.tower.positional_embedding
    assert cache.get(embedding, (4, 6)) is cache.get(embedding, (4, 6))
    with plain_path(model):
        cache = model.backbone._positions
        assert cache.get(embedding, (4, 6)) is not cache.get(embedding, (4, 6))


def test_features_of_class_names_are_made_anew_on_the_plain_path():
    cfg = toy.model_cfg() | dict(type='ClassNameSegmentor', vocabulary=dict(classes=['dog', 'tall man', 'sky']))
    cfg['text_encoder']['type'] = 'ClassText'
    model = toy.build(cfg).eval()
    with torch.no_grad():
        assert model.text_encoder.stage_features() is model.text_encoder.stage_features()
        fast = model.class_logits(images())
        with plain_path(model):
            assert model.text_encoder.stage_features() is not model.text_encoder.stage_features()
            torch.testing.assert_close(model.class_logits(images()), fast, rtol=1e-4, atol=1e-4)


def test_what_was_encoded_outside_is_refused_inside():
    model = model_without_dropout('vit').eval()
    prefix = model.encode_images(images())
    with plain_path(model), pytest.raises(TypeError, match='call encode_images inside'):
        model.forward_logits(prefix, TOKENS, INDEX)


def test_the_model_is_as_before_after_the_block_also_after_an_error():
    model = model_without_dropout('resnet')
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError), plain_path(model):
        assert any(dict(vars(module)) != before[name] for name, module in model.named_modules())
        raise RuntimeError
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize('kind', KINDS)
def test_channels_last_changes_no_result(kind):
    model = model_without_dropout(kind).eval()
    with torch.no_grad():
        expected = model.forward_logits(images(), TOKENS, INDEX)
        model.to(memory_format=torch.channels_last)
        actual = model.forward_logits(images().to(memory_format=torch.channels_last), TOKENS, INDEX)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_mmengines_activation_checkpointing_changes_no_gradient_and_keeps_less():
    model = model_without_dropout('vit').train()
    expected, kept = step(model), saved_bytes(lambda: model.forward_logits(images(), TOKENS, INDEX))
    blocks = [f'backbone.tower.transformer.resblocks.{index}' for index in (2, 3)]
    turn_on_activation_checkpointing(model, [*blocks, 'decode_head.global_alignment.layers.0'])
    torch.testing.assert_close(step(model), expected, rtol=1e-4, atol=1e-4)
    assert saved_bytes(lambda: model.forward_logits(images(), TOKENS, INDEX)) < kept


@pytest.mark.parametrize('kind', KINDS)
def test_the_whole_model_is_one_graph_for_the_compiler(kind):
    model = model_without_dropout(kind).train()
    expected = model.forward_logits(images(), TOKENS, INDEX)
    torch._dynamo.reset()
    compiled = torch.compile(model.forward_logits, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(images(), TOKENS, INDEX), expected, rtol=1e-4, atol=1e-4)
