"""The example that runs exported files: its tokenizer, its pictures, its mistakes.

Whether it finds the masks of mmetris: test_tools/test_export.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import default_bpe
from PIL import Image

from mmetris import tokenize
from mmetris.utils.image_io import read_image
from mmetris.utils.letterbox import letterbox_geometry, letterbox_image, undo_letterbox
from tests.toy_inference import ROOT, picture

pytest.importorskip('onnxruntime')


def load():
    """The example, which is no package."""
    spec = importlib.util.spec_from_file_location('onnx_runtime_segment', ROOT / 'projects/onnx_runtime/segment.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


segment = load()
TOKENIZER = segment.Tokenizer(default_bpe(), 77, 49406, 49407)
ODD = [
    '',
    'The LEFT dog',
    "it's the dogs' ball, they'll've",
    'x' * 300,
    '12 345',
    'naïve café',
    'ǅungla İstanbul ß ſ',
    "don'ſ '\u017ft",
    'a&amp;b &amp;lt; &nbsp;',
    'schÃ¶n',
    '犬 左',
    '🐶👍🏽',
    'a\u0301\u200d\x85b\x1cc\x00d',
    '<end_of_text> <START_of_text>',
    '<\u017ftart_of_text>',
    '١٢٣ ½ Ⅷ',
    '\u2028a\ufeffb',
    'caf\udce9',
    'ﬁne ﬂag',
    '“quoted” — dash…',
]
FACTS = dict(size=[64, 96], border=[122.7709383, 116.7460125, 104.09373615], cubic_coefficient=-0.75)


@pytest.mark.parametrize('text', ODD)
def test_odd_texts_have_the_ids_of_mmetris(text):
    assert TOKENIZER([text]).tolist() == tokenize([text]).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_any_text_has_the_ids_of_mmetris(texts):
    assert TOKENIZER(texts).tolist() == tokenize(texts).tolist()


def test_a_long_sentence_is_cut_as_mmetris_cuts_it():
    short = segment.Tokenizer(default_bpe(), 5, 49406, 49407)
    assert short(['one two three four five', 'a']).tolist() == tokenize(['one two three four five', 'a'], 5).tolist()


def segmenter_without_files() -> segment.Segmenter:
    """Its pictures need no model."""
    one = segment.Segmenter.__new__(segment.Segmenter)
    one.facts = dict(image=FACTS)
    return one


@pytest.mark.parametrize('height, width', [(48, 80), (333, 200), (64, 96), (1, 7), (1000, 30)])
def test_pictures_are_letterboxed_as_by_mmetris(height, width):
    pixels = cv2.GaussianBlur(picture(height, width), (3, 3), 0)
    placed = segmenter_without_files().place(pixels)
    expected = letterbox_image(pixels, (64, 96), FACTS['border'])
    off = np.abs(placed.images[0].transpose(1, 2, 0) - expected)
    assert off.max() <= 3 and off.mean() < 0.5  # OpenCV 4 has a 32nd of a pixel, OpenCV 5 more.
    geometry = letterbox_geometry((height, width), (64, 96))
    assert placed.rows[0] == pytest.approx(geometry.top) and placed.columns[0] == pytest.approx(geometry.left)


@pytest.mark.parametrize('height, width', [(48, 80), (333, 200), (64, 96)])
def test_masks_come_back_as_by_mmetris(height, width):
    probability = picture(64, 96, seed=2)[..., 0].astype(np.float32) / 255
    placed = segmenter_without_files().place(picture(height, width))
    found = segment.resample(segment.resample(probability, placed.rows, 0, -0.75), placed.columns, 1, -0.75)
    geometry = letterbox_geometry((height, width), (64, 96))
    expected = undo_letterbox(torch.from_numpy(probability)[None, None], geometry, (64, 96), (height, width))
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-4)


def save_kinds(folder: Path) -> list[Path]:
    """Pictures that are not plain RGB, as files."""
    colours = Image.fromarray(picture(20, 30))
    clear = colours.convert('RGBA')
    clear.putalpha(Image.fromarray(picture(20, 30, seed=1)[..., 0]))
    turned = Image.Exif()
    turned[0x0112] = 6
    sixteen = Image.fromarray(picture(20, 30)[..., 0].astype(np.uint16) * 257)
    colours.save(folder / 'turned.png', exif=turned)
    for name, image in dict(
        clear=clear, grey=colours.convert('L'), palette=colours.quantize(16), sixteen=sixteen
    ).items():
        image.save(folder / f'{name}.png')
    return sorted(folder.glob('*.png'))


def test_pictures_that_are_not_ordinary_are_read_as_by_mmetris(tmp_path):
    files = save_kinds(tmp_path)
    assert len(files) == 5
    for file in files:
        expected = read_image(file)[..., ::-1].astype(int)
        found = segment.read_picture(file)
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 1, file.name


def test_mistakes_end_with_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'torch_only').mkdir()
    (tmp_path / 'torch_only' / 'export.json').write_text(json.dumps(dict(files={'whole.pt2': {}})))
    for words, message in [
        ([tmp_path / 'other', 'x.png', 'a'], 'no export.json'),
        ([tmp_path / 'torch_only', 'x.png', 'a'], '--format onnx'),
        ([tmp_path, 'x.png', 'a', '--threshold', '2'], 'between 0 and 1'),
    ]:
        with pytest.raises(SystemExit) as end:
            segment.main(list(map(str, words)))
        assert end.value.code == 2 and message in capsys.readouterr().err.split('\n')[-2]
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'broken\.png cannot be read'):
        segment.read_picture(tmp_path / 'broken.png')
