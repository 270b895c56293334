"""The documentation as a site: built as `make docs` does it, without a warning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mmetris.apis.model_zoo import indexed_models

ROOT = Path(__file__).parents[1]
pytest.importorskip('mkdocs')
pytest.importorskip('mkdocstrings')


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The built site. ``strict`` of mkdocs.yml makes an error of each warning."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp('site')
    config = load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(folder))
    assert config.strict
    config.plugins.on_startup(command='build', dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return folder


def page(site: Path, name: str) -> str:
    return (site / name / 'index.html').read_text(encoding='utf-8')


def test_every_document_is_a_page_and_stands_in_the_navigation(site):
    documents = [
        *ROOT.glob('*.md'),
        *(path for folder in ('docs', 'configs', 'projects') for path in (ROOT / folder).rglob('*.md')),
    ]
    pages = {path.parent.relative_to(site).as_posix() for path in site.rglob('index.html')}
    wanted = {
        path.relative_to(ROOT).with_suffix('').as_posix().removesuffix('README').rstrip('/') or '.'
        for path in documents
    }
    assert wanted <= pages and len(wanted) > 25
    start = page(site, '.')
    for tab in ('Start', 'Use', 'Train', 'How to', 'Models', 'API'):
        assert re.search(rf'>\s*{tab}\s*<', start), tab


def test_all_models_are_on_one_page_with_their_results_and_the_way_to_weights(site):
    text = page(site, 'models')
    for entry in indexed_models():
        stem = entry['Name']
        while f'{stem}<' not in text and f'{stem}_*' not in text and '_' in stem:
            stem = stem.rpartition('_')[0]
        assert '_' in stem or stem in text, entry['Name']
    etris = yaml.safe_load((ROOT / 'configs/etris/metafile.yml').read_text())['Models'][0]
    assert f'{etris["Results"][0]["Metrics"]["mIoU"]:.2f}' in text
    assert 'mmetris download detris_base_refcoco' in text and 'Not run here' in text


def test_the_reference_has_what_the_docstrings_say(site):
    text = re.sub(r'<[^>]+>', '', page(site, 'reference/mmetris.models.necks'))
    assert 'Bridger' in text and 'embed_dims' in text
    # Roles of Sphinx are links or code, on no page as they stand in the source.
    for path in (site / 'reference').rglob('index.html'):
        assert not re.findall(r':(?:class|meth|func|attr|mod):', path.read_text(encoding='utf-8')), path


def test_nothing_is_loaded_from_another_server(site):
    loads = re.compile(
        r'<(?:link[^>]+rel="?(?:stylesheet|preconnect|icon)[^>]+href|script[^>]+src|img[^>]+src)="?(https?://[^">\s]+)'
    )
    for path in site.rglob('*.html'):
        assert not loads.findall(path.read_text(encoding='utf-8')), path
