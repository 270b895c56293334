"""What ``mmetris data check`` finds in data that are right, and in data with one fault each."""

import functools
import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmetris.apis.data_check import check_data
from mmetris.datasets import refcoco
from tests.toy_command import ask_command
from tests.toy_refer import IMAGES, compressed_rle, file_name, write_toy_refer

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='TokenizeExpression', context_length=6)]


def config(root, train=None, **test_cfg):
    """A config as those of configs/etris, of what the check reads."""

    def reader(split, **kwargs):
        return dict(type='RefCocoDataset', data_root=f'{root}/', split=split, pipeline=PIPELINE, **kwargs)

    return Config(
        dict(
            default_scope='mmetris',
            train_dataloader=dict(dataset=reader('train') if train is None else train),
            val_dataloader=dict(dataset=reader('val', test_mode=True)),
            test_dataloader=dict(dataset=reader('testA', test_mode=True)),
            test_cfg=test_cfg,
        )
    )


def found(root, change=None, cfg=None, **kwargs):
    """The only data set's splits, and what is said of it."""
    write_toy_refer(root, change=change)
    report = check_data(config(root, splits=['testA', 'testB']) if cfg is None else cfg, **kwargs)
    return next(iter(report.splits.values())), [(problem.level, problem.message) for problem in report.problems]


def test_counts_of_every_split(tmp_path):
    splits, problems = found(tmp_path)
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.update(ann_file='refcoco/instances.json')  # Its default, so the same data set.
    assert list(check_data(cfg).splits) == [f'RefCocoDataset {tmp_path}/refcoco/refs(unc).p']
    counts = {split: (one.objects, one.sentences, one.images) for split, one in splits.items()}
    assert counts == dict(train=(4, 8, 2), val=(1, 3, 1), testA=(1, 1, 1), testB=(1, 2, 1))
    # Tokens with [SOS] and [EOS]; "square on the left side" has seven.
    assert (splits['train'].longest, splits['train'].cut, splits['train'].context_length) == (7, 3, 6)
    assert splits['train'].decoded is None and splits['train'].no_target == 0
    assert [level for level, _ in problems] == ['warning'] * len(problems)
    cut = 'sentences of more than 6 tokens, which are cut: "square on the left side" (7), and 2 more'
    assert cut in [message for _, message in problems]
    # The toy set's refs 3 and 4 are one annotation, with other sentences: nothing is repeated.
    assert not [message for _, message in problems if 'again' in message or 'several masks' in message]


def test_repeated_and_ambiguous_sentences(tmp_path):
    def change(instances, refs):
        refs[1]['sentences'][0]['sent'] = 'the left  Square'  # That of refs[0], for another object of the image.
        refs[3]['sentences'][0]['sent'] = 'the disc'  # That of refs[2], for the same annotation.

    splits, problems = found(tmp_path, change)
    assert splits['train'].repeated == 1 and splits['train'].ambiguous == 1
    messages = [message for _, message in problems]
    assert any(
        message.startswith('sentences that have several masks') and 'the left square' in message for message in messages
    )
    assert any(message.startswith('sentences that stand there again') and 'the disc' in message for message in messages)


def test_empty_and_full_masks(tmp_path):
    def change(instances, refs):
        instances['annotations'][0]['segmentation'] = [[1, 1, 1, 1, 1, 1]]
        instances['annotations'][2]['segmentation'] = compressed_rle(np.ones(IMAGES[12], np.uint8))

    splits, problems = found(tmp_path, change)
    assert (splits['train'].empty_masks, splits['train'].full_masks) == (1, 2)
    assert any('without any pixel' in message and 'ref_id 1 ("the left square")' in message for _, message in problems)
    assert all(level == 'warning' for level, _ in problems)

    def all_empty(instances, refs):
        for annotation in instances['annotations'][:3]:
            annotation['segmentation'] = []

    _, problems = found(tmp_path / 'empty', all_empty)
    assert problems[0] == ('error', 'no object is left to train on: every mask is without a pixel')


def test_images_that_are_trained_and_tested_on(tmp_path):
    def change(instances, refs):
        refs[4].update(image_id=12, ann_id=103)  # The val object now lies on a training image.

    _, problems = found(tmp_path, change)
    (leak,) = [message for _, message in problems if 'also trained on' in message]
    assert leak.startswith('1 of 1 images are also trained on') and leak.endswith('COCO 12')
    part = dict(type='RefCocoDataset', data_root=f'{tmp_path}/', pipeline=PIPELINE)
    mixture = dict(type='MixedRefDataset', datasets=[part], leave_out=[dict(part, split_file='refcoco/refs(other).p')])
    shutil.copy(tmp_path / 'refcoco/refs(unc).p', tmp_path / 'refcoco/refs(other).p')
    report = check_data(config(tmp_path, mixture))
    assert len(report.splits) == 2  # That which the mixture leaves out is read, too.
    leaks = [problem.message for problem in report.problems if 'also trained on' in problem.message]
    assert leaks and all('MixedRefDataset leaves them out' in message for message in leaks)


