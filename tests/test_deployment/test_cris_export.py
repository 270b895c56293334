"""CRIS is exported like other models, its FPN included: each file agrees with the model."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from mmetris.deployment import ImagePart, TextPart, WholeModel, export_model
from tests import toy

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Letterbox', size=(64, 96)),
    dict(type='LoadAnnotations'),
    dict(type='TokenizeExpression', context_length=17),
    dict(type='PackSegInputs'),
]


def model_cfg():
    """CRIS on a toy ResNet."""
    cfg = toy.model_cfg(
        'resnet',
        backbone=dict(frozen=False, pool_mean_key=False, pool_shortcut=True),
        decode_head=dict(hierarchical_alignment=dict(type='CRISFPN'), text_projection=False),
    )
    cfg['text_encoder']['frozen'] = False
    return cfg | dict(neck=dict(type='Bridger', stages=()))


@torch.no_grad()
def test_the_image_part_is_all_of_the_image_encoder():
    """Nothing joins the encoders before the FPN, so the three maps are what a server keeps of a picture."""
    model = toy.build(model_cfg()).eval()
    images, index = (toy.randn(2, 3, 64, 96) * 60 + 128).clamp(0, 255), torch.tensor([1, 0, 1])
    tokens = model.tokenize(['the left dog', 'a cat', 'x'], 17)
    maps = ImagePart(model)(images)
    assert [tuple(one.shape[1:]) for one in maps] == [(64, 8, 12), (128, 4, 6), (24, 2, 3)]
    found, expected = (
        TextPart(model, (64, 96))(tokens, index, *maps),
        WholeModel(model, (64, 96))(images[index], tokens),
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.processes
def test_the_onnx_file_agrees_with_the_model(tmp_path):
    """export_model itself compares, on several images and on one, and keeps nothing that deviates."""
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    dataset = dict(type='RefCocoDataset', pipeline=PIPELINE)
    cfg = Config(dict(default_scope='mmetris', model=model_cfg(), test_dataloader=dict(dataset=dataset)))
    cfg.dump(tmp_path / 'cris.py')
    torch.save(dict(state_dict=toy.build(model_cfg()).state_dict()), tmp_path / 'cris.pth')
    found = export_model(tmp_path / 'cris.py', tmp_path / 'out', tmp_path / 'cris.pth', parts=['whole'])
    assert (tmp_path / 'out' / 'whole.onnx').is_file()
    assert max(found['files']['whole.onnx']['largest_deviation'].values()) < 1e-4
