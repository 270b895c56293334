"""RefSegMetric inside MMEngine: meta information, copies, several processes, the log, checkpoints by best score."""

import csv
import json
import logging
import math
import random

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmetris.evaluation import GRefSegMetric, RefSegMetric
from mmetris.registry import METRICS
from mmetris.utils.command_line import end_processes

NUM_SAMPLES = 7


def make_sample(index, pred=None, target=None, **meta):
    """A data sample of its own size, with overlapping random masks unless they are given."""
    rng = np.random.default_rng(index)
    height, width = 5 + index, 6
    if target is None:
        target = (rng.random((height, width)) < 0.5).astype(np.uint8)
    if pred is None:
        # Each sample keeps another share of its ground truth, so that dropping or doubling one shows in every score.
        pred = np.where(rng.random((height, width)) < 0.4 + index / NUM_SAMPLES, target, 1 - target).astype(np.uint8)
    sample = SegDataSample(
        metainfo={
            'img_path': f'images/{index // 2}.jpg',
            'sample_idx': index,
            'sent_id': 100 + index,
            'expression': f'object {index}',
            **meta,
        }
    )
    sample.pred_sem_seg = PixelData(data=torch.as_tensor(pred)[None])
    sample.gt_sem_seg = PixelData(data=torch.as_tensor(target)[None])
    return sample


def make_grefs(index):
    """A data sample whose sentence may mean nothing, and be answered with nothing; all four cases are there."""
    empty = np.zeros((5 + index, 6), np.uint8)
    masks = dict(target=empty if index in (0, 1, 4) else None, pred=empty if index in (1, 3) else None)
    return make_sample(index, **masks, **(dict(pred_no_target=True) if index == 5 else {}))


def evaluate(samples, size, batch_size=2, kind=RefSegMetric, **kwargs):
    evaluator = Evaluator(kind(**kwargs))
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start : start + batch_size])
    return evaluator.evaluate(size)


@pytest.fixture
def log():
    """Messages of MMEngine's current logger while the test runs."""
    messages = []

    class Collector(logging.Handler):
        def emit(self, record):
            messages.append((record.levelname, record.getMessage()))

    logger = MMLogger.get_instance('test_referring_iou')
    collector = Collector()
    logger.addHandler(collector)
    yield messages
    logger.removeHandler(collector)


@pytest.fixture(scope='module')
def expected():
    """Scores of all samples, each once, computed with NumPy."""
    overlaps = []
    for index in range(NUM_SAMPLES):
        sample = make_sample(index)
        pred, target = sample.pred_sem_seg.data.numpy() == 1, sample.gt_sem_seg.data.numpy() == 1
        overlaps.append(((pred & target).sum(), (pred | target).sum()))
    ious = np.array([i / u for i, u in overlaps])
    scores = {'oIoU': 100 * sum(i for i, _ in overlaps) / sum(u for _, u in overlaps), 'mIoU': 100 * ious.mean()}
    scores.update({f'Pr@{x}': 100 * (ious > x).mean() for x in (0.5, 0.6, 0.7, 0.8, 0.9)})
    return pytest.approx({**scores, 'samples': NUM_SAMPLES})


def test_scores_of_a_data_set_in_percent_under_their_default_names(expected):
    scores = evaluate([make_sample(index) for index in range(NUM_SAMPLES)], NUM_SAMPLES)
    assert scores == expected
    assert list(scores) == ['oIoU', 'mIoU', 'Pr@0.5', 'Pr@0.6', 'Pr@0.7', 'Pr@0.8', 'Pr@0.9', 'samples']


def test_a_case_worked_out_by_hand():
    target = np.array([[1, 1, 1, 1, 255]], np.uint8)
    samples = [
        make_sample(0, np.array([[1, 1, 0, 0, 1]], np.uint8), target),  # 2/4
        make_sample(1, np.array([[1, 1, 1, 0, 0]], np.uint8), target),
    ]  # 3/4
    assert evaluate(samples, 2, thresholds=(0.5, 0.75)) == {
        'oIoU': 62.5,
        'mIoU': 62.5,
        'Pr@0.5': 50.0,
        'Pr@0.75': 0.0,
        'samples': 2,
    }


