"""What the documents say agrees with the code, the configs and each other."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import mmetris

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'configs').rglob('*.md')])
MODULES = sorted(['mmetris', *(module.name for module in pkgutil.walk_packages(mmetris.__path__, 'mmetris.'))])
# Not repeated in the docstring of a subclass: MMEngine's own, explained there.
OF_THE_BASE_CLASS = {'self', 'init_cfg', 'test_mode', 'args', 'kwargs'}
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
    """Public functions and classes that a module defines, and the public methods of those classes that it defines."""
    module = importlib.import_module(module_name)
    found = []
    for name, value in vars(module).items():
        if name.startswith('_') or getattr(value, '__module__', None) != module_name:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            found.append((f'{module_name}.{name}', value))
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
        explained = OF_THE_BASE_CLASS | set(documented)
        forgotten = [argument for argument in parameters if argument not in explained]
        if unknown or forgotten:
            problems.append(f'{name}: unknown {unknown}, forgotten {forgotten}')
        for argument, text in documented.items():
            default = re.search(r'Defaults to (True|False|None|\d+(?:\.\d+)?)(?![\w,]|\.\d| to \d)', text)
            if default and argument in parameters and parameters[argument].default is not inspect.Parameter.empty:
                actual = parameters[argument].default
                if ast.literal_eval(default[1]) != actual:
                    problems.append(f'{name}: {argument} defaults to {actual}, not to {default[1]}')
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
    cells = [cell.strip() for cell in row.strip('|').split('|')][1:]
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
            script = re.search(r'tools/[\w/-]+\.(?:py|sh)', command)
            if script:
                known = flags_of(script[0])
                assert set(re.findall(r'\s(--[a-z][a-z-]*)', command)) <= known, f'{line}: {sorted(known)}'


def flags_of(script: str) -> set[str]:
    """Flags a tool's command line knows; those of the Python tool behind a launcher."""
    launched = dict(dist_train='train', slurm_train='train', dist_test='test', slurm_test='test')
    path = ROOT / script
    path = path.with_name(f'{launched.get(path.stem, path.stem)}.py')
    shared = ROOT / 'mmetris' / 'utils' / 'command_line.py'
    return {flag for source in (path, shared) for flag in re.findall(r"'(--[a-z][a-z-]*)'", source.read_text('utf-8'))}


def test_the_readmes_table_of_flags_is_complete():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    rows = [line for line in text.split('\n') if line.startswith('| `--')]
    named = {flag for row in rows for flag in re.findall(r'`(--[a-z-]+)', row)}
    known = flags_of('tools/train.py') | flags_of('tools/test.py')
    assert named <= known
    assert known - named <= {'--local-rank', '--wait-time'}
