"""Colours of the masks: apart for everyone, and legible numbers on each."""

import itertools

import cv2
import numpy as np
import pytest

from mmetris.visualization.palette import EXPRESSION_COLORS, color_of, letter_color_on

# Machado et al., 2009, severity 1, on linear RGB: sight without the cones for long, middle and short waves.
SIGHT = dict(
    ordinary=np.eye(3),
    protanopia=[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    deuteranopia=[[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    tritanopia=[[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)


def linear(colors):
    colors = np.asarray(colors, float) / 255
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def lab(colors, matrix):
    seen = np.clip(linear(colors) @ np.transpose(matrix), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(seen.astype(np.float32)[None], cv2.COLOR_RGB2Lab)[0]


@pytest.mark.parametrize('sight', SIGHT)
def test_sixteen_colours_are_apart(sight):
    seen = lab(EXPRESSION_COLORS, SIGHT[sight])
    assert len(seen) == 16
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 16


def test_numbers_are_legible_on_each():
    for color in EXPRESSION_COLORS:
        lights = sorted(float(linear(one) @ (0.2126, 0.7152, 0.0722)) for one in (color, letter_color_on(color)))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 3
    assert letter_color_on((0, 0, 0)) == (255, 255, 255) and letter_color_on((255, 255, 255)) == (0, 0, 0)


def test_they_begin_again():
    assert color_of(16) == color_of(0) != color_of(15)
