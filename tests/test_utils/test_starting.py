"""What is missing at the start of a training or a test is one line of one process, and no log before it."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from mmengine.config import Config

from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.datasets.sources import PAGES, REFER_ZIPS, how_to_get
from mmetris.registry import DATASETS
from mmetris.utils import starting
from mmetris.utils.command_line import use_atomic_checkpoints
from mmetris.utils.starting import HeldScreen, ToolParser, check_encoders, fail, in_one_line, start, told
from tests import toy

ROOT = Path(__file__).parents[2]
NUMBERS = count()
SPEC = ShapesSpec(num_train=2, num_val=1, num_test_a=1, num_test_b=1)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, SPEC)
    return root


def toy_config(data_root: str | Path, name: str = 'etris/etris_tiny_shapes', **changes) -> Config:
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    if name.startswith('etris'):
        cfg.model = toy.model_cfg('vit')
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = f'{data_root}/'
    # MMEngine names a run, and its logger, by the second that it starts in.
    cfg.merge_from_dict(dict(changes, work_dir='work', launcher='none', experiment_name=f'run_{next(NUMBERS)}'))
    use_atomic_checkpoints(cfg)
    return cfg


def start_fails(cfg: Config, capsys, what: str = 'train') -> str:
    """The line that a start ends with; the screen has but one before it."""
    parser = argparse.ArgumentParser(prog='tool.py')
    with pytest.raises(SystemExit) as ended:
        start(parser, cfg, what)
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line]
    assert ended.value.code == 2 and out == ''
    assert lines[0].startswith('Reading data and weights; the log is in ') and len(lines) == 2, err
    return lines[1].removeprefix('tool.py: error: ')


@pytest.mark.parametrize('what', ['train', 'test'])
def test_missing_data_are_one_line_that_says_where_they_come_from_and_go(capsys, what):
    line = start_fails(toy_config('data/shapes'), capsys, what)
    assert line.startswith('data_root data/shapes/ does not exist. Expected: data/shapes/refcoco/instances.json')
    # From another folder, and from an installed package, the script's whole path.
    assert line.endswith(f'"python {ROOT}/tools/dataset_tools/make_shapes.py data/shapes" draws this data set')
    (log,) = Path('work').rglob('*.log')  # It has everything: the config, and where the error comes from.
    assert 'Traceback' in log.read_text() and 'train_dataloader' in log.read_text()


def test_a_missing_data_set_of_classes_names_its_script(capsys):
    line = start_fails(toy_config('data/shapes_semseg', 'semseg/etris_tiny_shapes-semseg'), capsys)
    assert 'data/shapes_semseg/images/train' in line and 'shapes_semseg --layout semseg" draws' in line


def test_a_missing_picture_and_a_damaged_file_are_one_line(capsys, shapes, tmp_path):
    images = toy_config(shapes, **{'train_dataloader.dataset.data_prefix.img_path': 'nowhere/'})
    assert 'nowhere does not exist' in start_fails(images, capsys)
    (tmp_path / 'half.json').write_text('{"images": [')
    damaged = toy_config(shapes, **{'train_dataloader.dataset.ann_file': str(tmp_path / 'half.json')})
    assert 'half.json is no valid JSON' in (line := start_fails(damaged, capsys))
    assert line.endswith('(MMETRIS_TRACEBACK=1 shows where)')


@pytest.mark.parametrize(
    ('key', 'value', 'line'),
    [
        ('optim_wrapper.optimizer.type', 'AdamX', 'AdamX is not in the mmetris::optimizer registry; did you mean Ada'),
        ('model.type', 'ReferingSegmentor', 'did you mean ReferringSegmentor?'),
        ('train_dataloader.dataset.type', 'RefCocoDatset', 'did you mean RefCocoDataset?'),
        ('train_dataloader.sampler.type', 'Foo', 'Foo is not in the mmetris::data sampler registry; custom_imports of'),
        ('model.decode_head.nosuch', 1, "ETRISHead.__init__() got an unexpected keyword argument 'nosuch'"),
        ('optim_wrapper.optimizer.lr', 'abc', "Adam: '<=' not supported between instances of"),
        ('train_dataloader.dataset.spilt', 'x', "BaseDataset.__init__() got an unexpected keyword argument 'spilt'"),
        ('model', 3, 'model should be a nn.Module object or dict, but got 3'),
        ('custom_hooks', 3, "'int' object is not iterable"),
        ('randomness.seed', 'abc', 'Cannot cast'),
        ('train_cfg.type', 'FooLoop', 'FooLoop is not in the mmetris::loop registry'),
    ],
)
def test_what_no_config_can_be_built_from_is_one_line(capsys, shapes, key, value, line):
    cfg = toy_config(shapes, **{'model.init_cfg': None})
    cfg.merge_from_dict({key: value} if key != 'model' else {})
    cfg.model = value if key == 'model' else cfg.model
    with pytest.raises(SystemExit) as ended:
        start(argparse.ArgumentParser(prog='tool.py'), cfg, 'train')
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ''
    last = [text for text in err.splitlines() if text][-1]
    assert last.startswith('tool.py: error: ') and line in last and 'Traceback' not in err
    assert last.endswith('(MMETRIS_TRACEBACK=1 shows where)')


def test_a_mistake_of_a_program_keeps_its_traceback():
    with pytest.raises(TypeError), in_one_line(argparse.ArgumentParser()):  # No config is built from here.
        len(3)  # type: ignore[arg-type]


def test_a_setting_that_is_not_there_is_named(capsys):
    for ask in (lambda cfg: cfg.model, lambda cfg: cfg['model']):
        with pytest.raises(SystemExit), in_one_line(argparse.ArgumentParser(prog='tool.py')):
            ask(Config(dict(x=1)))
        assert capsys.readouterr().err.startswith('tool.py: error: the config has no setting "model"')


def test_the_traceback_is_shown_where_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setenv('MMETRIS_TRACEBACK', '1')
    with pytest.raises(FileNotFoundError, match='data_root data/shapes/ does not exist'):
        start(argparse.ArgumentParser(), toy_config('data/shapes'), 'test')
    assert 'train_dataloader' in capsys.readouterr().out  # The log that was held.


def test_the_log_of_a_start_that_goes_well_is_on_the_screen(capsys, shapes):
    cfg = toy_config(shapes, **{'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 2, 'model.init_cfg': None})
    start(argparse.ArgumentParser(), cfg, 'train')
    said = capsys.readouterr().out
    assert said.index('train_dataloader') < said.index('Epoch(train)')


def test_missing_weights_are_told_before_data_are_read(capsys):
    for name, address in (('etris_vitb16_refcoco', 'ViT-B-16.pt'), ('etris_dinov2-vitb14_refcoco', 'dinov2_vitb14')):
        path = next((ROOT / 'configs').rglob(f'{name}.py'), None)
        if path is None:
            continue
        with pytest.raises(SystemExit):
            check_encoders(argparse.ArgumentParser(prog='tool.py'), Config.fromfile(path))
        line = capsys.readouterr().err
        assert line.startswith('tool.py: error: pretrained weights are missing: pretrained/') and address in line
        assert '"mmetris download ' in line and 'https://' in line and 'put it at pretrained/' in line


def test_every_published_data_set_says_where_it_comes_from():
    import mmetris.datasets

    def dataset(kind: str, **arguments):
        arguments = dict(dict(data_root='data/refer/', lazy_init=True), **arguments)
        return DATASETS.build(dict(type=kind, **arguments))

    told_of = how_to_get(
        dataset('RefCocoDataset', ann_file='refcoco+/instances.json', split_file='refcoco+/refs(unc).p')
    )
    assert f'{REFER_ZIPS["refcoco+"]} goes into data/refer/refcoco+/' in told_of
    assert 'train2014.zip into data/refer/train2014/' in told_of
    assert 'gRefCOCO' in how_to_get(dataset('GRefCocoDataset'))
    assert '--layout grefcoco' in how_to_get(dataset('GRefCocoDataset', data_root='data/shapes_grefs/'))
    assert '2_dataset_prepare' in how_to_get(dataset('ADE20KDataset', data_root='data/ade'))
    assert how_to_get(dataset('RefCocoDataset', data_root='mine', split_file='mine/refs.json')) is None
    # RefCOCO's and Shapes' are known by their files; tables and mixtures are their user's.
    others = {'RefCocoDataset', 'ShapesSegDataset', 'TableRefDataset', 'MixedRefDataset', 'ListedRefDataset'}
    own = {name for name in mmetris.datasets.__all__ if name.endswith('Dataset')}
    assert own - others == set(PAGES)


def test_the_text_of_an_error_is_one_line():
    assert (
        told(
            FileNotFoundError(
                'Caught FileNotFoundError in DataLoader worker process 0.\nTraceback\nFileNotFoundError: no x'
            )
        )
        == 'no x'
    )
    assert told(KeyError('a key')) == 'a key (MMETRIS_TRACEBACK=1 shows where)'
    assert told(ValueError('two\n lines')).startswith('two lines')


def test_another_process_leaves_the_line_to_the_first_one(monkeypatch, capsys):
    monkeypatch.setattr(starting, 'PATIENCE', 0.2)
    for rank, least in (('0', 0), ('1', 0.2)):
        monkeypatch.setenv('RANK', rank)
        for end in (partial(fail, argparse.ArgumentParser()), ToolParser().error):
            begun = time.monotonic()
            with pytest.raises(SystemExit):
                end('x is missing')
            assert time.monotonic() - begun >= least and 'x is missing' in capsys.readouterr().err


def test_a_held_screen_writes_all_or_nothing():
    below = io.StringIO()
    screen = HeldScreen(below)
    screen.write('a')
    screen.flush()
    assert below.getvalue() == ''
    screen.drop()
    screen.write('b')
    screen.release()
    screen.release()
    screen.write('c')
    assert below.getvalue() == 'bc' and screen.getvalue() == 'bc'


@pytest.mark.processes
def test_two_processes_end_with_one_line_and_status_2(tmp_path):
    """And the launcher adds none."""
    env = {key: value for key, value in os.environ.items() if key not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')}
    env.update(PYTHON=sys.executable, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
    command = [
        'bash',
        str(ROOT / 'tools/dist_train.sh'),
        'etris_tiny_shapes',
        '2',
        '--work-dir',
        str(tmp_path / 'work'),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=900)
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 2 and sum('does not exist' in line for line in lines) == 1
    assert len(lines) == 3, lines  # "No CUDA device", "Reading data", and the error
