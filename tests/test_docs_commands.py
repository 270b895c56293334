"""Every command and every Python block of the documents runs in a test, or the page says before it what it needs.

A block that cannot run here (data, weights, a network, GPUs, hours) stands after a line such as ``*Needs RefCOCO and
GPUs:*``. All commands, those too, are parsed by the program that they name, up to its options; files of the repository
that they name exist.
"""

from __future__ import annotations

import argparse
import ast
import glob
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmetris.cli import mmetris_command
from mmetris.models.clip import DualEncoder
from mmetris.registry import DATASETS, HOOKS, MODELS, RUNNERS, STRATEGIES
from mmetris.utils.command_line import build_without_weights
from tests.toy_inference import ROOT, picture
from tests.toy_refer import write_toy_refer

PAGES = sorted(
    [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md'), *(ROOT / 'pretrained').glob('*.md')]
    + [path for folder in ('configs', 'projects') for path in (ROOT / folder).glob('*/README.md')]
)
BLOCK = re.compile(
    r'(?:^\*(?P<mark>Needs [^\n]+?)[.:]\*\n\n)?^```(?P<language>bash|python)\n(?P<code>.*?)^```', re.M | re.S
)
EPOCH_COST = 'python tools/analysis_tools/epoch_cost.py configs/etris/etris_vitb16_refcoco.py'
TO_MMETRIS = 'python tools/model_converters/{}_to_mmetris.py'
# Commands that tests run elsewhere, as they stand or on smaller inputs: the test's file, and what it runs there.
COMMANDS_RUN = {
    'mmetris segment demo/shapes.png "the blue ring" "the small heart" --out-file found.png': (
        'test_inference_guide.py', 'test_the_first_command_works_as_it_stands_here_and_in_the_readme'),
    'mmetris models': ('test_cli.py', "'models'"),
    'FLOPS=$(python -c "import mmseg; print(mmseg.__path__[0])")/.mim/tools/analysis_tools/get_flops.py': (
        'test_apis/test_mmseg_apis.py', 'get_flops.py'),
    'python $FLOPS configs/etris/etris_tiny_shapes.py --shape 192 192 --cfg-options scope=mmetris': (
        'test_apis/test_mmseg_apis.py', 'test_mmsegs_get_flops_counts_our_models'),
    'make install': ('../.ci/run', 'make test'),
    'make lint': ('../Makefile', 'test: lint'),
    'make test': ('../.ci/run', 'make test'),
    'make docs': ('test_docs_site.py', 'strict'),
    f'{TO_MMETRIS.format("etris")} tests/data/golden/etris_vit.ckpt.pth converted --bridger-heads 4 --head-heads 4': (
        'test_goldens.py', 'test_the_examples_of_the_api_document_run'),
    'python tools/model_converters/mmetris_to_etris.py converted/model.pth back.pth': (
        'test_goldens.py', 'test_converting_back_gives_the_published_file_bit_by_bit'),
    f'{TO_MMETRIS.format("cris")} tests/data/golden/cris.ckpt.pth converted_cris --head-heads 4 --text-heads 4': (
        'test_goldens.py', "'cris'"),
    'python tools/model_converters/mmetris_to_cris.py converted_cris/model.pth back.pth': (
        'test_goldens.py', 'test_converting_back_gives_the_published_file_bit_by_bit'),
    'python tools/analysis_tools/count_parameters.py configs/ablation/*.py': (
        'test_tools/test_count_parameters.py', 'SEVERAL'),
    'python tools/analysis_tools/count_parameters.py configs/tuning/*.py': (
        'test_tools/test_count_parameters.py', 'SEVERAL'),
    f'{EPOCH_COST} --gpus 1 2 8 64': ('test_benchmark/test_epoch_cost.py', 'epoch_cost.py'),
    f'{EPOCH_COST} --gpus 1 2 --peak-tflops 312': ('test_benchmark/test_epoch_cost.py', 'epoch_cost.py'),
}  # fmt: skip
# Pages whose Python blocks are all run by a test of their own, from top to bottom.
PAGES_RUN = {
    'docs/inference.md': 'test_inference_guide.py',
    'docs/add_the_bridger.md': 'test_add_the_bridger.py',
    'docs/howto.md': 'test_howto.py',
    'docs/api.md': 'test_goldens.py',
}


class Block(NamedTuple):
    """A block of code: where it stands, what the page says that it needs, and its text."""

    page: str
    mark: str | None
    language: str
    code: str


def blocks_of(text: str, page: str = 'page') -> list[Block]:
    """Blocks of a page, fences in lists not counted."""
    return [Block(page, found['mark'], found['language'], found['code']) for found in BLOCK.finditer(text)]


BLOCKS = [block for path in PAGES for block in blocks_of(path.read_text('utf-8'), path.relative_to(ROOT).as_posix())]
SHELL = [block for block in BLOCKS if block.language == 'bash']
PYTHON = [block for block in BLOCKS if block.language == 'python']


def commands_of(code: str) -> list[str]:
    """The commands of a block, one a line, without comments."""
    lines = [re.sub(r'(^|\s)#.*', '', line) for line in code.replace('\\\n', ' ').split('\n')]
    return [' '.join(part.split()) for line in lines for part in line.split(' && ') if part.strip()]


class Parsed(Exception):
    """A program has read its options, and goes no further."""


def parse(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace | None:
    """Let a Python program read its options.

    Raises:
        SystemExit: If it does not take them.
    """
    read = argparse.ArgumentParser.parse_args

    def stop_after(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        raise Parsed(read(self, *args, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', stop_after)
        patch.setattr(sys, 'argv', [program, *arguments])
        patch.syspath_prepend((ROOT / program).parent)
        try:
            runpy.run_path(str(ROOT / program), run_name='__main__')
        except Parsed as parsed:
            return parsed.args[0]
    raise AssertionError(f'{program} read no options')


def check_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where a command is none: an option that its program does not know, or a file that is not there."""
    if command.startswith('FLOPS='):
        return
    words = shlex.split(re.split(r' [>|] ', command)[0])
    while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
        words.pop(0)
    if words and words[0] == 'bash':
        words.pop(0)
    if not words or words[0] in ('wget', 'unzip', 'mkdir', 'cd', 'eval', 'mim', 'jupyter') or words == ['mmetris']:
        return
    program, *arguments = words
    for word in words:
        for name in braces(word):
            if re.match(r'(tools|configs|requirements|demo|docs|tests|projects)/\S+\.\w+$', name):
                assert glob.glob(str(ROOT / name)), f'no {name}'
    if program == 'make':
        targets = re.search(r'^\.PHONY: (.*)$', (ROOT / 'Makefile').read_text(), re.M)[1].split()
        assert [word for word in arguments if '=' not in word][0] in targets
        return
    if program == 'python' and arguments[0] in ('-m', '-c') or program == 'pip' or arguments[:1] == ['$FLOPS']:
        return
    launched = dict(dist_train='train', slurm_train='train', dist_test='test', slurm_test='test')
    if program == 'mmetris':
        program, arguments = of_mmetris(arguments)
    elif program == 'python':
        program, *arguments = arguments
    elif Path(program).stem in launched:
        count = 2 if 'train' in program else 3  # config, checkpoint, number of processes
        assert arguments[count - 1].isdecimal(), f'{program} takes the number of processes as its argument {count}'
        program, arguments = f'tools/{launched[Path(program).stem]}.py', arguments[: count - 1] + arguments[count:]
    if program == 'projects/gradio_demo/app.py':  # It imports gradio, for seconds, before it reads options.
        known = re.findall(r"'(--[a-z-]+)'", (ROOT / program).read_text('utf-8'))
        assert {word for word in arguments if word.startswith('--')} <= set(known)
    elif program is not None and arguments:
        parsed = parse(program, [name for word in arguments for name in braces(word)], monkeypatch)
        check_options(parsed)


def of_mmetris(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Let ``mmetris`` read its options; the tool behind a command that only hands them on."""
    behind = dict(
        train='tools/train.py',
        test='tools/test.py',
        export='tools/deployment/export.py',
        demo='projects/gradio_demo/app.py',
    )
    if arguments[0] in behind:
        return behind[arguments[0]], arguments[1:]
    command: click.Command = mmetris_command
    while isinstance(command, click.Group):
        if arguments[:1] == ['--help']:
            return None, []
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, list(arguments))
    return None, []


def check_options(parsed: argparse.Namespace) -> None:
    """First keys of ``--cfg-options`` are keys of the config, where that is one of ours."""
    config = getattr(parsed, 'config', None)
    options = getattr(parsed, 'cfg_options', None)
    if options and isinstance(config, str) and (ROOT / config).is_file():
        assert {key.split('.')[0] for key in options} <= set(Config.fromfile(ROOT / config))


def braces(word: str) -> list[str]:
    """``a{b,c}`` -> ``ab``, ``ac``, as a shell does."""
    found = re.fullmatch(r'(.*)\{([^{}]*,[^{}]*)\}(.*)', word)
    return [word] if found is None else [f'{found[1]}{part}{found[3]}' for part in found[2].split(',')]


@pytest.mark.parametrize('page', dict.fromkeys(block.page for block in SHELL))
def test_commands_are_those_of_their_programs(page, monkeypatch, capsys):
    for block in SHELL:
        if block.page == page:
            for command in commands_of(block.code):
                try:
                    check_command(command, monkeypatch)
                except (SystemExit, click.ClickException, KeyError, ValueError) as error:
                    pytest.fail(f'{page}: {command}\n{error!r}\n{capsys.readouterr().err}')


def test_commands_run_in_a_test_or_stand_under_what_they_need():
    unmarked = [(block.page, command) for block in SHELL if not block.mark for command in commands_of(block.code)]
    assert not [(page, command) for page, command in unmarked if command not in COMMANDS_RUN]
    assert set(COMMANDS_RUN) <= {command for block in SHELL for command in commands_of(block.code)}
    for file, evidence in COMMANDS_RUN.values():
        assert evidence in (ROOT / 'tests' / file).read_text('utf-8'), (file, evidence)


# Python. Each handler runs a block as a reader would, in a folder with the links that a checkout's root has.


def as_is(code: str) -> dict:
    """Run it."""
    space: dict = {}
    exec(compile(code, 'block', 'exec'), space)
    return space


def over(base: str, build: bool = True) -> Callable[[str], None]:
    """A fragment of a config, over a config: it is read, and the model can be built."""

    def run(code: str) -> None:
        name = Path('configs/etris/mine_over.py') if base.startswith('./') else Path('mine_over.py')
        name.write_text(code if '_base_' in code else f"_base_ = '{base}'\n{code}", encoding='utf-8')
        cfg = Config.fromfile(name)
        name.unlink()
        init_default_scope('mmetris')
        if build:
            build_without_weights(cfg)

    return run


def of_refcoco(code: str) -> None:
    """A data set in RefCOCO's layout, read from a small copy."""
    write_toy_refer(Path('data/refer'))
    init_default_scope('mmetris')
    assert len(DATASETS.build(as_is(code)['dataset'])) > 0


def own_refs(code: str) -> None:
    """The pickled list of the README."""
    Path('data/mine').mkdir(parents=True, exist_ok=True)
    as_is(code)
    assert Path('data/mine/refs(mine).p').stat().st_size > 100


def own_config(code: str) -> None:
    """The README's config of such files reads them: an image, the annotation that the list names."""
    import json

    Path('data/mine/images').mkdir()
    Image.new('RGB', (40, 30)).save('data/mine/images/3.jpg')
    annotation = dict(id=7, image_id=3, category_id=1, segmentation=[[5, 5, 20, 5, 20, 20, 5, 20]])
    content = dict(images=[dict(id=3, file_name='3.jpg', height=30, width=40)], annotations=[annotation])
    Path('data/mine/instances.json').write_text(json.dumps(content))
    config = Path('configs/etris/mine_refcoco.py')
    config.write_text(code, encoding='utf-8')
    cfg = Config.fromfile(config)
    config.unlink()
    init_default_scope('mmetris')
    sample = DATASETS.build(cfg.train_dataloader.dataset)[0]['data_samples']
    assert sample.expression in ('the man in the red coat', 'left person')


def architecture(code: str) -> None:
    """A dual encoder that has no name."""
    assert DualEncoder.describe(as_is(code)['arch']).embed_dim == 768


def vocabulary(code: str) -> None:
    """A function that looks for other names, on the model of Shapes' classes."""
    space = as_is(code)
    cfg = Config.fromfile('configs/semseg/etris_tiny_shapes-semseg.py')
    init_default_scope('mmetris')
    model = build_without_weights(cfg)
    space['look_for'](model, ['a red thing', 'grass'])
    assert len(model.vocabulary) == 2


def hook(code: str) -> None:
    """Settings of a config's ``default_hooks``."""
    init_default_scope('mmetris')
    assert HOOKS.build(as_is(code)['default_hooks']['checkpoint']) is not None


def strategy(code: str) -> None:
    """Names of runner and strategy."""
    space = as_is(code)
    assert RUNNERS.get(space['runner_type']) and STRATEGIES.get(space['strategy']['type'])


def checkpointed(code: str) -> None:
    """A list of modules of ViT-B/16."""
    model = build_without_weights(Config.fromfile('configs/etris/etris_vitb16_refcoco.py'))
    assert set(as_is(code)['activation_checkpointing']) <= {name for name, _ in model.named_modules()}


def losses(code: str) -> None:
    """A list of losses of a decode head."""
    init_default_scope('mmetris')
    assert [MODELS.build(cfg).loss_name for cfg in as_is(code)['decode_head']['loss_decode']]


VITB16 = 'configs/etris/etris_vitb16_refcoco.py'
# The first line of a block that no test of its own runs -> how it is run here, in the order of the pages.
RUNS: dict[tuple[str, str], Callable] = {
    ('README.md', 'from mmetris.apis import RefSegInferencer'): as_is,
    ('README.md', 'import pickle'): own_refs,
    ('README.md', "_base_ = ['./etris_vitb16_refcoco.py']"): own_config,
    ('docs/analysis.md', f"_base_ = '{VITB16}'"): over(VITB16, build=False),
    ('docs/benchmarks.md', "model = dict(prefix_cache=dict(dir='work_dirs/prefix_cache', max_gb=40))"): over(VITB16),
    ('docs/benchmarks.md', 'activation_checkpointing = ['): checkpointed,
    ('docs/checkpoints.md', 'from mmetris.apis import RefSegInferencer, from_pretrained, save_pretrained'): as_is,
    ('docs/checkpoints.md', 'from mmetris.models.converters import CRIS'): as_is,
    ('docs/class_names.md', 'model = dict('): over('configs/semseg/etris_tiny_shapes-semseg.py'),
    ('docs/class_names.md', 'from mmetris.models import ClassNameSegmentor'): vocabulary,
    ('docs/class_names.md', 'decode_head = dict(loss_decode=['): losses,
    ('docs/data.md', 'dataset = dict('): of_refcoco,
    ('docs/data.md', f"_base_ = '{VITB16}'"): over(VITB16, build=False),
    ('docs/encoders.md', 'model = dict('): over(VITB16),
    ('docs/encoders.md', 'arch = dict('): architecture,
    ('docs/large_models.md', "runner_type = 'mmetris.RefSegFlexibleRunner'"): strategy,
    ('docs/openmmlab.md', 'import mmetris.registry'): as_is,
    ('docs/openmmlab.md', 'import mmetris.threads'): as_is,
    ('docs/reliability.md', "custom_imports = dict(imports=['mmetris.registry'])"): hook,
    ('docs/study.md', 'model = dict('): over(VITB16),
    ('docs/training_free.md', 'model = dict('): over('configs/training_free/clip_vitb16_ade20k.py'),
    ('docs/tuning.md', "_base_ = './etris_r101_refcoco.py'"): over('./etris_r101_refcoco.py'),
    ('docs/tuning.md', "_base_ = './etris_vitb16_refcoco.py'"): over('./etris_vitb16_refcoco.py'),
}


def handler(block: Block) -> Callable | None:
    """How a block is run here."""
    fitting = [run for (page, start), run in RUNS.items() if page == block.page and block.code.startswith(start)]
    return fitting[0] if fitting else None


def runs_elsewhere(block: Block) -> bool:
    """Whether a test of the block's own page, or of tuning methods, runs it."""
    return block.page in PAGES_RUN or 'class ScaledAdapter' in block.code


def test_python_runs_in_a_test_or_stands_under_what_it_needs():
    for page, file in PAGES_RUN.items():
        text = (ROOT / 'tests' / file).read_text('utf-8')
        assert Path(page).name in text and 'exec(' in text
    open_ends = [block for block in PYTHON if not block.mark and not runs_elsewhere(block) and not handler(block)]
    assert not [(block.page, block.code.split('\n')[0]) for block in open_ends]
    used = {handler(block) for block in PYTHON}
    assert [key for key, run in RUNS.items() if run not in used] == []
    for block in PYTHON:
        ast.parse(block.code)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Path:
    """A folder that looks like the root of a checkout, in which configs of one's own can be put beside ours."""
    root = tmp_path_factory.mktemp('checkout')
    for name in ('demo', 'pretrained', 'tests'):
        (root / name).symlink_to(ROOT / name)
    for folder in (ROOT / 'configs').iterdir():
        (root / 'configs' / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (root / 'configs' / folder.name / path.name).symlink_to(path)
    Image.fromarray(picture(64, 80)).save(root / 'picture.png')
    return root


@pytest.mark.parametrize('page', dict.fromkeys(page for page, _ in RUNS))
def test_python_of_the_pages_runs(page, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.delenv('REFER_ROOT', raising=False)
    for block in PYTHON:
        if block.page == page and not block.mark and not runs_elsewhere(block):
            run = handler(block)
            assert run is not None
            run(block.code)


@pytest.mark.parametrize(
    'command',
    [
        'python tools/train.py configs/etris/etris_vitb16_refcoco.py --no-such-option',
        'python tools/train.py configs/etris/etris_vitb17_refcoco.py',
        'tools/dist_train.sh configs/etris/etris_vitb16_refcoco.py --resume',
        'mmetris segment photo.jpg "the dog" --no-such-option',
        'mmetris no-such-command',
        'make no-such-target',
        'python tools/train.py configs/etris/etris_vitb16_refcoco.py --cfg-options no_such_key=1',
    ],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    with pytest.raises((SystemExit, click.ClickException, AssertionError, KeyError)):
        check_command(command, monkeypatch)


def test_marks_and_commands_are_read():
    shell = '*Needs GPUs:*\n\n```bash\na b \\\n  --c  # why\n# only a comment\nd && e\n```\n\n'
    page = f'Text.\n\n{shell}```python\nx = 1\n```\n'
    first, second = blocks_of(page)
    assert (first.mark, second.mark) == ('Needs GPUs', None) and second.code == 'x = 1\n'
    assert commands_of(first.code) == ['a b --c', 'd', 'e']
    assert braces('x_{a,b}.py') == ['x_a.py', 'x_b.py']
