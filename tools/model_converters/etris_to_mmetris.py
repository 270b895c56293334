"""Convert a checkpoint of the released ETRIS code.

    python tools/model_converters/etris_to_mmetris.py best_model.pth converted/

writes ``converted/config.py`` and ``converted/model.pth``, which tools/test.py, tools/train.py and ``init_model`` of
mmetris.apis take. Widths, depths and grids are read from the weights' shapes; attention heads and the length of the
sentences leave no trace there and are options. Every key used is printed; if one cannot be placed or is missing,
nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from mmetris.datasets import RefCocoDataset
from mmetris.models.converters import ConvertedCheckpoint, from_published
from mmetris.models.converters.etris_sizes import HEAD_HEADS
from mmetris.utils.checkpoint_io import read_checkpoint, save_checkpoint, write_atomically

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'etris_released'
# What surrounds the model: data, schedule, hooks.
RECIPES = dict(resnet=CONFIGS / 'etris_released_r101_refcoco.py', vit=CONFIGS / 'etris_released_vitb16_refcoco.py')


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description='Convert a checkpoint of the released ETRIS code')
    parser.add_argument('checkpoint', help='checkpoint of the released code')
    parser.add_argument('out_dir', help='folder for config.py and model.pth')
    parser.add_argument(
        '--bridger-heads',
        type=int,
        metavar='N',
        help="attention heads of the Bridger (the code's nhead); default 4 (ResNet) or 8 (ViT)",
    )
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
        '--image-heads', type=int, metavar='N', help="attention heads of CLIP's image encoder; default width / 64"
    )
    parser.add_argument(
        '--context-length',
        type=int,
        default=17,
        metavar='L',
        help="tokens of a sentence (the code's word_len): 17, or 22 for RefCOCOg; default %(default)s",
    )
    return parser


def complete_config(converted: ConvertedCheckpoint, context_length: int) -> Config:
    """The released recipe with the converted model in it, without any ``_base_``."""
    cfg = Config.fromfile(RECIPES[converted.sizes.family]).to_dict()
    size = (converted.sizes.input_size,) * 2
    divisor = converted.model_cfg['data_preprocessor']['size_divisor']

    def resized(length):  # The sizes of test-time augmentation keep their ratio to the input size.
        return max(1, round(length * size[0] / cfg['input_size'][0] / divisor)) * divisor

    def adapt(node):
        if isinstance(node, dict):
            node = {key: adapt(value) for key, value in node.items()}
            if node.get('type') == 'Letterbox':
                node['size'] = tuple(map(resized, node['size']))
            elif node.get('type') == 'TokenizeExpression':
                node['context_length'] = context_length
            return node
        return type(node)(map(adapt, node)) if isinstance(node, (list, tuple)) else node

    adapted = adapt(cfg) | dict(model=converted.model_cfg, input_size=size, context_length=context_length)
    for name in ('arch', 'clip_checkpoint'):
        adapted.pop(name, None)
    return Config(adapted)


def main() -> None:
    """Read, convert, check, and only then write."""
    args = build_parser().parse_args()
    try:
        converted = from_published(
            read_checkpoint(args.checkpoint),
            args.bridger_heads,
            args.head_heads,
            args.text_heads,
            args.image_heads,
            args.context_length,
        )
        config_text = complete_config(converted, args.context_length).pretty_text
        converted.checkpoint['meta']['dataset_meta'] = dict(RefCocoDataset.METAINFO)
        out_dir = Path(args.out_dir)
        save_checkpoint(out_dir / 'model.pth', converted.checkpoint)
        with write_atomically(out_dir / 'config.py') as temporary:
            temporary.write_text(config_text, encoding='utf-8')
    except (ValueError, OSError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    for published, ours in converted.names.items():
        print(f'{published} -> {ours or "kept in meta, not used"}')
    published = converted.checkpoint['meta']['published_etris']
    for name in published['entries']:
        print(f'entry "{name}" -> kept in meta, not used')
    model = converted.model_cfg
    print(
        f'{len(converted.names)} keys used, none left over: {model["backbone"]["type"]}, '
        f'heads: Bridger {model["neck"]["num_heads"]}, decoder {model["decode_head"]["num_heads"]}, '
        f'text encoder {converted.sizes.arch["text_cfg"]["heads"]}; {args.context_length} tokens\n'
        f'written: {out_dir / "config.py"}, {out_dir / "model.pth"}'
    )


if __name__ == '__main__':
    main()
