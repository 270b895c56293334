"""What the documents say agrees with the code, the configs and each other."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import mmetris

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob('*.md'),
        *(path for folder in ('docs', 'configs', 'projects') for path in (ROOT / folder).rglob('*.md')),
    ]
)
MODULES = sorted(['mmetris', *(module.name for module in pkgutil.walk_packages(mmetris.__path__, 'mmetris.'))])
# Not repeated in the docstring of a subclass: MMEngine's own, explained there.
OF_THE_BASE_CLASS = {'self', 'cls', 'init_cfg', 'test_mode', 'args', 'kwargs'}
COLUMNS = dict(
    refcoco=['RefCOCO val', 'RefCOCO testA', 'RefCOCO testB'],
    refcocoplus=['RefCOCO+ val', 'RefCOCO+ testA', 'RefCOCO+ testB'],
    refcocog_umd=['RefCOCOg UMD val', 'RefCOCOg UMD test'],
    refcocog_google=['RefCOCOg Google val'],
)


def metafile() -> dict:
    """The facts of our models, the only source of the tables."""
    return yaml.safe_load((ROOT / 'configs' / 'etris' / 'metafile.yml').read_text(encoding='utf-8'))


def public_objects(module_name: str) -> list[tuple[str, object]]:
    """Public functions and classes that a module defines, and the public methods and properties of those classes."""
    module = importlib.import_module(module_name)
    found = []
    for name, value in vars(module).items():
        if name.startswith('_') or getattr(value, '__module__', None) != module_name:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            found.append((f'{module_name}.{name}', value))
        if inspect.isclass(value):
            for method, member in vars(value).items():
                function = getattr(member, '__func__', member)  # of a static or class method
                if inspect.isfunction(function) and (not method.startswith('_') or method == '__call__'):
                    found.append((f'{module_name}.{name}.{method}', function))
    return found


def documented_arguments(docstring: str) -> dict[str, str]:
    """Names and texts of a Google docstring's ``Args`` section."""
    lines = inspect.cleandoc(docstring).split('\n')
    if 'Args:' not in lines:
        return {}
    arguments, names = {}, []
    for line in lines[lines.index('Args:') + 1 :]:
        if line and not line.startswith(' '):
            break
        match = re.match(r'    (\*{0,2}\w+(?:, \*{0,2}\w+)*):(.*)', line)
        if match:
            names = [name.lstrip('*') for name in match[1].split(', ')]
            arguments.update(dict.fromkeys(names, match[2]))
        else:
            arguments.update({name: arguments[name] + ' ' + line.strip() for name in names})
    return arguments


@pytest.mark.parametrize('module', MODULES)
def test_public_names_are_documented(module):
    imported = importlib.import_module(module)
    assert imported.__doc__ or imported.__file__.endswith('__init__.py'), f'{module} has no docstring'
    missing = [name for name, value in public_objects(module) if not inspect.getdoc(value)]
    assert not missing


@pytest.mark.parametrize('module', MODULES)
def test_documented_arguments_equal_the_signature(module):
    problems = []
    for name, value in public_objects(module):
        documented = documented_arguments(value.__doc__ or '')
        if not documented:
            continue
        try:
            parameters = inspect.signature(value).parameters
        except ValueError:
            continue
        takes_more = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [] if takes_more else [argument for argument in documented if argument not in parameters]
        # "**kwargs: ``seed`` and ``dtype`` of the base class" explains these two.
        explained = OF_THE_BASE_CLASS | set(documented) | set(re.findall(r'``(\w+)``', documented.get('kwargs', '')))
        forgotten = [argument for argument in parameters if argument not in explained]
        if unknown or forgotten:
            problems.append(f'{name}: unknown {unknown}, forgotten {forgotten}')
        for argument, text in documented.items():
            if argument in parameters:
                problems += wrong_default(text, parameters[argument].default, f'{name}: {argument}', module)
    assert not problems


