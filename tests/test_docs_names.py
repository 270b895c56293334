"""Names in the documents are names in the code: classes, methods, functions, arguments, defaults, and code to copy."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import open_clip
import pytest

import mmetris

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (
        ROOT / 'README.md',
        ROOT / 'CONTRIBUTING.md',
        *(ROOT / 'docs').rglob('*.md'),
        *(ROOT / 'configs').rglob('*.md'),
        *(ROOT / 'projects').rglob('*.md'),
        *(ROOT / 'pretrained').glob('*.md'),
    )
)
# Where else a name without its package may be from.
ELSEWHERE = (
    'torch', 'torch.nn', 'torch.optim', 'mmengine.dataset', 'mmengine.hooks', 'mmengine.infer', 'mmengine.optim',
    'mmengine.runner', 'mmengine.visualization', 'mmengine.config', 'mmengine.analysis', 'mmengine._strategy',
    'mmengine.runner._flexible_runner', 'mmcv.transforms', 'mmseg.apis', 'mmseg.datasets', 'mmseg.datasets.transforms',
    'mmseg.engine', 'mmseg.evaluation', 'mmseg.models', 'mmseg.structures', 'mmseg.visualization',
)  # fmt: skip
# Of make, other programs and other people's files, and ports that are numbered when a file is written.
NO_NAMES = {
    'GRADIO_TEMP_DIR',
    'MMCV_WHEEL',
    'amx_bf16',
    'avx512_bf16',
    'features_1',
    'logit_scale',
    'max_memory_allocated',
}


@functools.cache
def modules() -> list[object]:
    """All modules of the package, and of the packages of projects."""
    names = ['mmetris', *(info.name for info in pkgutil.walk_packages(mmetris.__path__, 'mmetris.'))]
    for file in (ROOT / 'projects').glob('*/*/__init__.py'):
        package = '.'.join(file.parent.relative_to(ROOT).parts)
        names += [package, *(info.name for info in pkgutil.walk_packages([str(file.parent)], f'{package}.'))]
    return [importlib.import_module(name) for name in names]


@functools.cache
def index() -> dict[str, object]:
    """Public functions and classes of the package, by name."""
    found = {}
    for module in modules():
        for name, value in vars(module).items():
            if not name.startswith('_') and getattr(value, '__module__', '').startswith(('mmetris', 'projects')):
                found[name] = value
    return found


@functools.cache
def identifiers() -> set[str]:
    """Every name and every word of text in our sources and configs, MMEngine's arguments, open_clip's models."""
    found = {name for module in modules() for name in dir(module)}
    found.update(open_clip.list_models(), *open_clip.list_pretrained())
    for folder in ('mmetris', 'configs', 'tools', 'demo', 'projects'):
        for path in (ROOT / folder).rglob('*.py'):
            if '.mim' not in path.parts:
                for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                    found.update(words_of(node))
    for cls in (elsewhere(name) for name in ('Runner', 'OptimWrapper', 'FSDPStrategy', 'MMDistributedDataParallel')):
        found.update(inspect.signature(cls).parameters if cls else ())
    return found


def words_of(node: ast.AST) -> list[str]:
    """The names in one node of a syntax tree."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.findall(r'\w+', node.value)
    fields = ('id', 'attr', 'arg', 'name', 'asname')
    return [value for field in fields if isinstance(value := getattr(node, field, None), str)]


def elsewhere(name: str) -> object | None:
    """A name of the packages below us."""
    for module in (*ELSEWHERE, 'mmengine.model'):
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return None


