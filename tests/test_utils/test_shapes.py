from __future__ import annotations

import pytest
import torch

from mmetris.utils.shapes import hw_of


@pytest.mark.parametrize('shape', [(5, 7), (3, 5, 7), (2, 3, 5, 7)])
def test_height_and_width_are_the_last_axes_whatever_precedes_them(shape):
    height_width = hw_of(torch.zeros(shape))
    assert height_width == (5, 7) and type(height_width) is tuple
