"""Build of mmetris, which never installs MMEngine, MMCV or MMSegmentation: see requirements/mminstall.txt."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
CLASSIFIERS = [
    'Development Status :: 3 - Alpha',
    'Environment :: Console',
    'Intended Audience :: Science/Research',
    'Operating System :: OS Independent',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3 :: Only',
    # Those that CI tests.
    'Programming Language :: Python :: 3.10',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Scientific/Engineering :: Image Recognition',
    'Typing :: Typed',
]
# What OpenMMLab's package manager (MIM) expects to find inside the installed package, under `.mim`.
MIM_FILES = (
    'configs',
    'tools',
    'demo',
    'projects/gradio_demo',
    'model-index.yml',
    'pretrained/metafile.yml',
    'pretrained/tiny_clip_resnet.safetensors',
    'pretrained/etris_tiny_long-192px_shapes.pth',
)


class BuildWithMim(build_py):
    """Add ``mmetris/.mim``: links to the checkout's own files when editable, copies in a wheel."""

    def run(self) -> None:
        super().run()
        if getattr(self, 'editable_mode', False):
            add_mim_files(ROOT / 'mmetris' / '.mim', link=True)
        else:
            add_mim_files(Path(self.build_lib).resolve() / 'mmetris' / '.mim', link=False)


class EditableWheelForMim(editable_wheel):
    """Tell MIM, and the original MMEngine's ``mmetris::...`` configs, where an editable package is.

    Both look for the folder named in ``top_level.txt`` beside the installed metadata, in site-packages, where an
    editable package is not. Joined to a full path, that place falls away; so the package's own stands first here.
    """

    def run(self) -> None:
        if self.dist_info_dir is None:
            dist_info = self.reinitialize_command('dist_info')
            dist_info.output_dir = self.dist_dir
            dist_info.ensure_finalized()
            dist_info.run()
            self.dist_info_dir = dist_info.dist_info_dir
        (Path(self.dist_info_dir) / 'top_level.txt').write_text(f'{ROOT / "mmetris"}\nmmetris\n', encoding='utf-8')
        super().run()


def add_mim_files(target: Path, link: bool) -> None:
    """Put configs, tools and the model index into a ``.mim`` folder, replacing what an earlier build left there.

    Args:
        target: The ``.mim`` folder.
        link: Relative symbolic links instead of copies; where the system refuses links, copies are made.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in MIM_FILES:
        source, destination = ROOT / name, target / name
        if not source.exists():
            print(f'warning: {source} is missing from this copy of mmetris and will be from the installed one')
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.is_symlink() or destination.is_file():
            destination.unlink()
        elif destination.is_dir():
            shutil.rmtree(destination)
        if link:
            try:
                destination.symlink_to(os.path.relpath(source, destination.parent), target_is_directory=source.is_dir())
                continue
            except OSError:
                pass  # Windows without the privilege to make links
        if source.is_dir():
            shutil.copytree(source, destination, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]'))
        else:
            shutil.copyfile(source, destination)


def read_version() -> str:
    """Read ``__version__`` without importing the package, whose dependencies may not be there yet."""
    return re.search(r"__version__ = '(.+)'", (ROOT / 'mmetris' / 'version.py').read_text(encoding='utf-8')).group(1)


def read_requirements(name: str) -> list[str]:
    """The requirement lines of ``requirements/<name>.txt``, without comments."""
    lines = (line.split('#')[0].strip() for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines())
    return [line for line in lines if line]


if __name__ == '__main__':
    setup(
        name='mmetris',
        version=read_version(),
        description='ETRIS: parameter-efficient referring image segmentation as a plugin of MMSegmentation',
        long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        author='The mmetris authors',
        project_urls={'Paper': 'https://arxiv.org/abs/2307.11545'},
        classifiers=CLASSIFIERS,
        keywords='computer vision, referring image segmentation, CLIP, parameter-efficient tuning',
        packages=find_packages(include=('mmetris', 'mmetris.*')),
        include_package_data=True,
        python_requires='>=3.10',
        install_requires=read_requirements('runtime'),
        extras_require={
            'mminstall': read_requirements('mminstall'),
            'mim': read_requirements('mminstall'),
            'export': read_requirements('export'),
            'fonts': read_requirements('fonts'),
            'demo': read_requirements('../projects/gradio_demo/requirements'),
            'docs': read_requirements('docs'),
            'tests': read_requirements('tests'),
        },
        entry_points={'console_scripts': ['mmetris = mmetris.cli:main']},
        cmdclass={'build_py': BuildWithMim, 'editable_wheel': EditableWheelForMim},
        zip_safe=False,
    )
