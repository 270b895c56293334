"""Feature maps without and with the Bridger, then the mask, for a picture and sentences: the paper's Figure 3.

    python tools/analysis_tools/feature_maps.py CONFIG CHECKPOINT picture.jpg "the dog on the left" "the cat" \\
        --out feature_maps.png

"Without" is the same model with its Bridgers passed by, so that both rows have one decoder; the frozen encoders' maps
then know no sentence. The paper compares with a model that was trained without: ``--without CONFIG CHECKPOINT``.

The paper does not say which features it shows. Here it is the size of the features (their norm over the channels) at
one place: the decoder's map after hierarchical alignment, where the sentence plays a part in both rows, or with
``--at`` a stage's map as the decoder gets it. Each map has its own colour scale, from its least to its largest values.
"""

from __future__ import annotations

import mmetris.threads  # noqa: F401  PyTorch reads what it sets when it is imported

# isort: split

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmetris.apis import init_model
from mmetris.apis.asking import Asker
from mmetris.apis.model_zoo import find_model
from mmetris.apis.result_files import check_image_suffix, write_image
from mmetris.models.necks.bridger import Bridger
from mmetris.utils.image_io import image_name, read_image
from mmetris.utils.letterbox import LetterboxGeometry, undo_letterbox
from mmetris.visualization.referring_picture import PRED_COLOR, overlay_mask
from mmetris.visualization.text import find_font, wrap_text


class Column(NamedTuple):
    """What a sentence gets.

    Attributes:
        text: The sentence.
        without: (H, W) size of the features without the Bridger, at the picture's size.
        with_bridger: (H, W) the same with the Bridger.
        mask: (H, W) bool.
    """

    text: str
    without: np.ndarray
    with_bridger: np.ndarray
    mask: np.ndarray


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Feature maps without and with the Bridger, then the mask')
    parser.add_argument('config', help='config, or name of the model index')
    parser.add_argument('checkpoint', help='checkpoint; "-" for the one that belongs to the config')
    parser.add_argument('image', help='picture')
    parser.add_argument('texts', nargs='+', help='sentences; each is a column')
    parser.add_argument(
        '--without',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model that was trained without Bridger; default the same model, Bridgers passed by',
    )
    parser.add_argument(
        '--at',
        default='fused',
        metavar='PLACE',
        help="the decoder's map after hierarchical alignment (fused, default), or of the maps that it "
        'gets the first (finest), the last, or that of a stage (a number)',
    )
    parser.add_argument('--out', required=True, help='picture to write')
    parser.add_argument('--panel', type=int, default=360, help='width of a panel in pixels; default 360')
    parser.add_argument('--device', help='default a GPU if there is one')
    return parser


@contextmanager
def passed_by(bridger: Bridger) -> Iterator[None]:
    """Run a model's encoders as if it had no Bridger."""
    stages, bridger.stages = bridger.stages, ()
    try:
        yield
    finally:
        bridger.stages = stages


def choose_place(place: str, out_stages: Sequence[int]) -> int | None:
    """Index among the decoder's maps; None for the fused one.

    Raises:
        ValueError: If there is no such place.
    """
    if place == 'fused':
        return None
    if place in ('first', 'last'):
        return 0 if place == 'first' else len(out_stages) - 1
    if not place.isdigit() or int(place) not in out_stages:
        raise ValueError(
            f'--at {place}: the decoder gets the stages {", ".join(map(str, out_stages))}; give one of '
            'them, first, last or fused'
        )
    return out_stages.index(int(place))


def load(config: str, checkpoint: str, device: str | None) -> Asker:
    """A model with its test pipeline.

    Raises:
        ValueError: If it takes no sentences.
    """
    files = find_model(config, None if checkpoint == '-' else checkpoint)
    asker = Asker(init_model(files.config, files.weights, device), files.config)
    if asker.by_class:
        raise ValueError(f'{config} looks for classes, not for sentences')
    return asker


@torch.no_grad()
def energy_maps(asker: Asker, image: np.ndarray, texts: Sequence[str], place: str) -> list[np.ndarray]:
    """Size of the features for each sentence, (H, W) float32 at the picture's size.

    Args:
        asker: The model.
        image: (H, W, 3) BGR.
        texts: Sentences.
        place: See :func:`choose_place`.
    """
    model = asker.model
    encoded = asker.encode([image], ['image'])
    texts = asker.check_texts(texts)
    samples = [encoded.samples[0].new() for _ in texts]
    for sample, text in zip(samples, texts):
        sample.set_metainfo(dict(expression=text))
    tokens = asker.tokens_of(texts, samples)
    first = torch.zeros(len(texts), dtype=torch.long, device=tokens.device)
    features = model.extract_feat(encoded.prefix, tokens, first)
    index = choose_place(place, model.backbone.out_stages)
    chosen = model.decode_head.align_hierarchically(features) if index is None else features.maps[index]
    input_hw = tuple(encoded.inputs.shape[-2:])
    return [_at_picture(one, encoded.samples[0], input_hw) for one in chosen.float().norm(dim=1)]


