"""Worst cases and breakdown from what tools/test.py writes, as real processes; TensorBoard in the same test run."""

from __future__ import annotations

import csv
import importlib.util
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmetris.apis import RefSegInferencer
from mmetris.datasets.shapes import write_shapes
from tests.test_tools.test_tools import CONFIG, SPEC, TOOLS, run
from tests.toy_inference import undecided_model

pytestmark = pytest.mark.processes
FAILURES = TOOLS / 'analysis_tools' / 'failures.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A config, a checkpoint and drawn images."""
    folder = tmp_path_factory.mktemp('some where') / 'a space'
    write_shapes(folder / 'shapes', SPEC)
    (folder / 'toy_shapes.py').write_text(CONFIG.replace('DATA_ROOT', repr(f'{folder / "shapes"}/')))
    torch.save(dict(state_dict=undecided_model().state_dict()), folder / 'toy.pth')
    return folder


@pytest.fixture(scope='module')
def tested(folder) -> Path:
    """Folder of tools/test.py's masks of val and testA, with pictures, files and in TensorBoard if that is there."""
    options = []
    if _has_tensorboard():
        options = ['--cfg-options', 'visualizer.vis_backends.0.type=TensorboardVisBackend']
    run(
        TOOLS / 'test.py',
        folder / 'toy_shapes.py',
        folder / 'toy.pth',
        '--work-dir',
        folder / 'work',
        '--out',
        folder / 'masks',
        '--show-dir',
        'pictures',
        '--split',
        'val',
        '--split',
        'testA',
        *options,
    )
    return folder / 'masks'


def _has_tensorboard() -> bool:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


def rows_of(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_the_worst_are_sorted_and_shown_and_the_parts_make_up_the_whole(folder, tested):
    out = folder / 'out'
    printed = run(FAILURES, tested, '--config', folder / 'toy_shapes.py', '--out-dir', out, '--number', '4')
    for split in ('val', 'testA'):
        given, worst = rows_of(tested / split / f'sentences_{split}.csv'), rows_of(out / split / 'worst.csv')
        assert sorted(row['name'] for row in worst) == sorted(row['name'] for row in given)
        ious = [float(row['iou']) for row in worst]
        assert ious == sorted(ious) and [row['rank'] for row in worst[:2]] == ['1', '2']
        parts = rows_of(out / split / 'breakdown.csv')
        assert parts[0]['by'] == 'all' and int(parts[0]['sentences']) == len(given)
        assert float(parts[0]['mIoU']) == pytest.approx(np.mean([float(row['iou']) for row in given]), abs=0.01)
        overall = 100 * sum(int(row['intersection']) for row in given) / sum(int(row['union']) for row in given)
        assert float(parts[0]['oIoU']) == pytest.approx(overall, abs=0.01)
        for by in ('length', 'mask size'):
            assert sum(int(part['sentences']) for part in parts if part['by'] == by) == len(given)
        assert '| words | colour |' in (out / split / 'breakdown.md').read_text() and '| words | colour |' in printed
        # Two rows of two pictures with three panels each.
        assert Image.open(out / split / 'worst.png').width > 1400
        assert Image.open(out / split / 'breakdown.png').height > 400


PURE = """
from mmengine.config import read_base

with read_base():
    from .toy_shapes import *
from mmetris.datasets import RefCocoDataset
from mmetris.datasets.transforms import Letterbox, LoadAnnotations, LoadImageFromFile, PackSegInputs, TokenizeExpression
from mmetris.engine import SplitTestLoop
from mmetris.engine.hooks import RefSegVisualizationHook
from mmetris.models import ReferringSegmentor

model.update(type=ReferringSegmentor)
default_hooks.update(visualization=dict(type=RefSegVisualizationHook))
test_cfg.update(type=SplitTestLoop)
test_dataloader['dataset'].update(type=RefCocoDataset, pipeline=[
    dict(type=LoadImageFromFile), dict(type=Letterbox, size=(64, 64)), dict(type=LoadAnnotations),
    dict(type=TokenizeExpression, context_length=17), dict(type=PackSegInputs)])
"""


def test_types_may_be_classes_from_the_test_to_the_worst_cases(folder, tmp_path):
    """A config in MMEngine's pure Python form, whose types are the classes themselves, goes through every flag."""
    base = Config.fromfile(folder / 'toy_shapes.py')
    (tmp_path / 'toy_shapes.py').write_text(base.pretty_text)
    pure = tmp_path / 'pure.py'
    pure.write_text(PURE)
    options = ['--split', 'testA', '--split', 'val', '--dtype', 'bfloat16', '--show-dir', 'pictures']
    work = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'masks']
    output = run(TOOLS / 'test.py', pure, folder / 'toy.pth', *work, *options)
    assert 'testA: oIoU' in output and 'val: oIoU' in output
    assert list((tmp_path / 'work').glob('*/pictures/*.png'))
    run(FAILURES, tmp_path / 'masks', '--config', pure, '--out-dir', tmp_path / 'worst', '--split', 'val')
    assert (tmp_path / 'worst' / 'val' / 'worst.png').is_file()
    inferencer = RefSegInferencer(str(pure), str(folder / 'toy.pth'), device='cpu', show_progress=False)
    assert inferencer.asker.context_length == 17
    assert inferencer(np.zeros((30, 40, 3), np.uint8), 'a cat')['masks'][0].shape == (30, 40)


