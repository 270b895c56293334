"""configs/best: what it is made of, its counts, a training step of each, and the two layouts that were compared."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.structures import PixelData

from mmetris.structures import RefDataSample
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.config_options import runner_settings
from mmetris.utils.param_count import count_parameters
from tests import toy
from tests.test_configs import READ_BY_TOOLS, VARIABLES, steps_of, walk

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'best'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
COUNTS = dict(
    best_large_mixed=dict(bridger=1686464, tuning=33331360, head=27914241, backbone_tunable=0),
    best_tiny_shapes=dict(bridger=124144, tuning=57604, head=127809, backbone_tunable=433216),
    detris_tiny_shapes=dict(bridger=0, tuning=57604, head=109377, backbone_tunable=433216),
)


def load(name):
    return Config.fromfile(FOLDER / f'{name}.py')


@pytest.mark.parametrize('name', NAMES)
def test_counts_are_those_that_are_told(name):
    counts = count_parameters(build_without_weights(load(name)))
    assert {key: counts[key] for key in COUNTS[name]} == COUNTS[name]
    readme = (FOLDER / 'README.md').read_text(encoding='utf-8')
    assert all(f'{count:,}' in readme for count in COUNTS[name].values())
    header = ast.get_docstring(ast.parse((FOLDER / f'{name}.py').read_text(encoding='utf-8')))
    assert f'tools/dist_train.sh configs/best/{name}.py' in header
    if name.startswith('best_large'):
        assert 'adapters 33.33 M, Bridger 1.69 M, decoder 27.91 M' in header and 'untested on RefCOCO' in header
        (entry,) = yaml.safe_load((FOLDER / 'metafile.yml').read_text(encoding='utf-8'))['Models']
        parts = ('Bridger', 'Adapter', 'Decoder')
        told = [entry['Metadata'][f'{part} Parameters'] for part in parts]
        assert entry['Name'] == name and told == [counts[key] for key in ('bridger', 'tuning', 'head')]


@pytest.mark.parametrize('name', NAMES)
def test_settings_are_known_and_sizes_fit(name):
    cfg = load(name)
    assert set(cfg) - VARIABLES - READ_BY_TOOLS <= runner_settings()
    divisor = cfg.model.data_preprocessor.size_divisor
    sizes = [value for key, value in walk(cfg.to_dict()) if key == 'size' and isinstance(value, (tuple, list))]
    assert len(sizes) >= 6 and all(side % divisor == 0 for size in sizes for side in size)
    assert {step.context_length for step in steps_of(cfg, 'TokenizeExpression')} == {cfg.model.context_length} == {17}


def test_the_recipe_is_that_of_its_sources():
    """DETRIS on mixed data; beside it the Bridger of ETRIS on a ViT, at its rate."""
    cfg, detris = load('best_large_mixed'), Config.fromfile(ROOT / 'configs/detris/detris_large_mixed.py')
    etris = Config.fromfile(ROOT / 'configs/etris/etris_vitb16_refcoco.py')
    assert cfg.train_dataloader == detris.train_dataloader and cfg.train_cfg == detris.train_cfg
    assert cfg.param_scheduler == detris.param_scheduler and cfg.sync_bn == detris.sync_bn
    assert cfg.model.backbone == detris.model.backbone and cfg.model.dual_encoder == detris.model.dual_encoder
    assert cfg.model.text_encoder == dict(detris.model.text_encoder, num_stages=4)
    assert cfg.model.neck == dict(etris.model.neck, type='TextFirstBridger')
    assert cfg.optim_wrapper == dict(detris.optim_wrapper, paramwise_cfg=etris.optim_wrapper.paramwise_cfg)
    assert cfg.model.decode_head == dict(detris.model.decode_head, stride=7)


def test_the_two_that_were_compared_differ_in_the_layout_alone():
    best, detris = load('best_tiny_shapes'), load('detris_tiny_shapes')
    for key in set(best) | set(detris):
        if key not in ('model', 'filename'):
            assert best[key] == detris[key], key
    changed = {key for key in best.model if best.model[key] != detris.model[key]}
    assert changed == {'data_preprocessor', 'text_encoder', 'neck', 'decode_head'}
    assert best.model.text_encoder == dict(detris.model.text_encoder, num_stages=4)
    assert best.model.decode_head == dict(detris.model.decode_head, stride=6)


@pytest.mark.parametrize('name', ['best_tiny_shapes', 'detris_tiny_shapes'])
def test_a_training_step_moves_all_that_is_tuned(name):
    cfg = load(name).model
    cfg.dual_encoder.clip_checkpoint = None
    model = toy.build(cfg).train()
    mask = torch.zeros(1, 96, 96, dtype=torch.uint8)
    mask[:, 16:40, 20:70] = 1
    samples = []
    for expression in ('the red star', 'left of the blue ring'):
        sample = RefDataSample(metainfo=dict(expression=expression, img_shape=(96, 96)))
        sample.gt_sem_seg = PixelData(data=mask)
        samples.append(sample)
    images = list(toy.randn(2, 3, 96, 96) * 50 + 120)
    batch = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    model.parse_losses(model(**batch, mode='loss'))[0].backward()
    tuned = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert all(value.grad is not None for value in tuned.values())
    assert not any(key.startswith('text_encoder.tower') for key in tuned)
    parts = {'.'.join(key.split('.')[:2]) for key, value in tuned.items() if value.grad.abs().sum() > 0}
    assert {'backbone.tuning', 'text_encoder.tuning', 'backbone.tower'} <= parts
    assert any(part.startswith('neck') for part in parts) == name.startswith('best')
    with torch.no_grad():
        assert model.eval().forward_logits(batch['inputs'], model.tokenize(['a', 'b'])).shape[2:] == (
            (64, 64) if name.startswith('best') else (32, 32)
        )
