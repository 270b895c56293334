"""What is refused before or after exporting, and what is left behind then."""

from __future__ import annotations

import sys

import pytest
import torch
from mmengine.config import Config

from mmetris.deployment import DeviationError, export, export_model
from tests.toy_inference import save_toy_model


@pytest.fixture(scope='module')
def toy_files(tmp_path_factory):
    """Config and checkpoint of a toy model."""
    return save_toy_model(tmp_path_factory.mktemp('toy'))


@pytest.fixture
def fake_files(monkeypatch):
    """Files that hold nothing and compute what their part does, plus an error that the test sets."""
    error, parts = dict(value=0.0), {}
    monkeypatch.setattr(export, '_trace', lambda part, tokenize: part)

    def write(program, part, path, opset):
        parts[path.name] = part.module
        path.write_bytes(b'file')

    def runner(path):
        def run(*arrays):
            with torch.no_grad():
                outputs = parts[path.name](*map(torch.from_numpy, arrays))
            return [output.numpy() + error['value'] for output in outputs]

        return run

    monkeypatch.setattr(export, '_write', write)
    monkeypatch.setattr(export, '_runner', runner)
    return error


@pytest.mark.parametrize('off', [0.002, -0.002, float('nan')])
def test_a_file_that_deviates_is_not_kept(toy_files, tmp_path, fake_files, off):
    fake_files['value'] = off
    with pytest.raises(DeviationError, match='whole.pt2 deviates'):
        export_model(*map(str, (toy_files[0], tmp_path / 'out', toy_files[1])), formats=['torch'])
    assert list(tmp_path.iterdir()) == []


def test_small_deviations_pass_and_are_told(toy_files, tmp_path, fake_files):
    fake_files['value'] = 0.0005
    lines = []
    found = export_model(
        toy_files[0], tmp_path / 'deep' / 'out', toy_files[1], formats=['torch'], parts=['whole'], report=lines.append
    )
    off = found['files']['whole.pt2']['largest_deviation']['probabilities']
    assert off == pytest.approx(0.0005, rel=0.01)
    assert lines[0].startswith('whole.pt2: ') and 'probabilities 5.0e-04' in lines[0]
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['out']


def test_what_a_config_computes_in_plays_no_part(toy_files, tmp_path, monkeypatch):
    dtypes = []
    monkeypatch.setattr(export, 'make_parts', lambda network, *args: dtypes.append(network.test_cfg['dtype']) or [])
    cfg = Config.fromfile(toy_files[0])
    cfg.model.test_cfg = dict(dtype='bfloat16')
    cfg.dump(tmp_path / 'low.py')
    export_model(tmp_path / 'low.py', tmp_path / 'out', toy_files[1], formats=['torch'])
    assert dtypes == ['float32']


def test_a_folder_is_replaced_by_force_and_only_if_it_is_an_export(toy_files, tmp_path, fake_files):
    out = tmp_path / 'out'
    out.mkdir()  # An empty one may be filled.
    options = dict(formats=['torch'], parts=['whole'], check=False)
    export_model(toy_files[0], out, toy_files[1], **options)
    (out / 'left_over').write_text('of an earlier export')
    with pytest.raises(FileExistsError, match='--force'):
        export_model(toy_files[0], out, toy_files[1], **options)
    export_model(toy_files[0], out, toy_files[1], force=True, **options)
    assert not (out / 'left_over').exists() and (out / 'whole.pt2').exists()
    (out / 'export.json').unlink()
    with pytest.raises(FileExistsError, match='no export'):
        export_model(toy_files[0], out, toy_files[1], force=True, **options)
    assert (out / 'whole.pt2').exists() and [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('size', [(60, 64), (64, 0), (64, -64), (64,)])
def test_a_size_that_does_not_suit_the_encoder_is_refused(toy_files, tmp_path, size):
    with pytest.raises(ValueError, match='multiples of 8'):
        export_model(toy_files[0], tmp_path / 'out', toy_files[1], formats=['torch'], size=size)


def test_other_steps_than_letterboxing_are_refused(toy_files, tmp_path):
    config = Config.fromfile(toy_files[0])
    config.test_dataloader.dataset.pipeline[1] = dict(type='Resize', scale=(64, 64), keep_ratio=True)
    with pytest.raises(ValueError, match='Resize'):
        export_model(config, tmp_path / 'out', toy_files[1], formats=['torch'])


@pytest.mark.parametrize('name', ['onnx', 'onnxscript', 'onnxruntime'])
def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr(export, 'find_spec', lambda wanted: None if wanted == name else sys.__spec__)
    with pytest.raises(ImportError, match=rf'need {name}:.*"export"') as error:
        export_model(None, tmp_path / 'out')
    assert ('--no-check' in str(error.value)) == (name == 'onnxruntime')


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match='tflite'):
        export_model(None, tmp_path / 'out', formats=['tflite'])