def test_pictures_are_decoded_and_compared_when_asked(tmp_path):
    write_toy_refer(tmp_path)
    images = tmp_path / 'train2014'
    shutil.copy(images / file_name(11), tmp_path / 'kept.jpg')
    (images / file_name(12)).write_bytes((images / file_name(12)).read_bytes()[:200])
    Image.new('RGB', (9, 9)).save(images / file_name(13))
    cfg = config(tmp_path, splits=['testA', 'testB'])
    assert check_data(cfg).num_errors == 0
    report = check_data(cfg, decode=True)
    messages = [problem.message for problem in report.problems if problem.level == 'error']
    assert len(messages) == report.num_errors == 2
    assert any(file_name(12) in message and 'cannot be read as an image' in message for message in messages)
    assert any('has 9 x 9 pixels (H x W), but its annotation says 40 x 40' in message for message in messages)

    def change(instances, refs):
        for image in instances['images']:
            if image['id'] == 13:
                image.update(height=48, width=64)
        instances['annotations'][3]['segmentation'] = [[1, 1, 9, 1, 9, 9]]

    write_toy_refer(tmp_path, change=change)
    shutil.copy(images / file_name(11), images / file_name(13))  # Val's picture is one of train's, by another name.
    report = check_data(cfg, decode=True)
    assert report.num_errors == 0 and next(iter(report.splits.values()))['val'].decoded == 1
    assert any('pictures are trained on too' in problem.message for problem in report.problems)


def test_a_split_that_cannot_be_read_is_an_error_where_the_config_uses_it(tmp_path):
    def change(instances, refs):
        refs[5]['sentences'][0]['sent'] = ' '  # Of testA.
        refs[6]['split'] = 'extra'
        refs[6]['sentences'] = []

    splits, problems = found(tmp_path, change, config(tmp_path, splits=['testA']))
    assert sorted(splits) == ['train', 'val']
    errors = [message for level, message in problems if level == 'error']
    assert len(errors) == 1 and 'ref_id 6, sent_id 60 has an empty sentence' in errors[0]
    assert any(level == 'warning' and 'ref_id 7 has no sentences' in message for level, message in problems)


def test_missing_files_pipelines_and_other_data_sets(tmp_path):
    report = check_data(config(tmp_path / 'nowhere'))
    assert report.num_errors == len(report.problems) == 1 and 'does not exist' in report.problems[0].message
    write_toy_refer(tmp_path)
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset.pipeline = [dict(type='LoadPicture')]
    (message,) = [problem.message for problem in check_data(cfg).problems if problem.level == 'error']
    assert message.startswith('the pipeline of train cannot be built') and 'LoadPicture' in message
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(config(tmp_path).train_dataloader.dataset))
    assert set(next(iter(check_data(config(tmp_path, wrapped)).splits.values()))) == {'train', 'val', 'testA', 'testB'}
    other = Config(dict(train_dataloader=dict(dataset=dict(type='mmseg.ADE20KDataset')), default_scope='mmetris'))
    with pytest.raises(ValueError, match='no referring data set to check, but ADE20KDataset'):
        check_data(other)


def test_counts_are_compared_with_published_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(refcoco, '_MIN_PUBLISHED_OBJECTS', 1)
    _, problems = found(tmp_path)
    assert ('warning', 'train has 4 objects, published are 42404') in problems


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run ``mmetris data check`` on a config of the toy set: status, output, errors."""
    write_toy_refer(tmp_path / 'data')
    config('data', splits=['testA', 'testB']).dump(tmp_path / 'cfg.py')
    monkeypatch.chdir(tmp_path)
    return functools.partial(ask_command, capsys, 'data', 'check')


def test_the_command_prints_counts_and_draws_a_sheet(command, tmp_path):
    status, out, _ = command('cfg.py', '--sheet', 'sheet.png', '--samples', '4')
    assert status == 0 and '|  train  |' not in out and '| train |' in out and '0 errors, ' in out
    with Image.open('sheet.png') as sheet:
        assert sheet.width == 3 * (480 + 16) + 16 and sheet.height > 2 * 200  # Four pictures, three in a row.
    missing = ['--cfg-options', 'train_dataloader.dataset.data_root=nowhere/']
    status, out, _ = command('cfg.py', *missing)
    assert status == 1 and out.startswith('RefCocoDataset nowhere/') and "REFER's layout" in out
    assert '1 error, ' in out and out.count('| split |') == 1, 'no table without a row'
    status, _, err = command('cfg.py', '--sheet', 'sheet.png')
    assert status == 2 and err.startswith('error: sheet.png is there already')


def test_the_command_prints_json_alone_and_ends_with_1_after_an_error(command, tmp_path):
    (tmp_path / 'data/train2014' / file_name(11)).unlink()
    status, out, _ = command('cfg.py', '--json')
    content = json.loads(out)
    assert status == 1 and content['num_errors'] == 1
    assert content['problems'][0]['level'] == 'error' and file_name(11) in content['problems'][0]['message']
    (splits,) = content['splits'].values()
    assert splits['val']['sentences'] == 3 and 'train' not in splits
    status, out, _ = command('cfg.py', '--json', '--cfg-options', 'train_dataloader.dataset.split=val')
    assert status == 0  # Nothing that is used is missing.
    for arguments, message in (
        (('none.py',), 'config file not found: none.py'),
        (('cfg.py', '--cfg-options', 'trian.x=1'), 'has no setting "trian"'),
        (('cfg.py', '--sheet', 'a.txt'), 'a.txt needs the ending'),
    ):
        status, _, err = command(*arguments)
        assert status == 2 and message in err and err.count('\n') == 1