def _at_picture(energy: Tensor, sample, input_hw: tuple[int, int]) -> np.ndarray:
    """A map (h, w) of the network's grid at the picture's size; what is padding falls away."""
    enlarged = torch.nn.functional.interpolate(energy[None, None], size=input_hw, mode='bicubic', align_corners=False)
    ori_hw = tuple(sample.ori_shape[:2])
    if 'letterbox' in sample.metainfo:
        enlarged = undo_letterbox(enlarged, LetterboxGeometry(*sample.metainfo['letterbox']), input_hw, ori_hw)
    else:
        enlarged = torch.nn.functional.interpolate(enlarged, size=ori_hw, mode='bilinear', align_corners=False)
    return enlarged[0, 0].cpu().numpy()


def make_columns(
    asker: Asker, image: np.ndarray, texts: Sequence[str], place: str, plain: Asker | None = None
) -> list[Column]:
    """Everything the figure shows.

    Args:
        asker: The model with Bridger.
        image: (H, W, 3) BGR.
        texts: Sentences.
        place: See :func:`choose_place`.
        plain: A model without Bridger. Defaults to None: the same, its Bridgers passed by.

    Raises:
        ValueError: If the model has no Bridger that could be passed by.
    """
    if not asker.model.neck.stages:
        raise ValueError(
            'the model has no Bridger (neck.stages is empty); give the one that has, and this one as --without'
        )
    if plain is None:
        with passed_by(asker.model.neck):
            without = energy_maps(asker, image, texts, place)
    else:
        without = energy_maps(plain, image, texts, place)
    with_bridger = energy_maps(asker, image, texts, place)
    encoded = asker.encode([image], ['image'])
    samples = asker.ask(encoded, asker.check_texts(texts), [0] * len(texts))
    masks = [sample.pred_sem_seg.data[0].numpy() == 1 for sample in samples]
    return [Column(*column) for column in zip(texts, without, with_bridger, masks)]


def draw_figure(image: np.ndarray, columns: Sequence[Column], panel_width: int = 360) -> np.ndarray:
    """The figure: a column for each sentence, with the rows picture and sentence, features without and with Bridger,
    mask.

    Args:
        image: (H, W, 3) RGB.
        columns: What :func:`make_columns` returned.
        panel_width: Pixels. Defaults to 360.

    Returns:
        (H', W', 3) RGB.
    """
    panel_height = max(1, round(panel_width * image.shape[0] / image.shape[1]))
    small = cv2.resize(
        image,
        (panel_width, panel_height),
        interpolation=cv2.INTER_AREA if panel_width < image.shape[1] else cv2.INTER_CUBIC,
    )
    size = int(np.clip(panel_width / 20, 12, 40))
    gap, line = size // 2, round(1.35 * size)
    captions = ['image', 'without Bridger', 'with Bridger', 'mask']
    fonts = [find_font(column.text, size) for column in columns]
    texts = [wrap_text(f'“{column.text}”', font, panel_width, 4) for column, font in zip(columns, fonts)]
    title_height = max(map(len, texts)) * line + gap
    left = round(1.6 * size) + gap
    width = left + len(columns) * (panel_width + gap)
    height = title_height + len(captions) * (panel_height + gap) + gap
    canvas = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(canvas)
    for number, caption in enumerate(captions):
        font = find_font(caption, min(size, max(8, round(panel_height / 9))))
        label = Image.new('RGB', (panel_height, round(1.6 * size)), 'white')
        font.write(ImageDraw.Draw(label), (panel_height / 2, 0.8 * size), caption, (20, 20, 20), 'm')
        canvas.paste(label.rotate(90, expand=True), (0, title_height + number * (panel_height + gap)))
    for index, (column, font, lines) in enumerate(zip(columns, fonts, texts)):
        x = left + index * (panel_width + gap)
        for row, text in enumerate(lines):
            font.write(draw, (x + panel_width / 2, gap + (row + 0.5) * line), text, (20, 20, 20), 'm')
        mask = cv2.resize(column.mask.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST) == 1
        panels = [
            small,
            heat_map(column.without, small.shape[:2]),
            heat_map(column.with_bridger, small.shape[:2]),
            overlay_mask(small, mask, PRED_COLOR) if mask.any() else small,
        ]
        for number, panel in enumerate(panels):
            canvas.paste(Image.fromarray(panel), (x, title_height + number * (panel_height + gap)))
    return np.asarray(canvas)


def heat_map(energy: np.ndarray, panel_hw: tuple[int, int]) -> np.ndarray:
    """A map (H, W) in colours (RGB), from its 1st to its 99th percentile: single outliers would darken all else."""
    low, high = np.percentile(energy, (1, 99))
    grey = np.clip((energy - low) / max(high - low, 1e-12), 0, 1)
    grey = cv2.resize((255 * grey).round().astype(np.uint8), panel_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1])


def main() -> None:
    """Read the command line, write the figure."""
    args = build_parser().parse_args()
    try:
        check_image_suffix(args.out)
        image = read_image(args.image)
        asker = load(args.config, args.checkpoint, args.device)
        plain = None if args.without is None else load(*args.without, args.device)
        columns = make_columns(asker, image, args.texts, args.at, plain)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    write_image(draw_figure(np.ascontiguousarray(image[..., ::-1]), columns, args.panel), args.out)
    for column in columns:
        change = np.linalg.norm(column.with_bridger - column.without) / max(np.linalg.norm(column.without), 1e-12)
        print(
            f'{image_name(args.image)}: {column.text}: the map changes by {100 * change:.0f} %, the mask covers '
            f'{100 * column.mask.mean():.1f} % of the picture'
        )
    print(f'written: {Path(args.out)}')


if __name__ == '__main__':
    main()
