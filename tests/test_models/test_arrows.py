"""Which folder of the models may import which: arrows point down, so that a reader knows where to look for a change."""

import ast
from pathlib import Path

MODELS = Path(__file__).parents[2] / 'mmetris' / 'models'
# From the ground up. A folder imports those before it, and itself.
FLOORS = (
    'layers',
    'losses',
    'encoders',
    'tuning',
    'clip',
    'backbones',
    'text_encoders',
    'necks',
    'decode_heads',
    'trunk',
    'segmentors',
    'converters',
)


def imported_folders(path):
    """Folders of the models that a module imports, other than its own."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or '').split('.')
        if node.level == 2:
            yield parts[0]
        elif parts[:2] == ['mmetris', 'models'] and len(parts) > 2:
            yield parts[2]


def test_every_folder_has_its_floor():
    assert {path.name for path in MODELS.iterdir() if path.is_dir() and path.name != '__pycache__'} == set(FLOORS)


def test_no_arrow_runs_up():
    up = [
        f'{path.relative_to(MODELS)} imports {name}'
        for floor in FLOORS
        for path in sorted((MODELS / floor).rglob('*.py'))
        for name in imported_folders(path)
        if name in FLOORS and FLOORS.index(name) > FLOORS.index(floor)
    ]
    assert not up


def test_models_know_neither_data_sets_nor_whoever_runs_them():
    for path in MODELS.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        for name in ('datasets', 'engine', 'evaluation', 'apis', 'benchmark', 'deployment', 'visualization'):
            assert f'from mmetris.{name}' not in text and f'import mmetris.{name}' not in text, path.name