def wrong_default(text: str, actual: object, where: str, module: str) -> list[str]:
    """Whether an argument's text tells another default than it has: a literal, or a name of the module."""
    # Followed by more words it is a condition or a range: "Defaults to 'original' in test mode".
    told = re.search(r'Defaults to (``.+?``|\'.*?\'|\([^)]*\)|[\w.+-]+?)(?=[.,:;)]+(?:\s|$)|$)', text)
    if told is None or actual is inspect.Parameter.empty:
        return []
    code = told[1].strip('`')
    names = vars(importlib.import_module(module))
    try:
        value = ast.literal_eval(code)
    except (ValueError, SyntaxError):
        if code not in names:
            return []  # told in words: "the batch's longest"
        value = names[code]
    same = value == actual or (isinstance(actual, (tuple, list)) and list(actual) == value)
    return [] if same else [f'{where} defaults to {actual!r}, not to {code}']


REFERENCE = re.compile(r':(class|meth|func|attr|mod|data):`~?([\w.]+)`')


def resolves(name: str, module: str, owner: str | None) -> bool:
    """Whether a reference leads somewhere: from the module, from the class it stands in, or among our public names."""
    first, *rest = name.split('.')
    space = vars(importlib.import_module(module))
    candidates = [names[first] for names in (space, vars(builtins)) if first in names]
    if owner is not None and (hasattr(space[owner], first) or first in getattr(space[owner], '__annotations__', {})):
        candidates.append(getattr(space[owner], first, None))
    elif owner is not None and f'self.{first} = ' in inspect.getsource(space[owner]):
        return not rest
    candidates += [
        vars(importlib.import_module(other))[first]
        for other in MODULES
        if first in vars(importlib.import_module(other))
    ]
    with contextlib.suppress(ImportError):
        candidates.append(importlib.import_module(first))
    return any(leads_to(candidate, rest) for candidate in candidates)


def leads_to(value: object, names: list[str]) -> bool:
    """Whether attributes of attributes are there."""
    for name in names:
        if inspect.ismodule(value) and not hasattr(value, name):
            with contextlib.suppress(ImportError):
                importlib.import_module(f'{value.__name__}.{name}')
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


