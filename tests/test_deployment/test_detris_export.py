"""DETRIS is exported, measured and asked like other models: whole, cut in two, through the inferencer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmetris.apis import RefSegInferencer
from mmetris.deployment import export_model
from tests import toy
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Letterbox', size=(64, 96)),
    dict(type='LoadAnnotations'),
    dict(type='TokenizeExpression', context_length=17),
    dict(type='PackSegInputs'),
]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Config and checkpoint of a tiny DETRIS."""
    folder = tmp_path_factory.mktemp('detris')
    dataset = dict(type='RefCocoDataset', pipeline=PIPELINE)
    cfg = Config(
        dict(
            default_scope='mmetris',
            model=toy.text_first_cfg(),
            train_dataloader=dict(dataset=dataset, batch_size=2),
            test_dataloader=dict(dataset=dataset, batch_size=2),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
        )
    )
    cfg.dump(folder / 'detris.py')
    torch.save(dict(state_dict=toy.build(toy.text_first_cfg()).state_dict()), folder / 'detris.pth')
    return folder / 'detris.py', folder / 'detris.pth'


@pytest.mark.processes
@pytest.mark.parametrize('part', ['whole', 'split'])
def test_the_onnx_files_agree_with_the_model(files, part, tmp_path):
    """export_model itself compares, on several images and on one, and keeps nothing that deviates."""
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    found = export_model(files[0], tmp_path / 'out', files[1], parts=[part])['files']
    assert found.keys() == ({'whole.onnx'} if part == 'whole' else {'image.onnx', 'text.onnx'})
    for name, facts in found.items():
        assert (tmp_path / 'out' / name).is_file()
        assert max(facts['largest_deviation'].values()) < 1e-4


def test_the_inferencer_answers_several_sentences_of_one_image(files):
    inferencer = RefSegInferencer(str(files[0]), str(files[1]), device='cpu')
    picture = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    found = inferencer(picture, ['the left dog', 'a cat'], return_datasamples=True)['data_samples']
    (found,) = found if isinstance(found[0], (list, tuple)) else (found,)
    assert [tuple(one.pred_sem_seg.data.shape) for one in found] == [(1, 48, 80)] * 2
    assert not torch.equal(found[0].seg_logits.data, found[1].seg_logits.data)


@pytest.mark.processes
def test_the_benchmark_compares_the_two_computations(files):
    options = ['--task', 'infer', '--compare', '--size', 64, 64, '--repeats', 1, '--matmul-side', 64]
    result = run_script(ROOT / 'tools/analysis_tools/benchmark.py', files[0], *options)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'plain' in result.stdout and 'fast' in result.stdout
