"""Take the frozen CLIP out of a checkpoint, or put it back (``merge_checkpoint.py``).

    python tools/misc/slim_checkpoint.py configs/etris/etris_vitb16_refcoco.py full.pth slim.pth
    python tools/misc/slim_checkpoint.py configs/etris/etris_vitb16_refcoco.py full.pth slim.safetensors

What is left is what was tuned, every weight and buffer that is not in CLIP, optimizer state and the rest of the file,
and a fingerprint of the CLIP that it belongs to. A ``.safetensors`` file takes the weights alone, for sharing; of a
checkpoint that is slim already, as trainings save them, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from mmetris.apis import init_model
from mmetris.apis.model_zoo import config_path
from mmetris.models.encoders.slim_checkpoint import is_slim, slim_state_dict, tuned_weights
from mmetris.utils.checkpoint_io import read_checkpoint, save_checkpoint, write_atomically
from mmetris.utils.config_options import add_cfg_options


def build_parser(description: str) -> argparse.ArgumentParser:
    """The command line of both tools."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help="the model's config; its clip_checkpoint is the frozen CLIP")
    parser.add_argument('checkpoint', help='file to read')
    parser.add_argument('out', help='file to write: .pth, or .safetensors for the weights alone')
    add_cfg_options(parser)
    return parser


def convert(
    args: argparse.Namespace, change: Callable[[nn.Module, MutableMapping[str, Tensor], str], None], to_slim: bool
) -> None:
    """Read a checkpoint, change its state dicts, write it.

    Args:
        args: Parsed command line.
        change: :func:`slim_state_dict` or :func:`merge_state_dict`.
        to_slim: What the checkpoint is to become.

    Raises:
        ValueError: If it is that already and the new file is not safetensors, or if it does not belong to the config's
            model and CLIP.
    """
    content = read_checkpoint(args.checkpoint)
    if 'state_dict' not in content:  # A state dict by itself.
        content = dict(state_dict=content)
    state = content['state_dict']
    is_shared, is_that = Path(args.out).suffix == '.safetensors', is_slim(state) == to_slim
    if is_that and not is_shared:
        raise ValueError(f'{args.checkpoint} is {"slim" if to_slim else "full"} already')
    model = init_model(args.config, device='cpu', cfg_options=args.cfg_options)
    tuned_weights(model, state)  # Raises unless architecture and CLIP are the config's.
    content = dict(content, state_dict=dict(state))
    if not is_that:
        change(model, content['state_dict'], '')
    if 'ema_state_dict' in content and not is_that:
        content['ema_state_dict'] = dict(content['ema_state_dict'])
        change(model, content['ema_state_dict'], 'module.')
    if is_shared:
        with write_atomically(args.out) as temporary:
            save_file(
                {key: value.contiguous() for key, value in content['state_dict'].items()},
                temporary,
                metadata=dict(format='pt', config=Path(args.config).name),
            )
    else:
        save_checkpoint(args.out, content)
    sizes = [Path(path).stat().st_size for path in (args.checkpoint, args.out)]
    print(f'{args.out}: {sizes[1] / 1e6:.1f} MB, {sizes[1] / sizes[0]:.0%} of {args.checkpoint}')


def main(
    description: str, change: Callable[[nn.Module, MutableMapping[str, Tensor], str], None], to_slim: bool
) -> None:
    """Read the command line and convert; what cannot be ends with one line.

    Args:
        description: What the tool does.
        change: As for :func:`convert`.
        to_slim: As for :func:`convert`.
    """
    args = build_parser(description).parse_args()
    try:
        args.config = str(config_path(args.config))
        convert(args, change, to_slim)
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main('Take the frozen CLIP out of a checkpoint', slim_state_dict, to_slim=True)
