"""A model without training asked by name: classes and sentences in Python and from the shell, and missing weights."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmetris.apis import RefSegInferencer, RefSegPredictor
from mmetris.apis.fetching import missing_sources
from mmetris.apis.model_zoo import find_model
from mmetris.utils.downloads import NotFetchedError
from tests import toy_training_free
from tests.toy_command import ask_command
from tests.toy_inference import ROOT, picture, save_toy_model

MODEL = 'clip-vitb16_training-free'
TEXTS = ['the man in red', 'a dog']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config of a toy model that slides, with random weights and no checkpoint, and a picture."""
    folder = tmp_path_factory.mktemp('training_free')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(256, 48), keep_ratio=True),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    model = toy_training_free.model_cfg(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16)))
    loader = dict(dataset=dict(type='ADE20KDataset', pipeline=pipeline))
    Config(dict(default_scope='mmetris', model=model, test_dataloader=loader)).dump(folder / 'toy.py')
    Image.fromarray(picture(60, 90)).save(folder / 'picture.png')
    return folder


@pytest.fixture(scope='module')
def inferencer(folder):
    torch.manual_seed(0)
    return RefSegInferencer(folder / 'toy.py', device='cpu', show_progress=False)


def test_a_model_without_training_needs_no_checkpoint(folder, tmp_path):
    assert find_model(folder / 'toy.py').weights is None
    assert find_model(MODEL).weights is None and find_model('CLIP_vitb16_training-free').weights is None
    config, weights = save_toy_model(tmp_path / 'trained')
    assert find_model(config, weights).weights == str(weights)
    with pytest.raises(FileNotFoundError, match='no weights for'):
        find_model(config)


@torch.no_grad()
def test_label_maps_are_the_models_own_predictions(inferencer, folder):
    image = np.asarray(Image.open(folder / 'picture.png'))[..., ::-1]
    result = inferencer.label_maps(folder / 'picture.png', ['dog', ['cat', 'the kitten'], 'grass'])
    encoded = inferencer.asker.encode([image], ['picture'])
    (sample,) = inferencer.model.predict(encoded.inputs, [encoded.samples[0].new()])
    labels = result['label_maps'][0]
    assert labels.shape == (60, 90) and np.array_equal(labels, sample.pred_sem_seg.data[0].numpy())
    assert set(np.unique(labels)) <= {0, 1, 2} and len(np.unique(labels)) > 1
    with pytest.raises(ValueError, match='at least two classes'):
        inferencer.label_maps(folder / 'picture.png', ['dog'])


def test_sentences_are_heat_maps_from_0_to_1_and_one_of_each_picture(inferencer, folder):
    result = inferencer(folder / 'picture.png', TEXTS)
    for heat, mask in zip(result['probabilities'], result['masks']):
        assert heat.shape == mask.shape == (60, 90)
        assert heat.min() == pytest.approx(0, abs=1e-4) and heat.max() == pytest.approx(1, abs=1e-4)
        assert np.array_equal(mask, heat > 0.5)
    assert not result['is_empty'][0] and result['scores'][0] > 0.5 and 'no_target' not in result
    assert np.abs(result['probabilities'][0] - result['probabilities'][1]).max() > 0.05


def test_a_picture_is_encoded_once_for_classes_and_sentences(inferencer, folder, monkeypatch):
    calls = []
    stem = inferencer.model.backbone.stem
    monkeypatch.setattr(inferencer.model.backbone, 'stem', lambda images: calls.append(1) or stem(images))
    predictor = RefSegPredictor(inferencer)
    predictor.set_image(folder / 'picture.png')
    windows = len(calls)
    assert windows > 1
    first = predictor.predict(TEXTS)
    assert predictor.label_map(['dog', 'cat']).shape == (60, 90) and len(calls) == windows
    expected = inferencer(folder / 'picture.png', TEXTS[1])
    assert np.allclose(first['probabilities'][1], expected['probabilities'][0], atol=1e-5)


@pytest.fixture
def mmetris(folder, monkeypatch, capsys, tmp_path):
    """Run the command in that folder: exit status, standard output and error."""
    monkeypatch.chdir(folder)
    return functools.partial(ask_command, capsys)


def test_the_command_takes_classes_and_sentences(mmetris, tmp_path):
    model = ('--model', 'toy.py', '--device', 'cpu')
    status, out, err = mmetris('segment', 'picture.png', '--classes', 'person, dog, grass', '--json', *model)
    assert (status, err) == (0, '')
    shares = json.loads(out)['shares']
    assert list(shares) == ['person', 'dog', 'grass'] and sum(shares.values()) == pytest.approx(1)
    file = tmp_path / 'man.png'
    status, out, err = mmetris('segment', 'picture.png', 'the man in red', '--out-file', file, *model)
    assert (status, err) == (0, '') and out.startswith('picture.png: the man in red  score 0.') and file.is_file()
    status, out, err = mmetris('segment', 'picture.png', '--classes', 'dog', *model)
    assert status == 2 and 'at least two classes are needed' in err and len(err.splitlines()) == 1


@pytest.mark.skipif((ROOT / 'pretrained' / 'ViT-B-16.pt').is_file(), reason="CLIP's weights are in this copy")
def test_without_clips_weights_the_message_says_how_to_get_them(mmetris, monkeypatch, tmp_path):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('mmetris.utils.encoder_files.assets_folder', lambda *names: tmp_path.joinpath(*names))
    status, out, err = mmetris('segment', 'picture.png', '--classes', 'person, dog', '--model', MODEL)
    assert status == 2 and '"mmetris download clip-vitb16" fetches it from https://' in err
    assert f'{MODEL:40}' in (listed := mmetris('models')[1]) and f'not here yet: mmetris download {MODEL}' in listed
    assert missing_sources(ROOT / 'configs' / 'training_free' / f'{MODEL}.py') == ['pretrained/ViT-B-16.pt']


def test_a_download_fetches_clip_and_says_what_can_be_asked(mmetris, monkeypatch, tmp_path):
    monkeypatch.setattr('mmetris.utils.encoder_files.assets_folder', lambda *names: tmp_path.joinpath(*names))
    place = tmp_path / 'encoders' / 'clip-vitb16' / 'ViT-B-16.pt'

    def refuse(address, place, sha256):
        raise NotFetchedError(f'{address} cannot be reached')

    monkeypatch.setattr('mmetris.utils.encoder_files.fetch_address', refuse)
    status, _, err = mmetris('download', MODEL)
    assert status == 2 and 'Without a network: fetch https://' in err and str(place) in err
    place.parent.mkdir(parents=True)
    place.write_bytes(b'weights')
    status, out, _ = mmetris('download', MODEL)
    assert status == 0 and 'pretrained/ViT-B-16.pt: here already' in out and 'nobody published' not in out
    assert out.strip().endswith(f'ready: mmetris segment photo.jpg --classes "person, dog, grass" --model {MODEL}')
    assert f'{MODEL}' in (listed := mmetris('models')[1]) and 'ready: not trained' in listed


def test_there_is_nothing_to_share_and_nothing_to_export(folder, tmp_path):
    from mmetris.apis.hub import save_pretrained
    from mmetris.deployment import export_model

    with pytest.raises(ValueError, match='nothing was tuned that could be shared'):
        save_pretrained(folder / 'toy.py', tmp_path / 'shared')
    with pytest.raises(ValueError, match='TrainingFreeSegmentor cannot be exported'):
        export_model(folder / 'toy.py', folder / 'exported', formats=['torch'])
