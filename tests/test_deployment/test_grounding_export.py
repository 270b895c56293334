"""Exported grounding models: their boxes are the model's, in files and in the example that runs them."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmetris.apis import RefSegInferencer
from mmetris.deployment import export_model
from mmetris.deployment.parts import AnswerOutput
from tests import toy_grounding
from tests.toy_grounding import POOLED, POOLED_BOXES, TRANSFORMER
from tests.toy_inference import ROOT, picture

TEXTS = ['the left dog', 'a cat']


def load_segment():
    """The example, which is no package."""
    spec = importlib.util.spec_from_file_location('grounding_segment', ROOT / 'projects/onnx_runtime/segment.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_boxes_leave_as_pixels_of_the_input():
    output = AnswerOutput(toy_grounding.build(TRANSFORMER), (64, 96))
    boxes = torch.tensor([[[0.5, 0.25, 0.5, 0.25], [0.1, 0.9, 0.2, 0.2]]])
    found, scores = output(None, None, boxes, torch.tensor([[0.3, 0.6]]))
    torch.testing.assert_close(found, torch.tensor([[[24.0, 8.0, 72.0, 24.0], [0.0, 51.2, 19.2, 64.0]]]))
    assert scores.tolist() == [[pytest.approx(0.3), pytest.approx(0.6)]]


@pytest.mark.parametrize(
    ('head', 'kind', 'parts', 'test_cfg'),
    [
        (POOLED, 'vit', 'split', dict(no_target=dict(by='peak', threshold=0.999))),
        (POOLED_BOXES, 'vit', 'whole', {}),
        (TRANSFORMER, 'resnet', 'split', dict(box_threshold=0.01)),
    ],
    ids=['pooled', 'pooled_boxes', 'transformer'],
)
def test_onnx_files_give_the_models_boxes(tmp_path, monkeypatch, capsys, head, kind, parts, test_cfg):
    """The files, checked against the model; and what ``segment.py`` makes of them, against the inferencer."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    folder = toy_grounding.save(tmp_path / 'model', head, kind, test_cfg=test_cfg)
    lines = []
    told = export_model(folder, tmp_path / 'out', formats=['onnx'], parts=[parts], report=lines.append)
    assert any(' boxes ' in line and ' box_scores ' in line for line in lines)
    names = [port['name'] for port in list(told['files'].values())[-1]['outputs']]
    has_masks, decides = head is POOLED, 'no_target' in test_cfg
    assert names == [
        *(['probabilities', 'logits'] if has_masks else []),
        *(['no_target_scores'] if decides else []),
        *('boxes', 'box_scores'),
    ]
    assert told['boxes']['threshold'] == test_cfg.get('box_threshold') and (told['threshold'] is None) != has_masks
    segment = load_segment()
    segmenter = segment.Segmenter(tmp_path / 'out')
    inferencer = RefSegInferencer(folder, device='cpu', show_progress=False)
    for height, width in ((48, 80), (90, 50)):  # Both ways of the letterbox.
        image = picture(height, width)
        segmenter.set_image(image)
        answers = segmenter.predict(TEXTS)
        expected = inferencer(image[..., ::-1], TEXTS, boxes=True)
        for index, answer in enumerate(answers):
            np.testing.assert_allclose(answer.boxes, expected['pred_boxes'][index], atol=0.05)
            np.testing.assert_allclose(answer.box_scores, expected['pred_box_scores'][index], atol=1e-3)
            assert answer.mask.shape == ((height, width) if has_masks else (0, 0))
    Image.fromarray(picture()).save(tmp_path / 'photo.png')
    segment.main([*map(str, (tmp_path / 'out', tmp_path / 'photo.png')), *TEXTS, '--out-dir', str(tmp_path / 'found')])
    printed = capsys.readouterr().out
    assert printed.count('box ') >= 2 and (tmp_path / 'found' / 'photo_overlay.png').is_file()
    assert (tmp_path / 'found' / 'photo_1.png').exists() == has_masks
    if not has_masks:
        with pytest.raises(ValueError, match='gives boxes alone'):
            segmenter.predict(TEXTS, threshold=0.5)
    if parts == 'split':
        sys.path.insert(0, str(ROOT / 'projects' / 'serving'))
        monkeypatch.setattr(sys, 'path', sys.path)
        from answering import describe

        sent = json.loads(json.dumps(describe(answers[0])))
        assert (sent['mask'] is None) != has_masks and sent['boxes'][0]['box'] == answers[0].boxes[0].tolist()


def test_torch_files_give_the_models_boxes(tmp_path):
    folder = toy_grounding.save(tmp_path / 'model', TRANSFORMER)
    told = export_model(folder, tmp_path / 'out', formats=['torch'], parts=['whole'], report=lambda line: None)
    largest = told['files']['whole.pt2']['largest_deviation']
    assert largest.keys() == {'boxes', 'box_scores'} and max(largest.values()) < 1e-4
