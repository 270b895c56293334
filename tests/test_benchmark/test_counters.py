"""Counts are what can be worked out by hand; times are never tested against a limit."""

import torch
from torch import nn

from mmetris.benchmark.counters import count_flops, matrix_product, resident_growth, time_in_turns


def test_calls_take_turns_and_the_first_round_is_not_timed():
    order = []
    seconds = time_in_turns(
        dict(one=lambda: order.append(1), other=lambda: order.append(2)), repeats=3, device=torch.device('cpu')
    )
    assert order == [1, 2] * 4
    assert {name: len(values) for name, values in seconds.items()} == dict(one=3, other=3)


def test_a_multiply_add_counts_as_two_flops():
    product, flops = matrix_product(torch.device('cpu'), torch.float32, 8)
    assert count_flops(product) == flops == 2 * 8**3
    assert count_flops(lambda: nn.Linear(3, 5)(torch.ones(7, 3))) == 2 * 7 * 3 * 5


def test_attention_on_a_cpu_counts():
    query, key = torch.ones(2, 3, 5, 4, requires_grad=True), torch.ones(2, 3, 7, 4)
    products = 2 * 2 * 3 * 5 * 7 * 4  # FLOPs of the scores, and of the mixing of values
    attend = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(query.detach(), key, key)) == 2 * products
    # Scores once more, and a product for the gradients of each of queries, keys, values and weights.
    assert count_flops(lambda: attend(query, key, key).sum().backward()) == 7 * products


def test_growth_of_memory_is_that_of_the_call():
    freed = torch.ones(4_000_000)  # What was freed before is not taken for room that costs nothing.
    del freed
    held = []
    grown = resident_growth(lambda: held.append(torch.ones(4_000_000)))  # called twice, 16 MB each
    assert 28e6 < grown < 60e6
