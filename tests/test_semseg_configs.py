"""The configs of segmentation by class names: MMSegmentation's data and tests exactly, and a step of training."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS as MMSEG_DATASETS
from mmseg.structures import SegDataSample

from mmetris.registry import DATASETS, METRICS
from mmetris.structures.vocabulary import Vocabulary
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.config_options import runner_settings
from tests import toy

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs' / 'semseg').glob('*.py'))
NAMES = [path.stem for path in CONFIGS]
MMSEG_DATA = Path(mmseg.__file__).parent / '.mim' / 'configs' / '_base_' / 'datasets'
# name -> MMSeg's file, its schedule in iterations, size in the name against the crop
STANDARD = {
    'etris_vitb16_ade20k-512x512': ('ade20k', 160000, 16),
    'etris_vitb16_voc12aug-512x512': ('pascal_voc12_aug', 40000, 16),
    'etris_vitb16_coco-stuff164k-512x512': ('coco-stuff164k', 80000, 16),
    'etris_vitb16_pascal-context-59-512x512': ('pascal_context_59', 80000, 16),
    'etris_vitb16_cityscapes-512x1024': ('cityscapes', 80000, 8),
}
VARIABLES = {
    'added_lists',
    'arch',
    'changes',
    'clip_checkpoint',
    'colours',
    'crop_size',
    'data_root',
    'held_out',
    'input_size',
    'learning_rate',
    'max_iters',
    'scale',
    'shapes',
    'source',
    'test_pipeline',
    'train_lists',
    'train_pipeline',
    'validation',
    'vis_backends',
}
READ_BY_TOOLS = {'auto_scale_lr', 'custom_imports', 'tta_model', 'tta_pipeline'}


def load(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / 'semseg' / f'{name}.py')


def test_the_standard_data_sets_have_a_config():
    assert set(STANDARD) <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_no_top_level_key_is_unknown(name):
    assert set(load(name)) - VARIABLES - READ_BY_TOOLS <= runner_settings()


@pytest.mark.parametrize('name', STANDARD)
def test_pipelines_data_and_metric_are_mmsegs_own(name):
    file, max_iters, batch_size = STANDARD[name]
    if not (MMSEG_DATA / f'{file}.py').is_file():
        pytest.skip('this MMSegmentation is installed without its configs')
    ours, theirs = load(name), Config.fromfile(MMSEG_DATA / f'{file}.py')
    # One thing more than MMSeg's: a training that is resumed draws as an uninterrupted one.
    data = ours.train_dataloader.dataset
    for pipeline in (ours.train_pipeline, *(part.pipeline for part in data.get('datasets', [data]))):
        assert pipeline.pop(0) == dict(type='mmetris.SeedSample')
    sampler = ours.train_dataloader.sampler
    assert sampler == dict(type='mmetris.EpochInfiniteSampler', shuffle=True)
    sampler.type = 'InfiniteSampler'
    for key in (
        'train_pipeline',
        'test_pipeline',
        'tta_pipeline',
        'train_dataloader',
        'val_dataloader',
        'test_dataloader',
        'val_evaluator',
        'test_evaluator',
    ):
        assert ours[key] == theirs[key], key
    assert ours.train_cfg.max_iters == ours.param_scheduler[-1].end == max_iters
    assert ours.auto_scale_lr.base_batch_size == batch_size == 4 * ours.train_dataloader.batch_size


@pytest.mark.parametrize('name', NAMES)
def test_the_vocabulary_is_that_of_the_data_set(name):
    cfg = load(name)
    init_default_scope('mmetris')
    dataset = cfg.val_dataloader.dataset
    classes = (DATASETS.get(dataset.type) or MMSEG_DATASETS.get(dataset.type)).METAINFO['classes']
    vocabulary = Vocabulary.build(**cfg.model.vocabulary)
    assert vocabulary.mismatch(classes) == (None, [])
    assert vocabulary.background == (0 if classes[0] == 'background' else None)


@pytest.mark.parametrize('name', NAMES)
def test_data_is_checked_and_the_best_checkpoint_picked_on_val(name):
    cfg = load(name)
    assert 'VocabularyCheckHook' in [hook.type for hook in cfg.custom_hooks]
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU' and not cfg.default_hooks.checkpoint.by_epoch
    assert cfg.model.type == 'ClassNameSegmentor' and cfg.model.text_encoder.type == 'ClassText'
    init_default_scope('mmetris')
    METRICS.build(cfg.val_evaluator)
    assert cfg.test_evaluator == cfg.val_evaluator
    sizes = [cfg.model.test_cfg.get('crop_size', ())]
    if crop := re.search(r'-(\d+)x(\d+)$', name):
        assert 'pascal-context' in name or (int(crop[1]), int(crop[2])) == tuple(cfg.crop_size)
        sizes.append(cfg.crop_size)
    assert not any(side % cfg.model.data_preprocessor.size_divisor for size in sizes for side in size)


@pytest.mark.parametrize('path', CONFIGS, ids=NAMES)
def test_the_first_lines_give_the_command_and_what_was_run(path):
    header = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    assert f'bash tools/dist_train.sh configs/semseg/{path.name} ' in header
    assert 'not run' in header or 'docs/class_names.md' in header


@pytest.mark.parametrize('name', STANDARD)
def test_full_size_models_build(name):
    model = build_without_weights(load(name))
    assert model.out_channels == len(model.vocabulary)


@pytest.mark.parametrize('name', NAMES)
def test_one_training_step_on_a_tiny_clip_moves_the_tuned_weights_and_no_other(name):
    model_cfg = copy.deepcopy(load(name).model)
    arch = copy.deepcopy(toy.ARCHS['vit' if model_cfg.backbone.type == 'CLIPViT' else 'resnet'])
    for part in (model_cfg.backbone, model_cfg.text_encoder):
        part.update(arch=arch, clip_checkpoint=None)
    model_cfg.decode_head.channels = 32
    model_cfg.data_preprocessor.size_divisor = 32
    model = toy.build(model_cfg).train()
    model.init_weights()
    sample = SegDataSample(metainfo=dict(img_shape=(64, 96)))
    labels = torch.full((1, 64, 96), 255)
    labels[:, :32], labels[:, 32:48] = 0, len(model.vocabulary) - 1
    sample.gt_sem_seg = PixelData(data=labels)
    batch = model.data_preprocessor(
        dict(inputs=list(toy.randn(2, 3, 64, 96) * 50 + 120), data_samples=[sample, sample]), training=True
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1).step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith('decode_head') for key in moved) and any(key.startswith('neck') for key in moved)
    assert not any(key.startswith(('backbone', 'text_encoder')) for key in moved)


def test_the_names_held_out_are_classes_and_one_of_each_colour():
    cfg = load('etris_tiny_shapes-semseg_zero-shot')
    assert set(cfg.held_out) <= set(cfg.model.vocabulary.classes)
    assert sorted(name.split()[0] for name in cfg.held_out) == sorted(cfg.colours)
    assert cfg.val_evaluator.held_out == cfg.model.held_out == cfg.held_out