def test_each_sentence_has_its_own_mask_where_ids_start_anew_in_each_object(folder, tmp_path):
    """Of home-made split files; the table says which mask is whose, and the tool reads the right one."""
    shutil.copytree(folder / 'shapes', tmp_path / 'shapes')
    split_file = tmp_path / 'shapes' / 'refcoco' / 'refs(unc).p'
    refs = pickle.loads(split_file.read_bytes())
    for ref in refs:
        for number, sentence in enumerate(ref['sentences']):
            sentence['sent_id'] = number
    split_file.write_bytes(pickle.dumps(refs, protocol=2))
    config = tmp_path / 'toy_shapes.py'
    config.write_text(CONFIG.replace('DATA_ROOT', repr(f'{tmp_path / "shapes"}/')))
    masks = tmp_path / 'masks'
    options = ['--work-dir', tmp_path / 'work', '--out', masks, '--show-dir', 'pictures', '--split', 'val']
    run(TOOLS / 'test.py', config, folder / 'toy.pth', *options)
    rows = rows_of(masks / 'sentences_val.csv')
    names = {row['name'] for row in rows}
    assert len(names) == len(rows) == sum(len(ref['sentences']) for ref in refs if ref['split'] == 'val')
    assert names == {path.stem for path in masks.glob('*.png')}
    assert names == {path.stem for path in (tmp_path / 'work').glob('*/pictures/*.png')}
    spec = importlib.util.spec_from_file_location('failures', FAILURES)
    failures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(failures)
    samples = failures.Samples(Config.fromfile(config), 'val')
    for score in failures.read_scores(masks / 'sentences_val.csv'):
        target = samples(score)[1] != 0
        mask = np.asarray(Image.open(masks / f'{score.name}.png')) != 0
        assert ((mask & target).sum(), (mask | target).sum()) == (score.intersection, score.union)
        assert samples.records[score.name]['expression'] == score.expression
    run(FAILURES, masks, '--images', tmp_path / 'shapes' / 'train2014', '--out-dir', tmp_path / 'worst')
    assert (tmp_path / 'worst' / 'val' / 'worst.png').is_file()


def test_sizes_of_the_true_masks_follow_from_the_table(folder, tested):
    """The union, the intersection and the predicted mask tell how large the true mask is."""
    out = folder / 'sizes'
    run(FAILURES, tested, '--split', 'val', '--out-dir', out, '--sizes', '3')
    from mmetris.datasets import RefCocoDataset

    data = RefCocoDataset(
        str(folder / 'shapes') + '/', split='val', test_mode=True, pipeline=[dict(type='mmetris.LoadAnnotations')]
    )
    masks = [data[index]['gt_seg_map'] for index in range(len(data))]
    small = sum(mask.mean() <= 0.03 for mask in masks)
    assert 0 < small < len(masks)
    parts = {part['part']: int(part['sentences']) for part in rows_of(out / 'val' / 'breakdown.csv')}
    assert parts['up to 3 %'] == small


def test_without_a_config_pictures_come_from_a_folder_and_the_sheet_can_be_of_one_kind_of_words(folder, tested):
    out = folder / 'images'
    run(
        FAILURES,
        tested,
        '--split',
        'testA',
        '--images',
        folder / 'shapes' / 'train2014',
        '--out-dir',
        out,
        '--contains',
        'relation',
    )
    worst = rows_of(out / 'testA' / 'worst.csv')
    assert 0 < len(worst) < len(rows_of(tested / 'testA' / 'sentences_testA.csv'))
    assert (out / 'testA' / 'worst.png').is_file()


def test_a_checkpoint_is_tested_first(folder, tested):
    out = folder / 'from_checkpoint'
    run(
        FAILURES,
        '--config',
        folder / 'toy_shapes.py',
        '--checkpoint',
        folder / 'toy.pth',
        '--split',
        'testA',
        '--out-dir',
        out,
    )
    assert rows_of(out / 'masks' / 'sentences_testA.csv') == rows_of(tested / 'testA' / 'sentences_testA.csv')
    assert (out / 'testA' / 'worst.png').is_file()


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['nothing', '--out-dir', 'x'], 1, 'nothing has no sentences.csv'),
        (['--out-dir', 'x'], 2, 'give either the folder of tools/test.py --out, or --config and --checkpoint'),
        (['--checkpoint', 'x.pth', '--out-dir', 'x'], 2, '--checkpoint needs --config'),
        (['nothing', '--out-dir', 'x', '--number', '0'], 2, '--number must be at least 1'),
    ],
)
def test_mistakes_end_with_one_line(tmp_path, arguments, code, message):
    (tmp_path / 'nothing').mkdir()
    printed = run(FAILURES, *arguments, code=code, cwd=tmp_path)
    assert message in printed and 'Traceback' not in printed


def test_results_of_other_data_and_other_tables_are_named(folder, tested, tmp_path):
    shutil.copy(tested / 'val' / 'sentences_val.csv', tmp_path / 'sentences_testA.csv')
    printed = run(FAILURES, tmp_path, '--config', folder / 'toy_shapes.py', '--out-dir', tmp_path / 'out', code=1)
    assert 'do config and results belong together?' in printed and 'Traceback' not in printed
    (tmp_path / 'sentences_testA.csv').write_text('name,iou\na,3\n')
    assert 'tools/test.py writes' in run(FAILURES, tmp_path, '--out-dir', tmp_path / 'out', code=1)


def test_pictures_of_testing_are_files_and_in_tensorboard(folder, tested):
    names = {row['name'] for split in ('val', 'testA') for row in rows_of(tested / split / f'sentences_{split}.csv')}
    pictures = next((folder / 'work').glob('*/pictures'))
    assert {path.stem for path in pictures.iterdir()} == names
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((folder / 'work').rglob('events.out.tfevents*'))), size_guidance=dict(images=0))
    events.Reload()
    assert set(events.Tags()['images']) == names
    name = sorted(names)[0]
    image = events.Images(name)[0]
    assert (image.width, image.height) == Image.open(pictures / f'{name}.png').size
