"""Write the page as a folder for a Space on Hugging Face's hub: README with settings, requirements, page and package.

python projects/gradio_demo/space.py my_space
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from mmetris.apis.model_zoo import DEMO_WEIGHTS, package_root
from mmetris.package import PACKAGE

HERE = Path(__file__).resolve().parent
SHIPPED = (
    'configs',
    'model-index.yml',
    'pretrained/metafile.yml',
    'pretrained/tiny_clip_resnet.safetensors',
    DEMO_WEIGHTS,
)
README = """---
title: Referring image segmentation
emoji: 🔎
colorFrom: blue
colorTo: yellow
sdk: gradio
sdk_version: {gradio}
python_version: '{python}'
app_file: app.py
license: apache-2.0
short_description: Masks of what sentences mean, by mmetris
---

# Referring image segmentation

The page of mmetris: load a picture, type sentences, see the masks. Without further settings it has the model that
ships, which knows drawn shapes only. The variable `MMETRIS_MODELS` names shared ones instead, `hf://owner/name`,
separated by spaces; they are fetched when the Space starts.
"""


def requirements() -> list[str]:
    """What mmetris needs, with MMEngine, MMCV and MMSegmentation; gradio comes with the Space.

    Raises:
        PackageNotFoundError: If mmetris is not installed.
    """
    kept = []
    for line in requires('mmetris') or []:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({'extra': 'mminstall'}):
            kept.append(f'{needed.name}{needed.specifier}')
    return sorted(set(kept))


def write_space(out: Path) -> None:
    """Write the folder.

    Args:
        out: It must not exist, or be empty.

    Raises:
        FileExistsError: If there is something in it.
    """
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f'{out} is not empty: name a new folder')
    out.mkdir(parents=True, exist_ok=True)
    for name in ('app.py', 'session.py'):
        shutil.copy(HERE / name, out / name)
    leave = shutil.ignore_patterns('__pycache__', '*.pyc', '.mim')
    shutil.copytree(PACKAGE, out / 'mmetris', ignore=leave)
    for name in SHIPPED:
        source, target = package_root() / name, out / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=leave)
        else:
            shutil.copy(source, target)
    python = '.'.join(map(str, sys.version_info[:2]))
    (out / 'README.md').write_text(README.format(gradio=version('gradio'), python=python), encoding='utf-8')
    (out / 'requirements.txt').write_text('\n'.join(requirements()) + '\n', encoding='utf-8')


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The page as a folder for a Space on Hugging Face's hub")
    parser.add_argument('out', type=Path, help='folder to write')
    out = parser.parse_args().out
    try:
        write_space(out)
    except (OSError, PackageNotFoundError) as error:
        sys.exit(f'error: {error}')
    print(f'written: {out}; upload it with: hf upload OWNER/NAME {out} . --repo-type=space')


if __name__ == '__main__':
    main()
