"""From a file of a published code to a config and a checkpoint of ours, and back: what the tools for it share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmetris.datasets import RefCocoDataset
from mmetris.models.converters import ConvertedCheckpoint, PublishedCode
from mmetris.models.converters.published_sizes import HEAD_HEADS
from mmetris.utils.checkpoint_io import check_finite, read_checkpoint, save_checkpoint, write_atomically
from mmetris.utils.config_types import type_name


def conversion_parser(code: PublishedCode) -> argparse.ArgumentParser:
    """The command line of a tool that converts checkpoints of a code; options of one code alone are added to it.

    Args:
        code: The published code.
    """
    parser = argparse.ArgumentParser(description=f'Convert a checkpoint of {code.name}')
    parser.add_argument('checkpoint', help='checkpoint of that code')
    parser.add_argument('out_dir', help='folder for config.py and model.pth')
    parser.add_argument(
        '--head-heads',
        type=int,
        default=HEAD_HEADS,
        metavar='N',
        help="attention heads of the decoder (the code's num_head); default %(default)s",
    )
    parser.add_argument(
        '--text-heads',
        type=int,
        metavar='N',
        help="attention heads of CLIP's text encoder; default width / 64, below width 128 width / 16",
    )
    parser.add_argument(
        '--image-heads', type=int, metavar='N', help='attention heads of the image encoder; default width / 64'
    )
    parser.add_argument(
        '--context-length',
        type=int,
        default=17,
        metavar='L',
        help="tokens of a sentence (the code's word_len): 17, or 22 for RefCOCOg; default %(default)s",
    )
    return parser


def complete_config(converted: ConvertedCheckpoint, recipe: Path, context_length: int) -> Config:
    """A recipe with the converted model in it, without any ``_base_``.

    Args:
        converted: The converted checkpoint.
        recipe: Config of a model of the same code: data, schedule and hooks are taken from it.
        context_length: Tokens of a sentence.
    """
    cfg = Config.fromfile(recipe).to_dict()
    size = (converted.sizes.input_size,) * 2
    divisor = converted.model_cfg['data_preprocessor']['size_divisor']

    def resized(length: int) -> int:  # The sizes of test-time augmentation keep their ratio to the input size.
        return max(1, round(length * size[0] / cfg['input_size'][0] / divisor)) * divisor

    def adapt(node: Any) -> Any:
        if isinstance(node, dict):
            node = {key: adapt(value) for key, value in node.items()}
            if type_name(node) == 'Letterbox':
                node['size'] = tuple(map(resized, node['size']))
            elif type_name(node) == 'TokenizeExpression':
                node['context_length'] = context_length
            return node
        return type(node)(map(adapt, node)) if isinstance(node, (list, tuple)) else node

    adapted = adapt(cfg) | dict(model=converted.model_cfg, input_size=size, context_length=context_length)
    for name in ('arch', 'clip_checkpoint'):
        adapted.pop(name, None)
    return Config(adapted)


def convert_file(
    code: PublishedCode,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike,
    recipes: Mapping[str, Path],
    text_heads: int | None = None,
    image_heads: int | None = None,
    context_length: int = 17,
    **options: Any,
) -> ConvertedCheckpoint:
    """Read, convert, check, and only then write ``config.py`` and ``model.pth``.

    Args:
        code: The published code.
        checkpoint: Its file.
        out_dir: Folder to write into.
        recipes: For each family of image encoders the config that surrounds the model, see :func:`complete_config`.
        text_heads: See :meth:`~mmetris.models.converters.PublishedCode.from_published`. Defaults to None: by the width.
        image_heads: Likewise.
        context_length: Tokens of a sentence. Defaults to 17, RefCOCO's.
        **options: Of this code's ``model_cfg``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or does not fit.
    """
    content = read_checkpoint(checkpoint)
    try:
        converted = code.from_published(content, text_heads, image_heads, context_length=context_length, **options)
    except ValueError as error:
        raise ValueError(f'{checkpoint}: {error}') from error
    check_finite(converted.checkpoint['state_dict'], str(checkpoint))
    cfg = complete_config(converted, recipes[converted.sizes.family], context_length)
    converted.checkpoint['meta']['dataset_meta'] = dict(RefCocoDataset.METAINFO)
    out_dir = Path(out_dir)
    save_checkpoint(out_dir / 'model.pth', converted.checkpoint)
    with write_atomically(out_dir / 'config.py') as temporary:
        temporary.write_text(cfg.pretty_text, encoding='utf-8')
    return converted


def convert_published(
    code: PublishedCode, args: argparse.Namespace, recipes: Mapping[str, Path], **options: Any
) -> None:
    """What a converter's command does: :func:`convert_file`; every key used is printed.

    A file that does not fit ends the program with one line.

    Args:
        code: The published code.
        args: What the parser of :func:`conversion_parser` found.
        recipes: For each family of image encoders the config that surrounds the model, see :func:`complete_config`.
        **options: Options of this code alone.
    """
    out_dir = Path(args.out_dir)
    try:
        converted = convert_file(
            code,
            args.checkpoint,
            out_dir,
            recipes,
            args.text_heads,
            args.image_heads,
            args.context_length,
            head_heads=args.head_heads,
            **options,
        )
    except (ValueError, OSError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    for published, ours in converted.names.items():
        print(f'{published} -> {ours or "kept in meta, not used"}')
    for name in converted.origin['entries']:
        print(f'entry "{name}" -> kept in meta, not used')
    model = converted.model_cfg
    heads = {
        'Bridger': model['neck'].get('num_heads'),
        'adapters': getattr(args, 'align_heads', None),
        'decoder': model['decode_head']['num_heads'],
        'text encoder': converted.sizes.arch['text_cfg']['heads'],
    }
    dinov2 = model['backbone']['arch'] if converted.sizes.family == 'dinov2' else None
    if dinov2 is not None:
        registers = dinov2['num_registers'] or 'no'
        print(
            f'DINOv2: width {dinov2["width"]}, {dinov2["depth"]} blocks, {registers} registers (published models: 768 '
            'and 12, or 1024 and 24, with 4)'
        )
    print(
        f'{len(converted.names)} keys used, none left over: {model["backbone"]["type"]}, heads: '
        + ', '.join(f'{part} {count}' for part, count in heads.items() if count is not None)
        + f'; {args.context_length} tokens\nwritten: {out_dir / "config.py"}, {out_dir / "model.pth"}'
    )


def convert_back(code: PublishedCode) -> None:
    """A tool that brings a checkpoint of ours into the layout of a published code.

    Args:
        code: The published code.
    """
    parser = argparse.ArgumentParser(description=f'Convert a checkpoint to the layout of {code.name}')
    parser.add_argument('checkpoint', help=f'full checkpoint ({code.variant}), or a folder with its model.pth')
    parser.add_argument('out', help='file to write; a name without suffix is a folder, for model.pth in it')
    args = parser.parse_args()
    source, out = Path(args.checkpoint), Path(args.out)
    if source.is_dir():
        source = source / 'model.pth'
    if out.is_dir() or not out.suffix:
        out = out / 'model.pth'
    try:
        published = code.to_published(read_checkpoint(source))
        save_checkpoint(out, published)
    except (ValueError, OSError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    others = [name for name in published if name != 'state_dict']
    print(f'{len(published["state_dict"])} keys and {", ".join(others) or "no other entry"} written: {out}')
