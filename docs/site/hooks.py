"""MkDocs' hooks: which files are pages, what is generated of them, and the navigation.

Pages lie in the site as the files lie in the repository, so that a link is right in both: ``README.md`` is the first
page, ``docs/data.md`` is ``docs/data/``. Generated are the models (of the metafiles), the API reference (a page for
each package, written by mkdocstrings from the docstrings) and the notebooks.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'mmetris'
PAGES = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
FOLDERS = ('docs', 'configs', 'projects', 'pretrained')
# Tabs, and the documents of each in order; what no tab names comes at the end of the last one of its kind.
TABS = {
    'Use': ('inference', 'class_names', 'training_free', 'export', 'serving', 'api'),
    'Train': ('data', 'tuning', 'encoders', 'checkpoints', 'large_models', 'reliability', 'openmmlab'),
    'How to': ('howto', 'add_the_bridger'),
    'Study': ('analysis', 'study', 'benchmarks', 'shapes'),
}
# The collections that most come for; the others follow.
FIRST = ('configs/etris/metafile.yml', 'configs/detris/metafile.yml', 'configs/cris/metafile.yml')
LINK = re.compile(r'\]\(([^)#\s]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages, the files that they show or link to, and the navigation over them."""
    for file in list(files):
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    pages = documents()
    for name in pages:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    generated = {'models.md': models_page(), **reference_pages()}
    for notebook in sorted((ROOT / 'demo').glob('*.ipynb')):
        generated[f'demo/{notebook.stem}.md'] = notebook_page(json.loads(notebook.read_text(encoding='utf-8')))
    for name, content in generated.items():
        files.append(File.generated(config, name, content=content))
    for name in sorted(linked_files(pages) | {'docs/site/extra.css'}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    config.nav = navigation(pages, list(generated))
    return files


def documents() -> list[str]:
    """The Markdown files of the repository that are pages, by their paths in it."""
    found = [ROOT / name for name in PAGES]
    found += [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob('*.md'))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def linked_files(pages: list[str]) -> set[str]:
    """Files other than pages that pages show or link to: pictures, configs, the licence."""
    found = set()
    for name in pages:
        for target in LINK.findall((ROOT / name).read_text(encoding='utf-8')):
            path = Path(os.path.normpath(ROOT / name / '..' / target))
            if '://' not in target and path.suffix != '.md' and path.is_file():
                found.add(path.relative_to(ROOT).as_posix())
    return found


def navigation(pages: list[str], generated: list[str]) -> list[Any]:
    """MkDocs' ``nav``: each page once."""
    left = list(pages)

    def take(*names: str) -> list[str]:
        taken = [name for name in names if name in left]
        for name in taken:
            left.remove(name)
        return taken

    nav: list[Any] = [{'Start': [*take('README.md'), *(name for name in generated if name.startswith('demo/'))]}]
    chapters = {tab: take(*(f'docs/{name}.md' for name in names)) for tab, names in TABS.items()}
    chapters['Use'] += take(*(name for name in pages if name.startswith('projects/')))
    models = ['models.md', *take(*(name for name in pages if name.startswith(('configs/', 'pretrained/'))))]
    changes = take('CONTRIBUTING.md', 'CHANGELOG.md')
    chapters['Study'] += left
    nav += [{tab: names} for tab, names in chapters.items()]
    nav += [{'Models': models}, {'API': [name for name in generated if name.startswith('reference/')]}]
    return [*nav, {'Changes': changes}]


# Models


def models_page() -> str:
    """All models of the model index: what was trained, what was measured by whom, where weights come from."""
    spec = importlib.util.spec_from_file_location('model_tables', ROOT / 'tools' / 'misc' / 'model_tables.py')
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    lines = [
        '# All models',
        'Made of the metafiles of `model-index.yml` when this site is built. Results are in percent; each table says',
        'whose. Where nobody published weights, a training comes first; `mmetris download NAME` fetches encoders.',
    ]
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    for name in dict.fromkeys([name for name in FIRST if name in index] + index):
        metafile = ROOT / name
        content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
        for collection in content.get('Collections') or [dict(Name=metafile.parent.name)]:
            models = {
                model['Name']: model
                for model in content['Models']
                if model.get('In Collection', collection['Name']) == collection['Name']
            }
            if models:
                lines += ['', f'## {collection["Name"]}', '', *facts(collection, metafile), '']
                lines += [tables.make_table(models, {}), *sources(models)]
    return '\n'.join(lines) + '\n'


def facts(collection: dict[str, Any], metafile: Path) -> list[str]:
    """Paper and training of a collection, and the link to its README."""
    metadata, paper = collection.get('Metadata', {}), collection.get('Paper')
    rows = [f'- Paper: [{paper["Title"]}]({paper["URL"]})'] if paper else []
    for key, value in metadata.items():
        rows.append(f'- {key}: {", ".join(map(str, value)) if isinstance(value, list) else value}')
    readme = metafile.with_name('README.md')
    if readme.is_file():
        rows.append(f'- More: [{readme.parent.name}]({readme.relative_to(ROOT).as_posix()})')
    return rows


def sources(models: dict[str, dict[str, Any]]) -> list[str]:
    """Where weights of these models are to be had, if any are."""
    rows = []
    for name, model in models.items():
        published, weights = model.get('Published'), model.get('Weights', '')
        if published:
            rows.append(
                f'- `mmetris download {name}`: published in {published["Repo"]} by the authors of {published["Code"]}'
            )
        elif weights.startswith('mmetris://pretrained/'):
            rows.append(f'- `{name}` ships with the package, as `{weights.rstrip("/")}`')
    return ['', '**Weights**', '', *rows, ''] if rows else []


# API reference


def reference_pages() -> dict[str, str]:
    """A page for each package, with its modules that define public names."""
    pages = {'reference/index.md': ''}
    rows = []
    for folder in sorted({path.parent for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts}):
        package = '.'.join(folder.relative_to(ROOT).parts)
        modules = [
            path for path in sorted(folder.glob('*.py')) if not path.stem.startswith('_') and has_public_names(path)
        ]
        if not modules:
            continue
        about = docstring(folder / '__init__.py')
        lines = [f'# {package}', '', about, '']
        for path in modules:
            lines += [f'::: {package}.{path.stem}', '']
        pages[f'reference/{package}.md'] = '\n'.join(lines)
        rows.append(f'| [`{package}`]({package}.md) | {about.split(chr(10))[0]} |')
    overview = [
        '# API reference',
        '',
        'Written from the docstrings. The calls that most users need are in',
        '[api.md](../docs/api.md).',
    ]
    pages['reference/index.md'] = '\n'.join([*overview, '', '| package | |', '| --- | --- |', *rows]) + '\n'
    return pages


def has_public_names(path: Path) -> bool:
    """Whether a module defines a public class or function."""
    body = ast.parse(path.read_text(encoding='utf-8')).body
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(node, kinds) and not node.name.startswith('_') for node in body)


def docstring(path: Path) -> str:
    """The docstring of a module, or nothing; names in it are code."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) if path.is_file() else None
    return re.sub(r':\w+:(`[^`]+`)', r'\1', text or '')


# Notebooks


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook with the outputs that were saved in it, as Markdown."""
    lines: list[str] = []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            lines += [source, '']
        elif cell['cell_type'] == 'code':
            lines += ['```python', source, '```', '']
            for output in cell['outputs']:
                lines += [*shown(output), '']
    return '\n'.join(lines)


def shown(output: dict[str, Any]) -> list[str]:
    """One output of a cell: a picture, or its text."""
    data = output.get('data', {})
    if 'image/png' in data:
        return [f'![Output](data:image/png;base64,{"".join(data["image/png"]).replace(chr(10), "")})']
    text = ''.join(output.get('text', data.get('text/plain', [])))
    return ['```text', text.rstrip('\n'), '```'] if text.strip() else []