def resolve(dotted: str) -> object | None:
    """What a dotted name means: from its package, or a name of ours or of the packages below, with its attributes."""
    first, *rest = dotted.split('.')
    value = index().get(first) or elsewhere(first) or getattr(builtins, first, None)
    if value is None:
        try:
            value = importlib.import_module(first)
        except ImportError:
            return None
    for name in rest:
        if inspect.ismodule(value) and not hasattr(value, name):
            try:
                value = importlib.import_module(f'{value.__name__}.{name}')
                continue
            except ImportError:
                return None
        if inspect.isclass(value) and not hasattr(value, name):
            # An attribute that instances are given.
            given = any(re.search(rf'self\.{name}\b|^    {name}: ', text_of(base), re.M) for base in value.__mro__)
            return value if given else None
        if not hasattr(value, name):
            return None
        value = getattr(value, name)
    return value


def text_of(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ''


def wrong_arguments(callee: object, call: ast.Call, as_signature: bool = False) -> list[str]:
    """Keywords that a callable does not take; where its signature is written down, other names or defaults too."""
    try:
        parameters = inspect.signature(callee).parameters
    except (TypeError, ValueError):
        return []
    named = [name for name in parameters if name not in ('self', 'args', 'kwargs')]
    takes_more = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    problems = [] if takes_more else [f'no argument {name!r}' for name in given if name not in named]
    if as_signature:
        positional = [node.id for node in call.args if isinstance(node, ast.Name)]
        if positional != named[: len(positional)]:
            problems.append(f'takes {named}, not {positional}')
        for name, node in given.items():
            if isinstance(node, ast.Constant) and name in parameters and parameters[name].default != node.value:
                problems.append(f'{name} defaults to {parameters[name].default!r}, not to {node.value!r}')
    return problems


def check_type(node: ast.Call) -> list[str]:
    """``dict(type='Name', ...)``: the class is known, and takes these arguments."""
    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    kind = given.get('type')
    if ast.unparse(node.func) != 'dict' or not (isinstance(kind, ast.Constant) and isinstance(kind.value, str)):
        return []
    cls = index().get(kind.value.removeprefix('mmetris.'))
    if cls is None:
        is_known = elsewhere(kind.value.rpartition('.')[2]) is not None or kind.value in identifiers()
        return [] if is_known else [f'no class {kind.value}']
    arguments = [keyword for keyword in node.keywords if keyword.arg not in ('type', '_delete_', '_scope_')]
    return wrong_arguments(cls, ast.Call(node.func, [], arguments))


def parse(text: str) -> ast.AST | None:
    """A span of code: an expression, assignments, or arguments as in a call; None if it is none of these."""
    for candidate in (text, f'arguments({text})'):
        try:
            return ast.parse(candidate)
        except SyntaxError:
            continue
    return None


def problems_of(span: str) -> list[str]:
    """What is wrong with one span in backticks."""
    tree = parse(span)
    if tree is None or re.search(
        r'/|\.(py|md|png|csv|json|txt|pth|pt|sh|yml|toml|gz|p|jpg|com|edu|pt2)\b|^\W|^pip |^make ', span
    ):
        return []
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg and node.arg not in identifiers():
            problems.append(f'no argument or setting {node.arg!r}')
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id not in identifiers() | NO_NAMES:
                problems.append(f'no argument or setting {node.targets[0].id!r}')
        if isinstance(node, ast.Call):
            problems += check_type(node)
            name = ast.unparse(node.func)
            callee = resolve(name) if re.fullmatch(r'[\w.]+', name) else None
            if name not in ('arguments', 'dict') and callee is None and name.rpartition('.')[2] not in identifiers():
                problems.append(f'no function {name}')
            elif inspect.isclass(callee) or inspect.isroutine(callee):
                problems += wrong_arguments(callee, node, as_signature=name.startswith('mmetris.'))
    expression = tree.body[0].value if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr) else None
    if isinstance(expression, (ast.Name, ast.Attribute)) and re.fullmatch(r'[\w.]+', span):
        first, *rest = span.split('.')
        if first in ('mmetris', 'torch', 'mmseg', 'mmengine', 'mmcv'):
            # A registered class has the package's name in front, in a config.
            if resolve(span) is None and not (len(rest) == 1 and rest[0] in index()):
                problems.append(f'no {span}')
        elif re.fullmatch(r'(?:[A-Z]+[a-z0-9]+){2,}[A-Z]*\w*', first):
            if resolve(span) is None:
                problems.append(f'no {span}')
        elif '_' in span or rest:
            problems += [f'no name {name!r}' for name in (first, *rest) if name not in identifiers() | NO_NAMES]
    return problems


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_backticks_are_names_in_the_code(path):
    text = re.sub(r'```.*?```', '', path.read_text(encoding='utf-8'), flags=re.DOTALL)
    found = {span: problems_of(span) for span in re.findall(r'`([^`\n]+)`', text)}
    assert not {span: problems for span, problems in found.items() if problems}


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_to_copy_imports_and_calls_what_is_there(path):
    problems = []
    text = path.read_text(encoding='utf-8')
    # Of a page that shows how to write a class.
    own = {f'no class {name}' for name in re.findall(r'^class (\w+)', text, re.MULTILINE)}
    for block in blocks(text, 'python'):
        names = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in ('mmetris', 'mmseg', 'mmengine'):
                for alias in node.names:
                    names[alias.asname or alias.name] = f'{node.module}.{alias.name}'
            elif isinstance(node, ast.Import):
                names.update({alias.asname or alias.name: alias.name for alias in node.names})
        for origin in names.values():
            if origin.split('.')[0] in ('mmetris', 'mmseg', 'mmengine') and resolve(origin) is None:
                problems.append(f'no {origin}')
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call):
                problems += check_type(node)
                first, dot, rest = ast.unparse(node.func).partition('.')
                callee = resolve(f'{names[first]}{dot}{rest}') if first in names else None
                if inspect.isclass(callee) or inspect.isroutine(callee):
                    problems += [f'{ast.unparse(node.func)}: {one}' for one in wrong_arguments(callee, node)]
    assert not set(problems) - own