@pytest.mark.parametrize('module', MODULES)
def test_references_in_docstrings_lead_somewhere(module):
    """Those of the module, its classes, functions and methods, private ones included."""
    imported = importlib.import_module(module)
    tree = ast.parse(Path(imported.__file__).read_text(encoding='utf-8'))
    problems = []
    owners = {id(part): node.name for node in tree.body if isinstance(node, ast.ClassDef) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            for kind, name in REFERENCE.findall(ast.get_docstring(node) or ''):
                if not resolves(name, module, owners.get(id(node))):
                    problems.append(f'{getattr(node, "name", module)}: :{kind}:`{name}`')
    assert not problems


def test_the_metafile_lists_every_config_of_the_paper():
    listed = {model['Config'] for model in metafile()['Models']}
    present = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs' / 'etris').glob('etris_*.py')}
    assert listed <= present
    assert {config for config in present if 'tiny' not in config} <= listed
    assert all(Path(model['Config']).stem == model['Name'] for model in metafile()['Models'])
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert all((ROOT / path).is_file() for path in index['Import'])


@pytest.mark.parametrize('document', ['README.md', 'configs/etris/README.md'])
@pytest.mark.parametrize('encoder', ['r50', 'r101', 'vitb16'])
def test_the_tables_of_results_are_the_metafiles(document, encoder):
    results = {
        model['Name']: {result['Dataset']: result['Metrics']['mIoU'] for result in model.get('Results', [])}
        for model in metafile()['Models']
    }
    lines = (ROOT / document).read_text(encoding='utf-8').split('\n')
    row = next(line for line in lines if line.startswith(f'| `etris_{encoder}_*` |'))
    cells = [cell.strip() for cell in row.strip('|').split('|')][-len(COLUMNS) :]
    for cell, (data, columns) in zip(cells, COLUMNS.items(), strict=True):
        assert cell == ' / '.join(f'{results[f"etris_{encoder}_{data}"][column]:.2f}' for column in columns)


@pytest.mark.parametrize('encoder, title', [('r50', 'ResNet-50'), ('r101', 'ResNet-101'), ('vitb16', 'ViT-B/16')])
def test_the_readmes_parameter_counts_are_the_models(encoder, title):
    from mmengine.config import Config

    from mmetris.utils.command_line import build_without_weights
    from mmetris.utils.param_count import count_parameters

    cfg = Config.fromfile(ROOT / 'configs' / 'etris' / f'etris_{encoder}_refcoco.py')
    counts = count_parameters(build_without_weights(cfg))
    row = next(line for line in (ROOT / 'README.md').read_text().split('\n') if line.startswith(f'| {title} |'))
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[1] == f'{counts["bridger"] / 1e6:.2f}'
    assert cells[3] == f'{counts["head"] / 1e6:.2f}'


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_inside_the_repository_lead_somewhere(path):
    targets = re.findall(r'\]\(([^)\s]+)\)', path.read_text(encoding='utf-8'))
    local = [target.split('#')[0] for target in targets if '://' not in target and not target.startswith('#')]
    assert not [target for target in local if not (path.parent / target).exists()]


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_flags_named_in_commands_exist(path):
    for block in re.findall(r'```bash\n(.*?)```', path.read_text(encoding='utf-8'), re.DOTALL):
        for line in block.replace('\\\n', ' ').split('\n'):
            command = line.split('#')[0]
            for name in re.findall(r'(?<![\w/])((?:tools|configs|requirements)/[\w./-]+\.(?:py|sh|txt))', command):
                assert (ROOT / name).is_file(), f'{name} in: {line}'
            script = re.search(r'(?<![\w/])tools/[\w/-]+\.(?:py|sh)', command)
            if script:
                known = flags_of(script[0])
                assert set(re.findall(r'\s(--[a-z][a-z-]*)', command)) <= known, f'{line}: {sorted(known)}'


def flags_of(script: str) -> set[str]:
    """Flags a tool's command line knows; those of the Python tool behind a launcher."""
    launched = dict(dist_train='train', slurm_train='train', dist_test='test', slurm_test='test')
    path = ROOT / script
    path = path.with_name(f'{launched.get(path.stem, path.stem)}.py')
    shared = [ROOT / 'mmetris' / 'utils' / name for name in ('command_line.py', 'config_options.py')]
    if 'model_converters' in script:
        shared.append(ROOT / 'mmetris' / 'apis' / 'conversion.py')
    return {flag for source in (path, *shared) for flag in re.findall(r"'(--[a-z][a-z-]*)'", source.read_text('utf-8'))}


def test_the_readmes_table_of_flags_is_complete():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    rows = [line for line in text.split('\n') if line.startswith('| `--')]
    named = {flag for row in rows for flag in re.findall(r'`(--[a-z-]+)', row)}
    known = flags_of('tools/train.py') | flags_of('tools/test.py')
    assert named <= known
    assert known - named <= {'--local-rank', '--wait-time'}


@pytest.mark.parametrize(
    'text, actual, is_right',
    [
        ("Defaults to 'full'.", 'full', True),
        ("Defaults to ``'full'``.", 'half', False),
        ('Defaults to 0.35.', 0.35, True),
        ('Defaults to 0.35, as in the paper.', 0.5, False),
        ('Defaults to None: all.', 3, False),
        ('Defaults to ``MODULES``.', MODULES, True),
        ('Defaults to ``MODULES``.', [], False),
        ('Defaults to (2, 3).', (2, 3), True),
        ("Defaults to the batch's longest.", 5, True),
        ("Defaults to 'original' in test mode.", None, True),
        ('Defaults to 0.5 to 0.9.', (0.5, 0.9), True),
    ],
)
def test_a_wrong_default_is_found(text, actual, is_right):
    assert (wrong_default(text, actual, 'x', __name__) == []) == is_right


def test_a_wrong_reference_is_found():
    module = 'mmetris.datasets.refcoco'
    assert resolves('set_epoch', module, 'RefCocoDataset') and resolves('mmengine.dataset.BaseDataset', module, None)
    assert resolves('RefCocoDataset.set_epoch', module, None) and resolves('TokenizeExpression', module, None)
    assert not resolves('set_epoc', module, 'RefCocoDataset') and not resolves('RefCocoDataset.set_epoc', module, None)
