"""Every class that mmetris registers is found through its registry, in a fresh process without ``custom_imports``."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
# One process for each registry: what it finds must not come from the modules that another registry imported. Within a
# registry the first name that is asked for imports all its locations. What is not ours is imported once.
PROGRAM = """
import json, os, sys
import mmseg.apis, mmseg.datasets, mmseg.engine, mmseg.evaluation, mmseg.models, open_clip, torchvision
import mmetris.registry
assert not [name for name in sys.modules if name.startswith(('mmetris.models', 'mmetris.datasets', 'mmetris.engine'))]
missing = {}
for name, classes in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    if os.fork() == 0:
        registry = getattr(mmetris.registry, name)
        os.write(write, json.dumps([one for one in classes if registry.get(one) is None]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, 'rb') as pipe:
        missing[name] = json.loads(pipe.read() or b'["the process ended early"]')
    os.wait()
print(json.dumps(missing))
"""


def registered() -> dict[str, list[str]]:
    """Names of the decorated classes and functions in the package's sources, by registry."""
    found = defaultdict(list)
    for path in (ROOT / 'mmetris').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            for decorator in getattr(node, 'decorator_list', []):
                called = ast.unparse(decorator)
                if '.register_module(' in called:
                    found[called.split('.')[0]].append(node.name)
    return dict(found)


def test_registered_classes_are_found_in_a_fresh_process_without_custom_imports():
    names = registered()
    assert 'SplitTestLoop' in names['LOOPS'] and len(names['MODELS']) > 10
    done = subprocess.run([sys.executable, '-c', PROGRAM, json.dumps(names)], text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().split('\n')[-1]) == {name: [] for name in names}


def test_configs_name_their_base_before_they_import():
    """MMEngine 0.10.7 takes an import of a frozen module, such as importlib, for its pure Python style of configs."""
    late = []
    for path in (ROOT / 'configs').rglob('*.py'):
        body = ast.parse(path.read_text(encoding='utf-8')).body
        kinds = [
            'base' if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_' else 'import'
            for node in body
            if isinstance(node, (ast.Assign, ast.Import, ast.ImportFrom))
            and (not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) == '_base_')
        ]
        if 'import' in kinds and kinds[0] != 'base':
            late.append(path.name)
    assert not late


def test_configs_import_nothing_but_the_registries():
    imports = set()
    for path in (ROOT / 'configs').rglob('*.py'):
        imports.update(re.findall(r'^custom_imports = (.*)', path.read_text(encoding='utf-8'), re.MULTILINE))
    assert imports == {"dict(imports=['mmetris.registry'])"}
