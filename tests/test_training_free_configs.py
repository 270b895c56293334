"""The configs of configs/training_free: MMSeg's data, published settings and figures, and a test from end to end."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import mmseg
import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import PascalVOCDataset
from mmseg.registry import DATASETS as MMSEG_DATASETS

from mmetris.apis.model_zoo import is_training_free
from mmetris.datasets.shapes import ShapesSpec, write_shapes
from mmetris.structures.vocabulary import Vocabulary
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.config_options import runner_settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs' / 'training_free'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
MMSEG_DATA = Path(mmseg.__file__).parent / '.mim' / 'configs' / '_base_' / 'datasets'
# data set -> MMSeg's file, classes, shorter side, published mIoU
PUBLISHED = {
    'voc20': ('pascal_voc12', 20, 336, 81.54),
    'pascal-context-59': ('pascal_context_59', 59, 336, 34.46),
    'ade20k': ('ade20k', 150, 336, 16.45),
    'cityscapes': ('cityscapes', 19, 560, 32.34),
}
VARIABLES = {
    *(
        'added_lists',
        'arch',
        'changes',
        'colours',
        'crop_size',
        'data_root',
        'input_size',
        'labels',
        'metainfo',
        'scale',
    ),
    *('shapes', 'source', 'spelling', 'stride', 'test_pipeline', 'train_lists', 'train_pipeline', 'validation'),
    *('vis_backends', 'window'),
}
READ_BY_TOOLS = {'custom_imports', 'tta_model', 'tta_pipeline'}


def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


def entries() -> dict[str, dict]:
    content = yaml.safe_load((FOLDER / 'metafile.yml').read_text(encoding='utf-8'))
    return {model['Name']: model for model in content['Models']}


@pytest.mark.parametrize('name', NAMES)
def test_every_config_is_known_to_be_without_training(name):
    cfg = load(name)
    assert set(cfg) - VARIABLES - READ_BY_TOOLS <= runner_settings()
    assert is_training_free(cfg) and cfg.train_dataloader is cfg.train_cfg is cfg.optim_wrapper is None
    header = ast.get_docstring(ast.parse((FOLDER / f'{name}.py').read_text(encoding='utf-8')))
    assert ('not run' in header) != ('tiny' in name)


@pytest.mark.parametrize('data', PUBLISHED)
def test_data_and_metric_are_mmsegs_own_but_for_the_size(data):
    file, num_classes, side, figure = PUBLISHED[data]
    cfg = load(f'clip_vitb16_{data}')
    assert entries()[f'clip_vitb16_{data}']['Results'][0]['Metrics'] == dict(mIoU=figure)
    header = ast.get_docstring(ast.parse((FOLDER / f'clip_vitb16_{data}.py').read_text(encoding='utf-8')))
    assert f'mIoU {figure:.2f}' in header
    resizing = [step for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Resize']
    assert [step.scale for step in resizing] == [(2048, side)] and len(
        Vocabulary.build(**cfg.model.vocabulary)
    ) == num_classes
    assert cfg.val_dataloader == cfg.test_dataloader
    if not (MMSEG_DATA / f'{file}.py').is_file():
        pytest.skip('this MMSegmentation is installed without its configs')
    theirs = Config.fromfile(MMSEG_DATA / f'{file}.py')
    ours = cfg.test_dataloader.to_dict()
    for step in ours['dataset']['pipeline']:
        if step['type'] == 'Resize':
            step['scale'] = theirs.test_pipeline[1].scale
    ours['dataset'].pop('metainfo', None)
    assert ours == theirs.test_dataloader.to_dict() and cfg.test_evaluator == theirs.test_evaluator


def test_classes_are_the_data_sets_and_the_background_of_voc_is_ignored():
    init_default_scope('mmetris')
    for data in ('pascal-context-59', 'ade20k', 'cityscapes'):
        cfg = load(f'clip_vitb16_{data}')
        classes = MMSEG_DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO['classes']
        assert Vocabulary.build(**cfg.model.vocabulary).mismatch(classes) == (None, [])
    cfg = load('clip_vitb16_voc20')
    label_map = PascalVOCDataset.get_label_map(cfg.metainfo['classes'])
    assert label_map == {0: 255} | {label: label - 1 for label in range(1, 21)}
    problem, differing = Vocabulary.build(**cfg.model.vocabulary).mismatch(cfg.metainfo['classes'])
    assert problem is None and len(differing) == 3  # dining table, potted plant, tv monitor


def test_the_model_is_the_published_one():
    cfg = load('clip-vitb16_training-free')
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(224, 224), stride=(112, 112))
    assert cfg.model.decode_head.logit_scale == 40 and cfg.model.vocabulary.classes == 'ade20k'
    model = build_without_weights(cfg)
    assert model.backbone.attention == 'sclip' and model.backbone.keep_residual
    assert len(model.vocabulary.templates) == 80 and model.backbone.arch.quick_gelu
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_the_metafile_lists_every_config_but_the_one_in_miniature():
    assert set(entries()) == set(NAMES) - {'clip_tiny_shapes-semseg'}
    for name, entry in entries().items():
        assert entry['Metadata']['Training Free'] is is_training_free(load(name)) is True
        assert entry['Metadata']['Run Here'] is False


def test_tools_test_scores_it_without_a_checkpoint(tmp_path, monkeypatch, capsys):
    """On the tiny CLIP that ships; and asks for one where a model has to be trained."""
    if not (ROOT / 'pretrained' / 'tiny_clip_resnet.safetensors').is_file():
        pytest.skip('the tiny CLIP is not in this copy')
    spec = importlib.util.spec_from_file_location('tools_test', ROOT / 'tools' / 'test.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    write_shapes(tmp_path / 'data', ShapesSpec(num_train=1, num_val=1, num_test_a=3, num_test_b=1), layout='semseg')
    monkeypatch.chdir(tmp_path)

    def call(config: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['test.py', str(ROOT / 'configs' / config), *arguments])
        tool.main()
        return capsys.readouterr().out

    options = ['--cfg-options', f'test_dataloader.dataset.data_root={tmp_path}/data/', 'log_level=ERROR']
    scores = call('training_free/clip_tiny_shapes-semseg.py', *options)
    miou = float(scores.partition('mIoU ')[2].partition(',')[0])
    assert 15 < miou < 60  # 28.67 on all of testA; chance is below 2.
    with pytest.raises(SystemExit) as stopped:
        call('semseg/etris_tiny_shapes-semseg.py', '-')
    assert stopped.value.code == 2 and 'a checkpoint is needed' in capsys.readouterr().err
