"""Merge LoRA into the weights that it updates: a model that costs what the plain one costs, and needs no LoRA to load.

    python tools/misc/merge_tuning.py configs/tuning/lora_r101_refcoco.py work_dirs/lora_r101_refcoco/best.pth merged/

writes ``merged/config.py``, the config without the merged methods, and ``merged/model.pth``, a full checkpoint: its
encoders are no longer those of CLIP's file. Sums are made in double precision and rounded once. Methods that are no
linear change of weights (adapters, prompts) cannot be merged, and are named.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmetris.apis import init_model
from mmetris.models import merge_tuning
from mmetris.utils.checkpoint_io import read_checkpoint, save_checkpoint, write_atomically
from mmetris.utils.config_options import add_cfg_options
from mmetris.utils.starting import in_one_line


def main() -> None:
    """Load, merge, and only then write."""
    parser = argparse.ArgumentParser(description='Merge tuning methods into the weights that they update')
    parser.add_argument('config', help="the model's config")
    parser.add_argument('checkpoint', help='slim or full checkpoint of it')
    parser.add_argument('out_dir', help='folder for config.py and model.pth')
    add_cfg_options(parser)
    args = parser.parse_args()
    try:
        meta = read_checkpoint(args.checkpoint).get('meta', {})
        model = init_model(args.config, args.checkpoint, device='cpu', cfg_options=args.cfg_options)
        merged = merge_tuning(model)
        cfg = model.cfg.copy()
        for path in merged:
            encoder, _, name = path.rpartition('.tuning.')
            part = cfg.model
            for key in encoder.split('.'):
                part = part[key]
            del part.tuning[name]
            part[model.get_submodule(encoder).source_argument] = None  # Its weights are in model.pth alone.
        out_dir = Path(args.out_dir)
        save_checkpoint(out_dir / 'model.pth', dict(meta=meta, state_dict=model.state_dict()))
        with write_atomically(out_dir / 'config.py') as temporary:
            temporary.write_text(cfg.pretty_text, encoding='utf-8')
    except (ValueError, OSError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    except (KeyError, TypeError) as error:  # Of a config that no model can be built from; else it is raised again.
        with in_one_line(parser):
            raise error
    print(f'merged: {", ".join(merged)}\nwritten: {out_dir / "config.py"}, {out_dir / "model.pth"}')


if __name__ == '__main__':
    main()
