"""Private names of other packages that mmetris uses, each with a test that it is still there.

They may change without notice, so a public way is taken wherever there is one. What is left stands in the tables below:
a new use fails here until it has a line and a reason, and a line without a use fails too.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import mmetris

ROOT = Path(__file__).parents[1]
FOLDERS = ('mmetris', 'tools', 'demo', 'projects')
PRIVATE = re.compile(r'_[a-zA-Z]\w*')
PACKAGES = ('mmengine', 'mmcv', 'mmseg', 'torch', 'torchvision', 'open_clip', 'numpy')
# Methods of named tuples, and a function of `os`, that Python documents.
DOCUMENTED = {'_asdict', '_replace', '_fields', '_make', '_exit'}

# (owner, name, why there is no public way). The owner is a module or a class; an attribute may be set by its instances.
OPENMMLAB = [
    ('mmengine', '_strategy', 'strategies are exported nowhere else'),
    ('mmengine.runner', '_flexible_runner', 'the runner that reads strategies is exported nowhere else'),
    ('mmengine._strategy.FSDPStrategy', '_wrap_model', 'the only place between building a model and sharding it'),
    ('mmengine.runner.Runner', '_resume', 'whether it goes on is told nowhere else'),
    ('mmengine.runner.Runner', '_load_from', 'what it goes on from is told nowhere else'),
    ('mmengine.runner.EpochBasedTrainLoop', '_decide_current_val_interval', 'dynamic_intervals have no other reader'),
    (
        'mmengine.hooks.CheckpointHook',
        '_save_checkpoint_with_step',
        'removes the old checkpoint before the new is whole',
    ),
    ('mmengine.hooks.CheckpointHook', '_save_best_checkpoint', 'removes the old one before the new one is whole'),
    ('mmengine.hooks.CheckpointHook', '_publish_model', 'writes under the final name'),
    ('mmengine.hooks.CheckpointHook', '_init_rule', 'what save_best="auto" stands for'),
    ('mmengine.optim.OptimWrapper', '_clip_grad', 'clip_func is not called by a process without gradients'),
    ('mmengine.visualization.Visualizer', '_vis_backends', 'get_backend needs names, and none lists them'),
    ('mmengine.model.BaseModule', '_dump_init_info', 'init_weights calls it, with no switch'),
    ('mmengine.infer.BaseInferencer', '_init_model', 'one of the steps a subclass is asked to fill in'),
    ('mmengine.infer.BaseInferencer', '_init_pipeline', 'one of the steps a subclass is asked to fill in'),
    ('mmengine.infer.BaseInferencer', '_init_collate', 'one of the steps a subclass is asked to fill in'),
    ('mmengine.infer.BaseInferencer', '_init_visualizer', 'one of the steps a subclass is asked to fill in'),
    ('mmengine.infer.BaseInferencer', '_inputs_to_list', 'one of the steps a subclass is asked to fill in'),
    ('mmengine.dataset.BaseDataset', '_metainfo', 'classes that the folders name come after the constructor'),
    ('mmseg.models.segmentors.BaseSegmentor', '_forward', 'abstract: each segmentor defines it'),
    ('mmseg.datasets.transforms.LoadAnnotations', '_load_seg_map', 'transform() does other things around it'),
]
TORCH = [
    ('torch.nn.Module', '_non_persistent_buffers_set', 'which buffers are no part of a checkpoint'),
    ('torch.nn.Module', '_load_from_state_dict', 'what a module does about missing keys of its own'),
    ('torch.nn.Module', '_compiled_call_impl', 'taking the compilation off again'),
    ('torch.nn.Module', '_forward_hooks', 'whether a shortcut around forward is allowed'),
    ('torch.nn.Module', '_forward_pre_hooks', 'whether a shortcut around forward is allowed'),
    ('torch.nn.Module', '_backward_hooks', 'whether a shortcut around forward is allowed'),
    ('torch.nn.Module', '_backward_pre_hooks', 'whether a shortcut around forward is allowed'),
    ('torch.nn.Conv2d', '_conv_forward', "a convolution with other weights, by the module's own padding"),
    ('torch.nn.modules.batchnorm', '_BatchNorm', 'the base of all batch norms'),
    ('torch.Tensor', '_version', 'whether a tensor changed since something was computed of it'),
    ('torch', '_softmax_backward_data', "softmax's gradient from its result"),
    ('torch.ops.aten', '_scaled_dot_product_flash_attention_for_cpu', 'its operations are counted'),
    ('torch.ops.aten', '_scaled_dot_product_flash_attention_for_cpu_backward', 'its operations are counted'),
    ('open_clip.transformer.VisionTransformer', '_pool', 'forward() walks through the whole tower before it'),
    ('open_clip.model', '_build_vision_tower', 'public classes make towers in pairs only'),
    ('open_clip.model', '_build_text_tower', 'public classes make towers in pairs only'),
    ('numpy', '_core', 'where checkpoints of the newer NumPy say that their numbers come from'),
]
LISTED = {name for _, name, _ in (*OPENMMLAB, *TORCH)}


def resolve(path: str):
    """A module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        owner, name = path.rsplit('.', 1)
        return getattr(resolve(owner), name)


