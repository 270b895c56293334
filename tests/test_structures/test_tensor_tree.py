"""Trees of tensors: taken apart, changed, and filled again."""

from typing import NamedTuple

import torch

from mmetris.structures import TreeForm, map_tensors, tensors_of


class State(NamedTuple):
    tokens: torch.Tensor
    grid_hw: tuple[int, int]
    more: dict


def tree():
    return State(torch.ones(2, 3), (4, 5), dict(a=[torch.zeros(2), 'name'], b=(torch.full((2,), 2.0), None)))


def test_tensors_come_from_left_to_right():
    assert [float(tensor.flatten()[0]) for tensor in tensors_of(tree())] == [1, 0, 2]
    assert tensors_of(7) == [] and tensors_of(torch.ones(1))[0] == 1


def test_the_form_stays_and_the_tree_is_not_changed():
    before = tree()
    rows = map_tensors(lambda tensor: tensor[torch.tensor([1, 0, 1])], before)
    assert type(rows) is State and rows.grid_hw == (4, 5) and rows.more['a'][1] == 'name'
    assert [len(tensor) for tensor in tensors_of(rows)] == [3, 3, 3]
    assert [len(tensor) for tensor in tensors_of(before)] == [2, 2, 2]


def test_a_form_is_filled_with_other_tensors_and_numbers_in_it_stay_numbers():
    other = [torch.full((1,), float(number)) for number in range(3)]
    filled = TreeForm(tree()).fill(other)
    assert all(one is two for one, two in zip(tensors_of(filled), other))
    assert filled.grid_hw == (4, 5) and filled.more['b'][1] is None
