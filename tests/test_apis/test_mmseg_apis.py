"""MMSegmentation's own entrances take our models: its inferencer, ``init_model``, ``inference_model``, get_flops.py.

What they cannot take (a sentence beside a picture) ends in a sentence that says so; docs/api.md has the same table.
"""

import re
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.utils import get_installed_path
from mmseg.apis import MMSegInferencer, inference_model, init_model
from torch.utils.flop_counter import FlopCounterMode

import mmetris.registry  # noqa: F401
from mmetris.apis import RefSegInferencer, model_zoo
from mmetris.registry import MODELS
from tests import toy
from tests.toy_inference import ROOT, picture, save_toy_model

GET_FLOPS = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'analysis_tools' / 'get_flops.py'
SEMSEG = ROOT / 'configs' / 'semseg' / 'etris_tiny_shapes-semseg.py'


def is_installed() -> bool:
    """Whether MMEngine finds the package's folder."""
    return (Path(get_installed_path('mmetris')) / '.mim').is_dir()


FOUND_BY_NAME = pytest.mark.skipif(not is_installed(), reason='the installed metadata does not say where mmetris is')


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    """Configs name CLIP's weights relative to it; and no scope is left behind."""
    monkeypatch.chdir(ROOT)
    with DefaultScope.overwrite_default_scope('mmetris'):
        yield


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Config and checkpoint of a toy model, with the names that MMSeg reads of a config."""
    config, weights = save_toy_model(tmp_path_factory.mktemp('toy'))
    cfg = Config.fromfile(config)
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.visualizer = dict(type='RefSegLocalVisualizer', name='mmseg_apis')
    cfg.dump(config)
    content = torch.load(weights, weights_only=True)
    torch.save(content | dict(meta=dict(dataset_meta=dict(classes=['background', 'object'], palette=None))), weights)
    return config, weights


def inferencer(saved):
    return MMSegInferencer(str(saved[0]), str(saved[1]), device='cpu', scope='mmetris')


@pytest.mark.parametrize('text', ['the left dog', 'a cat'])
def test_mmsegs_inferencer_takes_a_picture_with_its_sentence_and_gives_our_mask(saved, text):
    image = picture()
    mask = inferencer(saved)(dict(img=image, expression=text))['predictions']
    ours = RefSegInferencer(*saved, device='cpu')(image, text)['masks'][0]
    assert mask.shape == image.shape[:2] and 0 < mask.sum() < mask.size
    assert np.array_equal(mask.astype(bool), np.asarray(ours).astype(bool))


def test_mmsegs_inferencer_takes_several_and_files(saved, tmp_path):
    import cv2

    image = picture()
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    asked = inferencer(saved)
    alone = [asked(dict(img=image, expression=text))['predictions'] for text in ('the left dog', 'a cat')]
    inputs = [dict(img_path=str(tmp_path / 'a.png'), expression=text) for text in ('the left dog', 'a cat')]
    together = asked(inputs, batch_size=2)['predictions']
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_mmsegs_inferencer_says_that_a_picture_alone_has_no_sentence(saved):
    asked = inferencer(saved)
    with pytest.raises(KeyError, match='needs a sentence; an inferencer takes dict'):
        asked(picture())
    with pytest.raises(TypeError, match='a path, an array or a dict'):
        asked.pipeline.transforms[0](3)


def test_mmsegs_inferencer_finds_a_model_of_the_index_and_weights_that_ship():
    if not (ROOT / model_zoo.DEMO_WEIGHTS).is_file():
        pytest.skip('the weights of the demo model are not in this copy')
    asked = MMSegInferencer('demo', device='cpu', scope='mmetris')
    question = dict(img=picture(), expression='the red circle')
    ours = RefSegInferencer(device='cpu')(picture(), 'the red circle')['masks'][0]
    assert np.array_equal(asked(question)['predictions'].astype(bool), np.asarray(ours).astype(bool))
    assert 'etris_r50_refcoco' in MMSegInferencer.list_models('mmetris')


def test_the_addresses_of_the_metafiles_are_files_or_say_that_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, 'package_root', lambda: tmp_path)
    (tmp_path / 'x.pth').touch()
    assert model_zoo.shipped_file('mmetris://x.pth/') == str(tmp_path / 'x.pth')
    with pytest.raises(FileNotFoundError, match='no weights of mmetris for this model: train it'):
        CheckpointLoader.load_checkpoint(model_zoo.NOT_PUBLISHED)
    with pytest.raises(FileNotFoundError, match='mmetris://y.pth does not ship'):
        CheckpointLoader.load_checkpoint('mmetris://y.pth')


@pytest.mark.skipif(
    not is_installed(), reason='mmetris was installed without its path in the metadata: install it again'
)
def test_configs_of_the_package_are_found_by_mmengines_names():
    config = get_config('mmetris::etris/etris_r50_refcoco.py', pretrained=True)
    assert config.model.type == 'ReferringSegmentor' and config.model_path == model_zoo.NOT_PUBLISHED


@pytest.mark.skipif(
    not is_installed(), reason='mmetris was installed without its path in the metadata: install it again'
)
def test_mmengines_hub_builds_a_model_of_the_package():
    built = get_model('mmetris::etris/etris_tiny_shapes.py')
    assert type(built).__name__ == 'ReferringSegmentor'


def test_mmsegs_init_model_builds_a_referring_model_whose_test_step_takes_the_sentence(saved):
    model = init_model(str(saved[0]), str(saved[1]), device='cpu')
    pipeline = inferencer(saved).pipeline
    data = pipeline(dict(img=picture(), expression='a cat'))
    sample = model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]
    ours = RefSegInferencer(*saved, device='cpu')(picture(), 'a cat')['masks'][0]
    assert np.array_equal(sample.pred_sem_seg.data[0].numpy().astype(bool), np.asarray(ours).astype(bool))
    with pytest.raises(KeyError, match='needs a sentence'):
        inference_model(model, picture())
    with pytest.raises(ValueError, match="pretrained='x' has no place in a ReferringSegmentor"):
        MODELS.build(dict(toy.model_cfg('vit'), pretrained='x'))


def test_mmsegs_inference_model_and_inferencer_give_classes_of_a_model_by_class_names():
    model = init_model(str(SEMSEG), device='cpu')
    image = picture(64, 96)
    labels = inference_model(model, image).pred_sem_seg.data[0]
    assert labels.shape == (64, 96) and int(labels.max()) < len(model.vocabulary)
    asked = MMSegInferencer(str(SEMSEG), device='cpu', scope='mmetris')
    asked.model.load_state_dict(model.state_dict())
    assert np.array_equal(asked(image)['predictions'], labels.numpy())


@pytest.mark.parametrize('config', ['configs/etris/etris_tiny_shapes.py', SEMSEG.relative_to(ROOT).as_posix()])
@pytest.mark.processes
def test_mmsegs_get_flops_counts_our_models(config):
    if not GET_FLOPS.is_file():
        pytest.skip('this MMSegmentation is installed without its tools')
    if 'input_shape=None' not in GET_FLOPS.read_text(encoding='utf-8'):
        pytest.skip('this MMSegmentation gives its MMEngine both shape and input, which that refuses for any model')
    command = [sys.executable, str(GET_FLOPS), config, '--shape', '64', '64', '--cfg-options', 'scope=mmetris']
    done = subprocess.run(command, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 20 < float(re.search(r'Flops: (\d+\.\d+)M', done.stdout)[1]) < 100, done.stdout
    assert 'Input shape: (64, 64)' in done.stdout and re.search(r'Params: 4\.\d+M', done.stdout)


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_mmengines_count_is_near_pytorchs(kind):
    """MMEngine counts a multiplication with its addition as one and leaves fused attention out."""
    model = toy.build_model(kind).eval()
    images = torch.rand(1, 3, 64, 64)
    info = get_model_complexity_info(model, inputs=(images,), show_table=False, show_arch=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        masks = model(images, mode='tensor')
    assert info['params'] == sum(parameter.numel() for parameter in model.parameters())
    assert masks.shape[:2] == (1, 1)
    assert 0.7 < info['flops'] / (counter.get_total_flops() / 2) < 1.3
