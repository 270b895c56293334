"""Pictures during validation and testing: real runs of MMEngine's Runner on drawn images."""

import shutil

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmetris.engine import RefSegVisualizationHook
from mmetris.utils.command_line import end_processes

NUM_SENTENCES = 5


class SentencePredictor(BaseModel):
    """Predicts the left half for every sentence; the data set is the list of sentence numbers, two to an image."""

    def __init__(self, folder, with_ids=True, expression='left half'):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.folder, self.with_ids, self.expression = folder, with_ids, expression

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            return dict(loss=self.weight.sum())
        return [self.predict_one(number) for number in inputs]

    def predict_one(self, number):
        ids = dict(sample_idx=number, sent_id=100 + number) if self.with_ids else {}
        sample = SegDataSample(
            metainfo=dict(img_path=f'{self.folder}/image_{number // 2}.png', expression=self.expression, **ids)
        )
        mask = torch.zeros(1, 16, 24, dtype=torch.uint8)
        mask[..., :12] = 1
        sample.pred_sem_seg, sample.gt_sem_seg = PixelData(data=mask), PixelData(data=mask)
        return sample

    def val_step(self, data):
        return self(data)

    test_step = val_step


def make_runner(folder, model=None, save_dir=None, launcher='none', **hook):
    for index in range((NUM_SENTENCES + 1) // 2):
        Image.new('RGB', (24, 16), (30, 60, 90)).save(folder / f'image_{index}.png')
    loader = dict(batch_size=2, dataset=list(range(NUM_SENTENCES)), sampler=dict(type='DefaultSampler', shuffle=False))
    visualizer = dict(
        type='RefSegLocalVisualizer',
        vis_backends=[dict(type='LocalVisBackend')],
        **(dict(save_dir=str(save_dir)) if save_dir else {}),
    )
    return Runner(
        model or SentencePredictor(folder),
        str(folder / 'work'),
        launcher=launcher,
        train_dataloader=dict(loader),
        val_dataloader=dict(loader),
        test_dataloader=dict(loader),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=dict(type='RefSegMetric'),
        test_evaluator=dict(type='RefSegMetric'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        visualizer=visualizer,
        default_hooks=dict(visualization=dict(type='RefSegVisualizationHook', **hook)),
        default_scope='mmetris',
        experiment_name=f'{folder.name}_{np.random.default_rng().integers(2**32)}',
    )


def names(folder):
    return sorted(path.name for path in folder.glob('*.png'))


EVERY_SENTENCE = ['image_0_100.png', 'image_0_101.png', 'image_1_102.png', 'image_1_103.png', 'image_2_104.png']


def test_testing_writes_a_picture_of_every_sentence_into_the_given_folder(tmp_path):
    make_runner(tmp_path, save_dir=tmp_path / 'show', draw=True).test()
    assert names(tmp_path / 'show') == EVERY_SENTENCE
    picture = np.array(Image.open(tmp_path / 'show' / EVERY_SENTENCE[0]))
    assert picture.shape[1] > 3 * 300, 'three panels, enlarged'


def test_without_a_folder_pictures_lie_beside_the_log(tmp_path):
    runner = make_runner(tmp_path, draw=True)
    runner.test()
    assert names(tmp_path / 'work' / runner.timestamp / 'vis_test') == EVERY_SENTENCE


def test_a_relative_folder_lies_beside_the_log(tmp_path):
    runner = make_runner(tmp_path, draw=True, out_dir='pictures')
    runner.test()
    assert names(tmp_path / 'work' / runner.timestamp / 'pictures') == EVERY_SENTENCE


def test_interval_and_limit_choose_by_place_in_the_data_set(tmp_path):
    make_runner(tmp_path, draw=True, out_dir=str(tmp_path / 'show'), test_interval=2, test_max_count=2).test()
    assert names(tmp_path / 'show') == ['image_0_100.png', 'image_1_102.png']


def test_nothing_is_drawn_unless_asked_for(tmp_path, recwarn):
    make_runner(tmp_path, out_dir=str(tmp_path / 'show')).test()
    assert not (tmp_path / 'show').exists()
    assert not any('draw is False' in str(warning.message) for warning in recwarn)


def test_validation_draws_chosen_sentences_under_the_iteration_as_step(tmp_path):
    runner = make_runner(tmp_path, draw=True, interval=2, max_count=2)
    runner.train()
    folder = tmp_path / 'work' / runner.timestamp / 'vis_data' / 'vis_image'
    assert names(folder) == [f'image_{image}_{100 + 2 * image}_{step}.png' for image in (0, 1) for step in (3, 6)]


def test_samples_without_ids_are_chosen_by_counting_anew_each_time(tmp_path):
    model = SentencePredictor(tmp_path, with_ids=False)
    runner = make_runner(tmp_path, model, draw=True, out_dir=str(tmp_path / 'show'), test_interval=4)
    for _ in range(2):
        runner.test()
        assert names(tmp_path / 'show') == ['image_0.png', 'image_2.png']
        shutil.rmtree(tmp_path / 'show')


def test_samples_without_expression_are_drawn_by_mmsegmentation(tmp_path):
    model = SentencePredictor(tmp_path, expression=None)
    make_runner(tmp_path, model, draw=True, out_dir=str(tmp_path / 'show')).test()
    assert names(tmp_path / 'show') == EVERY_SENTENCE
    assert Image.open(tmp_path / 'show' / EVERY_SENTENCE[0]).size == (48, 16)


def test_intervals_must_be_positive():
    with pytest.raises(ValueError, match='at least 1'):
        RefSegVisualizationHook(interval=0)


def draw_in_process(rank, folder):
    """What each spawned process runs."""
    torch.distributed.init_process_group('gloo', f'file://{folder}/rendezvous', rank=rank, world_size=2)
    make_runner(folder, draw=True, out_dir=str(folder / 'show')).test()
    make_runner(folder, draw=True, out_dir=str(folder / 'some'), test_interval=2, test_max_count=2).test()
    end_processes()


@pytest.mark.processes
def test_every_process_draws_the_sentences_it_has_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    mp.spawn(draw_in_process, (tmp_path,), nprocs=2)
    assert names(tmp_path / 'show') == EVERY_SENTENCE
    assert names(tmp_path / 'some') == ['image_0_100.png', 'image_1_102.png'], 'the choice of one process'