@pytest.mark.parametrize(
    'span, message',
    [
        ('RefCocoDataset.set_epoc', 'no RefCocoDataset.set_epoc'),
        ('RefCocoDatset', 'no RefCocoDatset'),
        ('mmetris.apis.init_models', 'no mmetris.apis.init_models'),
        ('mmetris.apis.init_model(config, checkpoint=None, device=1)', 'device defaults to None, not to 1'),
        ('mmetris.apis.init_model(checkpoint)', "not ['checkpoint']"),
        ('RefSegInferencer(treshold=0.5)', "no argument 'treshold'"),
        ("dict(type='CompileHook', option=dict())", "no argument 'option'"),
        ("dict(type='CompileHok')", 'no class CompileHok'),
        ('tell_sentences()', 'no function tell_sentences'),
        ('share_pictures=True', "no argument or setting 'share_pictures'"),
        ('max_train_clases', "no name 'max_train_clases'"),
        ('model.test_cfg.dtyp', "no name 'dtyp'"),
    ],
)
def test_a_wrong_name_is_found(span, message):
    assert any(message in problem for problem in problems_of(span)), problems_of(span)


@pytest.mark.parametrize(
    'span',
    ['RefCocoDataset.set_epoch', 'RefSegInferencer(threshold=0.5)', 'mmetris.Bridger', 'data/x/y', '(B, C, H, W)'],
)
def test_a_right_name_is_not(span):
    assert not problems_of(span)


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md'])
def test_the_documents_name_the_methods_that_an_encoder_must_have(document):
    from mmetris import models

    text = ' '.join((ROOT / document).read_text(encoding='utf-8').split())
    lists = [
        set(re.findall(r'`(\w+)`', found))
        for found in re.findall(r'((?:`\w+`, )+`\w+`,? and `\w+`)', text)
        if '`tail`' in found
    ]
    assert lists == [set(cls.__abstractmethods__) for cls in (models.StagedImageEncoder, models.StagedTextEncoder)]
