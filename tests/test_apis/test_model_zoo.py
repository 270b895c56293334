"""find_model: a config file, a name, a folder or nothing lead to a config and weights, or to one clear sentence."""

import os
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmetris.apis import model_zoo
from mmetris.apis.model_zoo import DEMO_CONFIG, DEMO_WEIGHTS, find_model, indexed_models, package_root
from mmetris.utils.encoder_files import encoder_path
from tests.toy_inference import ROOT, save_toy_model


@pytest.fixture
def saved(tmp_path):
    return save_toy_model(tmp_path / 'work dir')


def test_a_config_file_a_config_and_a_folder_mean_the_same(saved):
    config, weights = saved
    for found in (find_model(config, weights), find_model(Config.fromfile(config), weights), find_model(config.parent)):
        assert found.config.model.type == 'ReferringSegmentor' and found.weights == str(weights)


def test_a_folder_gives_its_newest_best_checkpoint_else_the_last(saved):
    config, best = saved
    folder = config.parent
    newer = folder / 'best_mIoU_epoch_9.pth'
    for place, path in enumerate((best, folder / 'epoch_10.pth', newer)):
        path.write_bytes(best.read_bytes())
        os.utime(path, (place, place))
    assert find_model(folder).weights == str(newer)
    newer.unlink()
    best.unlink()
    assert find_model(folder).weights == str(folder / 'epoch_10.pth')
    (folder / 'epoch_10.pth').unlink()
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        find_model(folder)
    (folder / 'other.py').touch()
    with pytest.raises(ValueError, match=r'several configs \(other.py, toy_vit.py\)'):
        find_model(folder)
    with pytest.raises(FileNotFoundError, match='has no config'):
        find_model(folder.parent)


def test_nothing_means_the_demo_model_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / 'demo.pth'
    weights.touch()
    monkeypatch.setattr(model_zoo, 'DEMO_WEIGHTS', str(weights))
    found = find_model()
    assert found.weights == str(weights)
    # The tiny CLIP is found although the config names it relative to the checkout.
    shipped = ROOT / 'pretrained' / 'tiny_clip_resnet.safetensors'
    assert Path(found.config.model.dual_encoder.clip_checkpoint) == shipped


def test_the_demo_model_is_in_the_index_under_its_name_and_an_alias():
    entry = next(model for model in indexed_models() if model.get('Alias') == ['demo'])
    assert entry['Config'] == DEMO_CONFIG and entry['Weights'] == DEMO_WEIGHTS
    assert entry['Name'] == Path(DEMO_CONFIG).stem
    for model in indexed_models():
        assert (package_root() / model['Config']).is_file()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert (ROOT / 'pretrained' / 'metafile.yml') in {ROOT / path for path in index['Import']}


def test_a_name_takes_config_and_weights_of_the_index(saved):
    found = find_model('ETRIS_R101_refcoco', saved[1])
    assert found.config.filename.endswith('etris_r101_refcoco.py') and found.weights == str(saved[1])
    with pytest.raises(
        FileNotFoundError, match='no weights for etris_r101_refcoco: nobody published any .* Give weights=CHECKPOINT'
    ):
        find_model('etris_r101_refcoco')


def test_what_is_not_there_is_named_with_a_remedy(tmp_path, saved, monkeypatch):
    with pytest.raises(FileNotFoundError, match='did you mean etris_r101_refcoco'):
        find_model('etris_r101_refcocoo')
    with pytest.raises(FileNotFoundError, match='"mmetris models" lists'):
        find_model('something')
    for name in ('configs/none.py', 'none.py'):
        with pytest.raises(FileNotFoundError, match=f'not found: {name}'):
            find_model(name)
    with pytest.raises(FileNotFoundError, match='weights of .*toy_vit.py are missing: none.pth'):
        find_model(saved[0], 'none.pth')
    with pytest.raises(FileNotFoundError, match=f'are missing: {tmp_path} is a folder'):
        find_model(saved[0], tmp_path)
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path / 'pipe.pth')
        with pytest.raises(ValueError, match='pipe.pth is no ordinary file but a pipe'):
            find_model(saved[0], tmp_path / 'pipe.pth')
    with pytest.raises(FileNotFoundError, match='no weights for .*toy_vit.py'):
        find_model(saved[0])
    monkeypatch.setattr(model_zoo, 'DEMO_WEIGHTS', 'pretrained/none.pth')
    with pytest.raises(FileNotFoundError, match='weights of the demo model are missing'):
        find_model()
    (tmp_path / 'broken.py').write_text('model = 1 +')
    with pytest.raises(ValueError, match='broken.py cannot be read as a config'):
        find_model(tmp_path / 'broken.py', saved[1])
    with pytest.raises(TypeError, match='not int'):
        find_model(3)


def test_a_config_without_an_entry_is_found_by_its_name_where_weights_are_given(saved):
    assert find_model('etris_tiny_shapes', saved[1]).config.filename == str(ROOT / 'configs/etris/etris_tiny_shapes.py')
    with pytest.raises(FileNotFoundError, match="is called 'etris_tiny_shapes'"):
        find_model('etris_tiny_shapes')


def test_encoders_that_ship_are_found_from_any_folder(tmp_path, monkeypatch):
    """By whoever builds a model: MMSeg's tools know nothing of where mmetris is."""
    monkeypatch.chdir(tmp_path)
    source = 'pretrained/tiny_clip_resnet.safetensors'
    assert encoder_path(source) == ROOT / source
    (tmp_path / 'pretrained').mkdir()
    (tmp_path / source).touch()
    assert encoder_path(source) == Path(source)  # One's own comes first.
