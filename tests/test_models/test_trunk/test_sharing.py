"""Rows of one image share what precedes the first Bridger."""

import pytest
import torch
from mmengine.structures import PixelData

from mmetris import tokenize
from mmetris.models.trunk.sharing import distinct_images
from mmetris.structures import RefDataSample
from tests.toy import build_model, randn

PATHS = ['a.jpg', 'a.jpg', 'b.jpg', 'a.jpg']
SENTENCES = ['the left dog', 'a man', 'the man', 'the cat on the right']


def batch(hw=(64, 64)):
    """Four normalised images, of which the first, the second and the fourth are one, and their samples."""
    first, second = randn(3, *hw), randn(3, *hw, seed=1)
    samples = []
    for path, sentence in zip(PATHS, SENTENCES):
        sample = RefDataSample(metainfo=dict(img_path=path, expression=sentence, img_shape=hw, ori_shape=hw))
        sample.tokens = tokenize(sentence, 17)[0]
        sample.gt_sem_seg = PixelData(data=torch.ones(1, *hw, dtype=torch.long).triu())
        samples.append(sample)
    return torch.stack([first, first, second, first]), samples


def count_stem_rows(model, monkeypatch):
    """A list that receives the number of images of each call of the stem."""
    rows, stem = [], model.backbone.stem
    monkeypatch.setattr(model.backbone, 'stem', lambda images: rows.append(len(images)) or stem(images))
    return rows


def test_images_are_the_same_if_path_and_pixels_are():
    images, samples = batch()
    distinct, index = distinct_images(images, samples)
    assert index.tolist() == [0, 0, 1, 0] and torch.equal(distinct, images[[0, 2]])
    images[3] = images[3].flip(-1)
    assert distinct_images(images, samples)[1].tolist() == [0, 0, 1, 2]
    assert distinct_images(images[[0, 2]], [samples[0], samples[2]])[1] is None


def test_images_of_unknown_files_are_never_taken_for_the_same():
    images, samples = batch()
    for sample in samples:
        del sample.img_path
    assert distinct_images(images, samples)[1] is None


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_prediction_encodes_each_image_once_with_equal_results(kind, monkeypatch):
    model = build_model(kind).eval()
    images, samples = batch()
    with torch.no_grad():
        expected = torch.cat([model.encode_decode(images[row : row + 1], samples[row : row + 1]) for row in range(4)])
        rows = count_stem_rows(model, monkeypatch)
        torch.testing.assert_close(model.encode_decode(images, samples), expected, rtol=1e-4, atol=1e-4)
        model.predict(images, samples)
    assert rows == [2, 2]


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_training_shares_images_where_asked_with_equal_losses_and_gradients(kind, monkeypatch):
    results = []
    for share in (False, True):
        model = build_model(kind, neck=dict(dropout=0), decode_head=dict(global_alignment=dict(dropout=0))).train()
        model.train_cfg = dict(share_images=share)
        rows = count_stem_rows(model, monkeypatch)
        losses = model.loss(*batch())
        model.parse_losses(losses)[0].backward()
        results.append((losses, {name: value.grad for name, value in model.named_parameters()}))
        assert rows == [2 if share else 4]
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