def has(owner, name: str) -> bool:
    """Whether a module or class has a name, or its instances are given it by a class in its line."""
    if hasattr(owner, name):
        return True
    if isinstance(owner, ModuleType) or not inspect.isclass(owner):
        return importlib.util.find_spec(f'{owner.__name__}.{name}') is not None
    return any(re.search(rf'self\.{name}\b[^=(]*=', source_of(base)) for base in owner.__mro__)


@cache
def source_of(cls: type) -> str:
    """A class's text, empty where it is not written in Python."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ''


@pytest.mark.parametrize('owner, name, reason', OPENMMLAB, ids=lambda value: value if ' ' not in value else '')
def test_what_is_used_of_openmmlab_is_there(owner, name, reason):
    assert has(resolve(owner), name), (
        f'the installed {owner} has no {name} any more ({reason}): find its successor, '
        f'and change {", ".join(sorted(uses()[name])) or "nothing"}'
    )


@pytest.mark.parametrize('owner, name, reason', TORCH, ids=lambda value: value if ' ' not in value else '')
def test_what_is_used_of_torch_and_numpy_is_there(owner, name, reason):
    if owner == 'numpy':
        pytest.importorskip('numpy', minversion='2.0')  # NumPy 1 calls it `core`
    assert has(resolve(owner), name), (
        f'the installed {owner} has no {name} any more ({reason}): find its successor, '
        f'and change {", ".join(sorted(uses()[name])) or "nothing"}'
    )


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax trees of our sources, by path."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob('*.py')) if '.mim' not in path.parts]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding='utf-8')) for path in paths}


@cache
def defined() -> set[str]:
    """Private names that our sources define: functions, classes, variables, attributes of ``self``."""
    names = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in ('self', 'cls'):
                    names.add(node.attr)
    return {name for name in names if PRIVATE.fullmatch(name)}


@cache
def inherited() -> dict[str, set[str]]:
    """Private names of our classes that a base class of another package has as well, with our classes."""
    found = defaultdict(set)
    for info in pkgutil.walk_packages(mmetris.__path__, 'mmetris.'):
        for cls in vars(importlib.import_module(info.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != info.name:
                continue
            text = source_of(cls)
            own = set(re.findall(r'\b(?:self|super\(\))\.(_[a-zA-Z]\w*)', text)) | set(
                re.findall(r'def (_[a-zA-Z]\w*)', text)
            )
            for base in cls.__mro__[1:]:
                if base.__module__.split('.')[0] in PACKAGES:
                    for name in own:
                        if name in vars(base) or re.search(rf'self\.{name}\b', source_of(base)):
                            found[name].add(f'{info.name}.{cls.__name__}')
    return dict(found)


@cache
def uses() -> dict[str, set[str]]:
    """Where private names that are not ours are used, by name: attributes, imports, names given as text."""
    found = defaultdict(set)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr] if node.attr not in defined() else []
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split('.')[0] in PACKAGES:
                names = [*node.module.split('.'), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split('.')]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith('attr'):
                names = [one.value for one in node.args[1:2] if isinstance(one, ast.Constant)]
                names = [name for name in names if name not in defined()]
            for name in names:
                if isinstance(name, str) and PRIVATE.fullmatch(name) and name not in DOCUMENTED:
                    found[name].add(f'{path}:{node.lineno}')
    for name, classes in inherited().items():
        found[name].update(classes)
    return defaultdict(set, found)


def test_no_other_private_names_of_packages_are_used():
    unlisted = {name: sorted(places) for name, places in uses().items() if name not in LISTED}
    assert not unlisted, 'take the public way, or add a line with a reason to the tables of this file'


def test_each_line_of_the_tables_is_used():
    assert not sorted(LISTED - set(uses())), 'not used any more: remove these lines'
