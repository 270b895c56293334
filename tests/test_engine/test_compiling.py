"""Compiling Bridger and decoder: one graph each, the same results, and a way back to eager calls."""

import pytest
import torch
from torch import nn

from mmetris.benchmark.plain_path import plain_path
from mmetris.engine.compiling import compile_parts, eager
from tests import toy

TOKENS = torch.tensor([[49406, 320, 49407, 0], [49406, 320, 2866, 49407]])
INDEX = torch.tensor([0, 0])


@pytest.fixture
def model():
    torch._dynamo.reset()
    return toy.build_model('vit').eval()


@pytest.fixture
def graphs():
    """Graphs that the backend was handed and, once for each call, which of them ran."""
    compiled, ran = [], []

    def backend(graph, inputs):
        compiled.append(graph)
        index = len(compiled)

        def call(*args):
            ran.append(index)
            return graph(*args)

        return call

    backend.compiled, backend.ran = compiled, ran
    return backend


def test_each_part_is_one_graph_with_the_same_result_and_the_same_keys(model, graphs):
    images, keys = toy.randn(1, 3, 64, 64), list(model.state_dict())
    with torch.no_grad():
        expected = model.forward_logits(images, TOKENS, INDEX)
        compile_parts(model, backend=graphs, fullgraph=True)
        torch.testing.assert_close(model.forward_logits(images, TOKENS, INDEX), expected)
        # What was encoded beforehand goes into a graph of its own.
        prefix = model.encode_images(images)
        torch.testing.assert_close(model.forward_logits(prefix, TOKENS, INDEX), expected)
    assert graphs.ran == [1, 2, 3, 2] and list(model.state_dict()) == keys


@pytest.mark.parametrize('way', [eager, plain_path])
def test_eager_calls_leave_the_compiled_ones_as_they_were(model, graphs, way):
    images = toy.randn(1, 3, 64, 64)
    compile_parts(model, backend=graphs)
    with torch.no_grad():
        with pytest.raises(KeyError), way(model):
            model.forward_logits(images, TOKENS, INDEX)
            raise KeyError
        assert graphs.ran == []
        model.forward_logits(images, TOKENS, INDEX)
    assert graphs.ran == [1, 2]


def test_other_models_are_refused():
    with pytest.raises(ValueError, match='Linear has no neck and no decode_head to compile'):
        compile_parts(nn.Linear(1, 1))
