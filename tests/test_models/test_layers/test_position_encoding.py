"""Sine position encodings: worked values, layout, what is cached and when it must not be."""

import math

import pytest
import torch

from mmetris.models.layers import position_encoding
from mmetris.models.layers.position_encoding import sine_encoding_1d, sine_encoding_2d


def test_words_by_hand():
    """With four channels the frequencies are 1 and 1/100, sines in even channels and cosines in odd ones."""
    encoding = sine_encoding_1d(3, 4)
    assert encoding[0].tolist() == [0, 1, 0, 1]
    expected = [math.sin(2), math.cos(2), math.sin(2 / 100), math.cos(2 / 100)]
    assert encoding[2].tolist() == pytest.approx(expected, abs=1e-6)


def test_pixels_encode_the_column_in_the_first_half_and_the_row_in_the_second():
    height, width, channels = 3, 5, 8
    encoding = sine_encoding_2d((height, width), channels).view(height, width, channels)
    columns, rows = sine_encoding_1d(width, channels // 2), sine_encoding_1d(height, channels // 2)
    for y in range(height):
        for x in range(width):
            assert torch.equal(encoding[y, x], torch.cat((columns[x], rows[y])))


@pytest.mark.parametrize(('encode', 'size'), [(sine_encoding_1d, 7), (sine_encoding_2d, (2, 3))])
def test_a_size_is_computed_once_per_type(encode, size):
    assert encode(size, 16) is encode(size, 16)
    half = encode(size, 16, dtype=torch.float16)
    assert half.dtype == torch.float16
    # Computed in single precision, then rounded.
    assert torch.equal(half, encode(size, 16).half())


@pytest.mark.parametrize(('encode', 'size'), [(sine_encoding_1d, 11), (sine_encoding_2d, (11, 2))])
def test_a_table_made_in_inference_mode_can_train_later(encode, size):
    with torch.inference_mode():
        encode(size, 16)
    weight = torch.ones(16, requires_grad=True)
    (encode(size, 16) * weight).sum().backward()
    assert torch.isfinite(weight.grad).all()


def test_compilation_neither_reads_nor_fills_the_cache():
    position_encoding._sine_encoding_2d.cache_clear()
    compiled = torch.compile(lambda x: x + sine_encoding_2d((3, 4), 8), backend='eager', fullgraph=True)
    result = compiled(torch.zeros(12, 8))
    assert position_encoding._sine_encoding_2d.cache_info().currsize == 0
    assert torch.allclose(result, sine_encoding_2d((3, 4), 8))


@pytest.mark.parametrize(('encode', 'size', 'channels'), [(sine_encoding_1d, 4, 7), (sine_encoding_2d, (2, 2), 6)])
def test_width_without_room_for_sine_and_cosine_is_refused(encode, size, channels):
    with pytest.raises(ValueError, match=f'channels.*{channels}'):
        encode(size, channels)