def test_aliases_give_the_same_scores_under_the_names_asked_for():
    samples = [make_sample(index) for index in range(NUM_SAMPLES)]
    usual = evaluate(samples, NUM_SAMPLES, metric=['oIoU', 'mIoU'])
    alias = evaluate(samples, NUM_SAMPLES, metric=['cIoU', 'gIoU'])
    assert alias == {'cIoU': usual['oIoU'], 'gIoU': usual['mIoU'], 'samples': NUM_SAMPLES}
    assert evaluate(samples, NUM_SAMPLES, metric='mIoU') == {'mIoU': usual['mIoU'], 'samples': NUM_SAMPLES}


def test_a_prefix_goes_before_every_name():
    assert list(evaluate([make_sample(0)], 1, metric='mIoU', prefix='val')) == ['val/mIoU', 'val/samples']


def test_it_is_built_from_a_config():
    assert isinstance(METRICS.build(dict(type='RefSegMetric')), RefSegMetric)


def test_copies_before_the_end_neither_count_twice_nor_push_real_samples_out(expected):
    # What MMEngine's own cut to the first seven results would leave: 0, 0, 3, 0, 1, 5, 3.
    order = [0, 0, 3, 0, 1, 5, 3, 2, 6, 4, 6]
    assert evaluate([make_sample(index) for index in order], NUM_SAMPLES) == expected


def test_equal_numbers_of_two_concatenated_data_sets_are_not_copies():
    samples = [make_sample(0, img_path='a/0.jpg'), make_sample(0, img_path='b/0.jpg')]
    assert evaluate(samples, 2)['samples'] == 2


def test_sentences_of_one_sample_number_are_told_apart():
    assert evaluate([make_sample(0, sent_id=1), make_sample(0, sent_id=2)], 2)['samples'] == 2


def test_without_sample_numbers_the_surplus_at_the_end_is_cut_with_a_warning(expected, log):
    samples = [make_sample(index, sample_idx=None) for index in [*range(NUM_SAMPLES), 0]]
    assert evaluate(samples, NUM_SAMPLES) == expected
    assert any(level == 'WARNING' and 'sample_idx' in message for level, message in log)


def test_samples_that_were_never_evaluated_are_reported(log):
    evaluate([make_sample(0)], 3)
    assert any('has 3 samples, but 1 different' in message for _, message in log)


def test_a_second_evaluation_starts_afresh():
    evaluator = Evaluator(RefSegMetric())
    evaluator.process([make_sample(0)])
    first = evaluator.evaluate(1)
    evaluator.process([make_sample(0)])
    assert evaluator.evaluate(1) == first


def test_the_log_shows_a_table_rounded_to_two_decimals(log):
    scores = evaluate([make_sample(index) for index in range(NUM_SAMPLES)], NUM_SAMPLES)
    table = next(message for _, message in log if 'oIoU' in message)
    assert all(name in table for name in scores)
    assert f'{scores["mIoU"]:.2f} ' in table
    assert 'mean over sentences' in table


def test_empty_ground_truths_are_counted_in_a_warning_and_score_zero(log):
    empty = np.zeros((4, 4), np.uint8)
    scores = evaluate([make_sample(0, empty, empty), make_sample(1, empty + 1, empty + 1)], 2)
    assert (scores['mIoU'], scores['oIoU']) == (50.0, 100.0)
    assert any(level == 'WARNING' and '1 of 2' in message and '0_100' in message for level, message in log)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(metric=['mIoU', 'mDice']), "no metric 'mDice'; valid names are oIoU, cIoU, mIoU, gIoU, Pr"),
        (dict(metric='Pr@0.5'), 'thresholds'),
        (dict(metric=[]), 'valid names'),
        (dict(thresholds=(50, 60)), r'\[0, 1\]'),
        (dict(format_only=True), 'output_dir'),
    ],
)
def test_bad_arguments_are_refused_with_the_remedy(kwargs, words):
    with pytest.raises(ValueError, match=words):
        RefSegMetric(**kwargs)


