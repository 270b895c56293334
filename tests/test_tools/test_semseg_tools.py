"""Training and testing on class names, as users run it: real processes, ours and MMSegmentation's own tools."""

from __future__ import annotations

import re
from pathlib import Path

import mmseg
import pytest
import torch
from PIL import Image

from mmetris.datasets.shapes import SEMSEG_CLASSES, ShapesSpec, write_shapes
from tests import toy
from tests.test_tools.test_tools import ROOT, TOOLS, run

MMSEG_TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
pytestmark = pytest.mark.processes

NAMES = f"""
_base_ = {str(ROOT / 'configs' / 'semseg' / 'etris_tiny_shapes-semseg.py')!r}

source = dict(data_root=DATA_ROOT)
train_dataloader = dict(batch_size=2, dataset=source)
val_dataloader = dict(batch_size=2, dataset=source)
test_dataloader = dict(batch_size=2, dataset=source)
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=4), logger=dict(interval=2))
"""

ENLARGED = """
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(200, 200), keep_ratio=False),
            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
val_dataloader['dataset'].update(pipeline=pipeline)
test_dataloader['dataset'].update(pipeline=pipeline)
"""

# A SegFormer of a few thousand parameters, in MMSegmentation's scope, as the tutorial has it.
BRIDGED = (
    NAMES
    + f"""
default_scope = 'mmseg'
custom_imports = dict(imports=['mmetris'])
custom_hooks = [dict(type='mmetris.VocabularyCheckHook'), dict(type='mmetris.SlimCheckpointHook')]
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=1, dataset=dict(source, type='mmetris.ShapesSegDataset'))
train_dataloader.update(batch_size=2)
model = dict(
    _delete_=True,
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(128, 128)),
    backbone=dict(
        type='mmetris.BridgedBackbone',
        backbone=dict(type='MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 5, 8]),
        class_text=dict(arch={toy.VIT!r}, vocabulary=dict(classes={list(SEMSEG_CLASSES)!r})),
        bridger=dict(embed_dims=8, num_heads=2, ffn_dims=16)),
    decode_head=dict(
        type='SegformerHead', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3], channels=16,
        num_classes={len(SEMSEG_CLASSES)}, norm_cfg=dict(type='BN'), align_corners=False),
    test_cfg=dict(mode='whole'))
"""
)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('semseg') / 'shapes'
    write_shapes(root, ShapesSpec(num_train=6, num_val=3, num_test_a=3, num_test_b=1), layout='semseg')
    return root


def train(data: Path, folder: Path, text: str) -> tuple[Path, str]:
    """Config and output of a training on two processes, which leaves ``iter_4.pth`` in ``work``."""
    path = folder / 'names.py'
    path.write_text(text.replace('DATA_ROOT', repr(f'{data}/')))
    return path, run('bash', TOOLS / 'dist_train.sh', path, 2, '--work-dir', folder / 'work')


def class_mean(output: str) -> float:
    return float(re.findall(r'Iter\(test\).*mIoU: ([\d.]+)', output)[-1])


@pytest.mark.parametrize('phase', ['train', 'val', 'test'])
def test_labels_of_every_phase_can_be_looked_at(data, tmp_path, phase):
    """In testing images are resized and labels are not; a pixel of them belongs to each of the image."""
    path = tmp_path / 'names.py'
    path.write_text(NAMES.replace('DATA_ROOT', repr(f'{data}/')) + ENLARGED)
    run(TOOLS / 'misc' / 'browse_dataset.py', path, '--phase', phase, '--output-dir', tmp_path / 'out', '--number', 2)
    pictures = [Image.open(file) for file in (tmp_path / 'out').iterdir()]
    assert len(pictures) == 2
    assert phase == 'train' or {picture.size[0] % 200 for picture in pictures} == {0}


def test_class_names_train_on_two_processes_and_mmsegs_own_tool_tests_them(data, tmp_path):
    config, output = train(data, tmp_path, NAMES)
    assert re.search(r'Iter\(train\) +\[4/4\].*loss', output)
    checkpoint = tmp_path / 'work' / 'iter_4.pth'
    keys = torch.load(checkpoint, weights_only=False)['state_dict']
    left = [key for key in keys if key.startswith('text_encoder.')]
    assert left == ['text_encoder.clip_fingerprint'], 'the frozen CLIP is left out, but for what tells which it was'
    ours = run(TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path / 'ours')
    # It knows of mmetris by the config's custom_imports only.
    theirs = run(MMSEG_TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path / 'theirs')
    assert class_mean(ours) == class_mean(theirs) > 0
    augmented = run(MMSEG_TOOLS / 'test.py', config, checkpoint, '--tta', '--work-dir', tmp_path / 'tta')
    assert class_mean(augmented) > 0


def test_a_bridged_segformer_trains_on_two_processes_in_mmsegs_scope(data, tmp_path):
    config, output = train(data, tmp_path, BRIDGED)
    assert re.search(r'Iter\(train\) +\[4/4\].*loss', output)
    state = torch.load(tmp_path / 'work' / 'iter_4.pth', weights_only=False)['state_dict']
    assert any(value.abs().sum() > 0 for key, value in state.items() if 'bridger' in key and 'zoom_out' in key)
    output = run(MMSEG_TOOLS / 'test.py', config, tmp_path / 'work' / 'iter_4.pth', '--work-dir', tmp_path / 'test')
    assert 0 <= class_mean(output) < 100
