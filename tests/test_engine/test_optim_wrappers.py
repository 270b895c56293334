"""BFloat16OptimWrapper: losses in bfloat16, on a CPU too; what lasts longer than a step is float32."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmetris.engine import BFloat16OptimWrapper
from tests import toy
from tests.test_models.test_segmentors.test_referring_segmentor import batch, seen_types


class Line(BaseModel):
    """The loss is the mean over rows of a linear function, so that its gradient is the mean row."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1, bias=False)
        self.seen = []

    def forward(self, inputs: Tensor, mode: str) -> dict[str, Tensor]:
        value = self.linear(inputs)
        self.seen.append(value.dtype)
        return dict(loss=value.float().mean())


def line_step(rows: list[list[float]], model: Line, wrapper: OptimWrapper) -> None:
    # Whole numbers, which bfloat16 has exactly.
    model.train_step(dict(inputs=torch.tensor(rows)), wrapper)


ROWS = [[1.0, 2.0, 3.0], [3.0, -2.0, 1.0], [8.0, 0.0, 4.0], [0.0, 4.0, -4.0]]
MEAN = torch.tensor([[3.0, 1, 1]])


def build_line(**kwargs) -> tuple[Line, BFloat16OptimWrapper, Tensor]:
    """Model, wrapper of SGD with learning rate 1, and the model's first weights."""
    init_default_scope('mmetris')
    model = Line()
    wrapper = build_optim_wrapper(
        model, dict(type='BFloat16OptimWrapper', optimizer=dict(type='SGD', lr=1.0), **kwargs)
    )
    return model, wrapper, model.linear.weight.detach().clone()


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_layers_see_bfloat16_and_what_lasts_is_float32(kind):
    """With gradients accumulated: they are there after the first iteration, and weights move after the second."""
    model = toy.build_model(kind).train()
    wrapper = build_optim_wrapper(
        model, dict(type='BFloat16OptimWrapper', optimizer=dict(type='Adam', lr=1e-2), accumulative_counts=2)
    )
    seen = seen_types(model)
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in tuned]
    loss = model.train_step(batch(), wrapper)['loss']
    assert set(seen.values()) == {torch.bfloat16} and {name.split('.')[0] for name in seen} >= {
        'backbone',
        'text_encoder',
        'neck',
        'decode_head',
    }
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert {parameter.grad.dtype for parameter in tuned} == {torch.float32}
    assert all(map(torch.equal, tuned, before))
    model.train_step(batch(), wrapper)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(map(torch.equal, tuned, before))
    states = wrapper.optimizer.state.values()
    assert {state[name].dtype for state in states for name in ('exp_avg', 'exp_avg_sq')} == {torch.float32}


def test_a_model_learns_in_it():
    model = toy.build_model().train()
    wrapper = build_optim_wrapper(model, dict(type='BFloat16OptimWrapper', optimizer=dict(type='Adam', lr=1e-2)))
    losses = [float(model.train_step(batch(), wrapper)['loss'].detach()) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_two_accumulated_halves_give_the_gradient_of_the_whole():
    model, wrapper, before = build_line(accumulative_counts=2)
    line_step(ROWS[:2], model, wrapper)
    assert torch.equal(model.linear.weight, before)
    line_step(ROWS[2:], model, wrapper)
    assert torch.equal(model.linear.weight, before - MEAN)
    whole, wrapper, before = build_line()
    line_step(ROWS, whole, wrapper)
    assert torch.equal(whole.linear.weight, before - MEAN)
    assert set(model.seen + whole.seen) == {torch.bfloat16}


def test_gradients_are_clipped_by_their_norm():
    model, wrapper, before = build_line(clip_grad=dict(max_norm=0.5))
    line_step(ROWS, model, wrapper)
    torch.testing.assert_close(model.linear.weight, before - 0.5 * MEAN / MEAN.norm(), rtol=0, atol=1e-6)


def test_autocast_ends_with_the_losses():
    model, wrapper, _ = build_line()
    with wrapper.optim_context(model):
        assert torch.is_autocast_enabled('cpu')
    assert not torch.is_autocast_enabled('cpu')


def test_it_resumes_what_float16_and_float32_have_saved():
    _, wrapper, _ = build_line()
    wrapper.load_state_dict(dict(wrapper.state_dict(), loss_scaler=dict(scale=65536.0)))
    wrapper.load_state_dict(OptimWrapper(wrapper.optimizer).state_dict())


def test_mmsegs_scope_finds_it_too():
    init_default_scope('mmseg')
    try:
        wrapper = build_optim_wrapper(
            Line(), dict(type='mmetris.BFloat16OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
        )
    finally:
        init_default_scope('mmetris')
    assert isinstance(wrapper, BFloat16OptimWrapper)