def test_masks_of_different_size_are_refused_naming_the_sample():
    sample = make_sample(3, np.ones((4, 4), np.uint8), np.ones((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r'images/1.jpg.*sent_id 103.*\(4, 4\).*\(8, 8\).*LoadAnnotations'):
        Evaluator(RefSegMetric()).process([sample])


@pytest.mark.parametrize(('field', 'words'), [('gt_sem_seg', 'LoadAnnotations'), ('pred_sem_seg', 'model')])
def test_a_missing_mask_is_reported_naming_the_sample(field, words):
    sample = make_sample(3)
    delattr(sample, field)
    with pytest.raises(KeyError, match=f'images/1.jpg.*{field}.*{words}'):
        Evaluator(RefSegMetric()).process([sample])


def test_an_evaluation_without_samples_is_refused():
    with pytest.raises(ValueError, match='no sample'):
        RefSegMetric().evaluate(0)


@pytest.mark.parametrize('shape', [(5, 1), (1, 5)])
def test_a_mask_one_pixel_thin_keeps_its_shape(shape, tmp_path):
    line = np.ones(shape, np.uint8)
    assert evaluate([make_sample(0, line, line)], 1, output_dir=str(tmp_path))['mIoU'] == 100.0
    assert np.array(Image.open(tmp_path / '0_100.png')).shape == shape


def test_masks_and_a_table_of_sentences_are_written(tmp_path):
    samples = [make_sample(index) for index in (0, 1, 0)]
    evaluate(samples, 2, output_dir=str(tmp_path))
    mask = np.array(Image.open(tmp_path / '0_101.png'))
    np.testing.assert_array_equal(mask, samples[1].pred_sem_seg.data[0].numpy())
    with open(tmp_path / 'sentences.csv', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [(row['name'], row['expression']) for row in rows] == [('0_100', 'object 0'), ('0_101', 'object 1')]
    assert list(rows[0]) == ['name', 'expression', 'intersection', 'union', 'iou', 'image']
    assert all(
        float(row['iou']) == pytest.approx(100 * int(row['intersection']) / int(row['union']), abs=0.005)
        for row in rows
    )


def test_a_mask_whose_name_repeats_is_told_and_the_table_names_the_image(tmp_path, log):
    evaluate([make_sample(0, sent_id=0), make_sample(1, sent_id=0)], 2, output_dir=str(tmp_path))
    assert any('1 names of masks belong to several sentences' in text and 'first is 0_0' in text for _, text in log)
    with open(tmp_path / 'sentences.csv', encoding='utf-8') as file:
        assert {row['image'] for row in csv.DictReader(file)} == {'0.jpg'}


def test_names_that_are_no_unicode_are_written_with_a_replacement(tmp_path):
    """A file name in Latin-1, and half of a pair of UTF-16 in a sentence; the name is longer than a file's may be."""
    name = 'caf\udce9' + 'x' * 300
    sample = make_sample(0, img_path=f'images/{name}.jpg', expression='the \ud83d')
    evaluate([sample], 1, output_dir=str(tmp_path))
    with open(tmp_path / 'sentences.csv', encoding='utf-8') as file:
        (row,) = csv.DictReader(file)
    assert row['image'] == 'caf\ufffd' + 'x' * 300 + '.jpg' and row['expression'] == 'the \ufffd'
    assert row['name'].startswith('caf_xxx') and (tmp_path / f'{row["name"]}.png').is_file()


def test_tables_of_several_splits_are_kept_apart_by_the_prefix(tmp_path):
    for split in ('testA', 'testB'):
        evaluate([make_sample(0)], 1, output_dir=str(tmp_path), prefix=split)
    assert {path.name for path in tmp_path.glob('*.csv')} == {'sentences_testA.csv', 'sentences_testB.csv'}


def test_format_only_needs_no_ground_truth(tmp_path):
    sample = make_sample(0)
    del sample.gt_sem_seg
    assert evaluate([sample], 1, output_dir=str(tmp_path), format_only=True) == {}
    assert [path.name for path in tmp_path.iterdir()] == ['0_100.png']


class MaskModel(BaseModel):
    """Predicts one mask of eight pixels at each validation; so many of its pixels are right each time:"""

    correct_pixels = (2, 6, 4, 7)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epoch = -1

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return dict(loss=self.weight.sum())
        self.epoch += 1
        pred = (np.arange(8) < self.correct_pixels[self.epoch]).astype(np.uint8)[None]
        return [make_sample(0, pred, np.ones((1, 8), np.uint8))]


@pytest.mark.parametrize(
    ('key', 'rule', 'best_epoch'),
    [('mIoU', None, 4), ('oIoU', 'greater', 4), ('Pr@0.5', 'greater', 2), ('auto', 'greater', 4)],
)
def test_checkpoints_are_kept_by_the_best_score_under_the_plain_names(key, rule, best_epoch, tmp_path):
    loader = dict(batch_size=1, dataset=[0], sampler=dict(type='DefaultSampler', shuffle=False))
    runner = Runner(
        MaskModel(),
        str(tmp_path),
        train_dataloader=loader,
        val_dataloader=dict(loader),
        train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
        val_cfg=dict(),
        val_evaluator=dict(type='RefSegMetric'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=9, save_last=False, save_best=key, rule=rule)
        ),
        default_scope='mmetris',
        experiment_name=f'{tmp_path.name}',
    )
    runner.train()
    name = 'oIoU' if key == 'auto' else key
    assert [path.name for path in tmp_path.glob('best_*')] == [f'best_{name}_epoch_{best_epoch}.pth']
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'mIoU: 87.5000  Pr@0.5: 100.0000' in log and 'samples: 1' in log


class RepeatingSampler:
    """Every process gets its share with copies of the others' samples in between, at random places."""

    def __init__(self, rank, world_size):
        rng = random.Random(rank)
        indices = list(range(rank, NUM_SAMPLES, world_size))
        self.indices = indices + rng.choices(range(NUM_SAMPLES), k=4 + rank)
        rng.shuffle(self.indices)

    def __iter__(self):
        return iter(self.indices)


def evaluate_in_process(rank, world_size, folder):
    """What each spawned process runs: the same evaluation under several samplers; writes its scores."""
    torch.distributed.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=world_size)
    data_set = range(NUM_SAMPLES)
    samplers = {
        'rounded up': DefaultSampler(data_set, shuffle=False, round_up=True),
        'rounded up and shuffled': DefaultSampler(data_set, shuffle=True, seed=3, round_up=True),
        'not rounded up': DefaultSampler(data_set, shuffle=False, round_up=False),
        'repeating': RepeatingSampler(rank, world_size),
        'all on the first process': range(NUM_SAMPLES) if rank == 0 else [],
    }
    scores = {
        name: evaluate([make_sample(index) for index in sampler], NUM_SAMPLES) for name, sampler in samplers.items()
    }
    scores['exchanged by the backend'] = evaluate(
        [make_sample(index) for index in samplers['repeating']], NUM_SAMPLES, collect_device='gpu'
    )
    grefs = {
        name: evaluate([make_grefs(index) for index in samplers[name]], NUM_SAMPLES, kind=GRefSegMetric)
        for name in ('rounded up', 'repeating')
    }
    with open(f'{folder}/scores_{rank}.json', 'w') as file:
        json.dump([scores, grefs], file)
    end_processes()


@pytest.mark.processes
@pytest.mark.parametrize('world_size', [2, 3])
def test_several_processes_score_exactly_as_one(world_size, tmp_path, monkeypatch):
    """Seven samples on two and on three processes, with padding and with copies out of order: equal to one process."""
    assert math.ceil(NUM_SAMPLES / world_size) * world_size > NUM_SAMPLES, 'the sampler must have something to pad'
    monkeypatch.chdir(tmp_path)  # MMEngine exchanges results through the current folder
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    single = evaluate([make_sample(index) for index in range(NUM_SAMPLES)], NUM_SAMPLES)
    single_gref = evaluate([make_grefs(index) for index in range(NUM_SAMPLES)], NUM_SAMPLES, kind=GRefSegMetric)
    assert {'gIoU', 'cIoU', 'N-acc', 'T-acc', 'Pr@0.7'} <= set(single_gref)
    mp.spawn(evaluate_in_process, (world_size, str(tmp_path)), nprocs=world_size)
    for rank in range(world_size):
        scores, grefs = json.loads((tmp_path / f'scores_{rank}.json').read_text())
        assert len(scores) == 6
        assert grefs == {'rounded up': single_gref, 'repeating': single_gref}
        for sampler, result in scores.items():
            assert result == single, sampler
