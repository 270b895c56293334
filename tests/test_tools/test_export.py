"""Exported files as real files: they agree with the model, and run where neither mmetris nor torch is."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmetris import tokenize
from mmetris.apis import RefSegInferencer, init_model
from mmetris.deployment import export_model
from mmetris.version import __version__
from tests.test_tools.test_tools import ROOT, TOOLS, run
from tests.toy_inference import picture, save_toy_model

pytest.importorskip('onnxscript')
onnxruntime = pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.processes

TOOL = TOOLS / 'deployment' / 'export.py'
SEGMENT = ROOT / 'projects' / 'onnx_runtime' / 'segment.py'
TEXTS = ['the left dog', 'a cat', 'the second person from the right in a blue shirt']
ALIEN = ('torch', 'torchvision', 'mmetris', 'mmengine', 'mmcv', 'mmseg', 'open_clip', 'cv2', 'onnx', 'onnxscript')
# Runs a script where importing any of them fails, as if they were not installed.
WITHOUT = f"""
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {ALIEN}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
for name in {ALIEN}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(name + ' is there')
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def vit(tmp_path_factory) -> SimpleNamespace:
    """A toy ViT, split, in both formats, by the tool."""
    folder = tmp_path_factory.mktemp('some where')
    config, weights = save_toy_model(folder / 'model')
    printed = run(TOOL, folder / 'model', '--out-dir', folder / 'exported', '--format', 'both', '--parts', 'split')
    return SimpleNamespace(
        model=init_model(config, weights, 'cpu'),
        config=config,
        weights=weights,
        out=folder / 'exported',
        printed=printed,
    )


@pytest.fixture(scope='module')
def resnet(tmp_path_factory) -> SimpleNamespace:
    """A toy ResNet with a no-target head, whole, as ONNX, for a larger input than its config's."""
    folder = tmp_path_factory.mktemp('resnet')
    head = dict(no_target_head=dict(channels=8, threshold=0.9))  # So high that all sentences have masks.
    config, weights = save_toy_model(folder / 'model', kind='resnet', decode_head=head)
    export_model(config, folder / 'exported', weights, parts=['whole'], size=(64, 96))
    return SimpleNamespace(
        model=init_model(config, weights, 'cpu'), config=config, weights=weights, out=folder / 'exported'
    )


@functools.cache
def load_file(path: Path) -> Callable:
    """A file as a function of arrays."""
    if path.suffix == '.pt2':
        module = torch.export.load(path).module()
        return lambda *arrays: [output.numpy() for output in module(*map(torch.from_numpy, arrays))]
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [port.name for port in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


@torch.no_grad()
def run_file(path: Path, *arrays: np.ndarray) -> list[np.ndarray]:
    """Outputs of a file."""
    return load_file(path)(*arrays)


def rgb_pictures(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """(count, 3, H, W) float32, 0..255."""
    pictures = np.stack([picture(height, width, seed) for seed in range(count)])
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)


@torch.no_grad()
def expected_logits(model, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """What the model says by its own preprocessing, without padding of the sentences."""
    inputs = model.data_preprocessor(dict(inputs=list(torch.from_numpy(images).flip(1))))['inputs']
    rows = []
    for image, text in zip(inputs, texts, strict=True):
        tokens = tokenize(text, 17)
        rows.append(model.forward_logits(image[None], tokens[:, : int(tokens.argmax()) + 1]))
    return torch.cat(rows).numpy()


def assert_agrees(outputs: list[np.ndarray], logits: np.ndarray) -> None:
    """Probabilities at 1e-3, logits at 1e-3 of the largest."""
    probabilities, found = outputs[:2]
    assert np.abs(found - logits).max() <= 1e-3 * max(1, np.abs(logits).max())
    # The first cell of the grid is the first pixel, whatever lies between.
    np.testing.assert_allclose(probabilities[..., 0, 0], 1 / (1 + np.exp(-logits[..., 0, 0])), atol=1e-3)
    assert logits.std() > 0.1 and np.ptp(probabilities) > 0.1  # A constant would agree with anything.


@pytest.mark.parametrize('rows', [1, 3])
def test_the_whole_of_a_resnet_agrees_at_any_batch_and_another_size(resnet, rows):
    images = rgb_pictures(rows, 64, 96)
    outputs = run_file(resnet.out / 'whole.onnx', images, tokenize(TEXTS[:rows], 17).numpy())
    assert outputs[0].shape == (rows, 1, 64, 96)
    assert_agrees(outputs, expected_logits(resnet.model, images, TEXTS[:rows]))


@pytest.mark.parametrize('suffix', ['.onnx', '.pt2'])
@pytest.mark.parametrize('index', [[0], [0, 0, 0], [2, 0, 1, 1, 2]])
def test_image_and_text_agree_with_any_number_of_images_and_sentences(vit, suffix, index):
    images = rgb_pictures(max(index) + 1)
    texts = (TEXTS * 2)[: len(index)]
    features = run_file(vit.out / f'image{suffix}', images)
    outputs = run_file(vit.out / f'text{suffix}', tokenize(texts, 17).numpy(), np.array(index), *features)
    assert_agrees(outputs, expected_logits(vit.model, images[index], texts))


def test_the_description_tells_what_the_files_are(vit):
    facts = json.loads((vit.out / 'export.json').read_text())
    files = {'image.onnx', 'text.onnx', 'image.pt2', 'text.pt2'}
    assert set(facts['files']) == files
    others = {'export.json', 'bpe_simple_vocab_16e6.txt.gz', 'LICENSE.open_clip.txt'}
    assert {path.name for path in vit.out.iterdir()} == files | others
    for name in ('image', 'text'):
        session = onnxruntime.InferenceSession(str(vit.out / f'{name}.onnx'), providers=['CPUExecutionProvider'])
        for ports, key in ((session.get_inputs(), 'inputs'), (session.get_outputs(), 'outputs')):
            told = [(port['name'], port['shape']) for port in facts['files'][f'{name}.onnx'][key]]
            assert [(port.name, port.shape) for port in ports] == told
    assert facts['threshold'] == 0.35 and facts['text']['context_length'] == 17 and facts['mmetris'] == __version__
    assert facts['image']['size'] == [64, 64] and facts['image']['border'][0] == pytest.approx(255 * 0.48145466)
    assert max(max(file['largest_deviation'].values()) for file in facts['files'].values()) <= 1e-3
    assert vit.printed.count('largest deviation from PyTorch') == 4


def test_a_part_has_only_the_weights_that_it_reads(vit):
    sizes = {path.name: path.stat().st_size for path in vit.out.iterdir()}
    for suffix in ('.onnx', '.pt2'):
        assert sizes['image' + suffix] < sizes['text' + suffix] / 4  # The vocabulary is most of a toy model.


def test_the_files_do_not_name_folders_of_this_machine(vit):
    private = [str(ROOT).encode(), b'site-packages', str(vit.config.parent).encode()]
    for path in vit.out.iterdir():
        contents = [path.read_bytes()]
        if path.suffix == '.pt2':
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        assert not [name for name in private for content in contents if name in content], path.name


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_the_example_runs_without_mmetris_and_torch_and_finds_the_same_masks(request, tmp_path, kind):
    """Of the ViT it takes the two parts; the ResNet is whole, at the size of (64, 96)."""
    model = request.getfixturevalue(kind)
    photo = tmp_path / 'photo.png'
    Image.fromarray(picture(90, 120, seed=5)).save(photo)
    config = Config.fromfile(model.config)
    config.test_dataloader.dataset.pipeline[1].size = tuple(
        json.loads((model.out / 'export.json').read_text())['image']['size']
    )
    inferencer = RefSegInferencer(config, model.weights, device='cpu', show_progress=False)
    # Half of the pixels are above it, which are other ones for each sentence.
    probabilities = inferencer(photo, TEXTS)['probabilities']
    threshold = float(np.median(probabilities))
    assert np.std(probabilities) > 0.03
    expected = inferencer(photo, TEXTS, threshold=threshold)
    printed = run(
        sys.executable,
        '-I',
        '-c',
        WITHOUT,
        SEGMENT,
        model.out,
        photo,
        *TEXTS,
        '--out-dir',
        tmp_path / 'results',
        '--threshold',
        threshold,
    )
    for number, (mask, text, score) in enumerate(zip(expected['masks'], TEXTS, expected['scores'], strict=True), 1):
        found = np.asarray(Image.open(tmp_path / 'results' / f'photo_{number}.png')) > 0
        # OpenCV's versions round the letterboxed picture in different ways, by a grey level or two.
        assert (found == mask).mean() > 0.998
        assert f'"{text}"' in printed and (f'score {score:.2f}' in printed or not mask.any())
    assert (tmp_path / 'results' / 'photo_overlay.png').is_file()


def test_not_in_the_picture_is_exported_with_its_threshold(resnet, tmp_path, capsys, monkeypatch):
    """Scores are those of the model; a sentence is answered so from the threshold on, the export's or another."""
    facts = json.loads((resnet.out / 'export.json').read_text())
    assert facts['no_target'] == dict(by='head', threshold=0.9)
    assert [port['name'] for port in facts['files']['whole.onnx']['outputs']][2:] == ['no_target_scores']
    assert facts['files']['whole.onnx']['largest_deviation']['no_target_scores'] <= 1e-3
    # As large as the network's input, so that nothing is resampled.
    Image.fromarray(picture(64, 96)).save(tmp_path / 'photo.png')
    config = Config.fromfile(resnet.config)
    config.test_dataloader.dataset.pipeline[1].size = (64, 96)
    inferencer = RefSegInferencer(config, resnet.weights, device='cpu', show_progress=False)
    scores = inferencer(tmp_path / 'photo.png', TEXTS[:2])['no_target_scores']
    spec = importlib.util.spec_from_file_location('segment_of_export', SEGMENT)
    segment = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(segment)
    segmenter = segment.Segmenter(resnet.out)
    segmenter.set_image(segment.read_picture(tmp_path / 'photo.png'))
    answers = segmenter.predict(TEXTS[:2])
    assert [one.no_target_score for one in answers] == pytest.approx(scores, abs=2e-3)
    assert not any(one.no_target for one in answers)
    between = sum(scores) / 2
    answers = segmenter.predict(TEXTS[:2], threshold=0.01, no_target_threshold=between)
    assert [one.no_target for one in answers] == [score > between for score in scores] in ([True, False], [False, True])
    assert all(one.mask.any() != one.no_target for one in answers)
    monkeypatch.chdir(tmp_path)
    least = f'{between:.6f}'
    segment.main([str(resnet.out), 'photo.png', *TEXTS[:2], '--threshold', '0.01', '--no-target-threshold', least])
    printed = capsys.readouterr().out
    assert (
        printed.count('": not in the picture, no-target score 0.') == 1 and printed.count('of the picture, score ') == 1
    )
    assert printed.count(f'(threshold {between:.6g})') == 2
    with pytest.raises(SystemExit):
        segment.main([str(resnet.out), 'photo.png', 'a cat', '--no-target-threshold', '1.5'])
    assert '--no-target-threshold 1.5 must be between 0 and 1' in capsys.readouterr().err
    segmenter.no_target = None  # An export of a model without it.
    assert [one.no_target_score for one in segmenter.predict(TEXTS[:2])] == [None, None]
    with pytest.raises(ValueError, match='no no-target scores'):
        segmenter.predict(TEXTS[:2], no_target_threshold=0.5)


def call(arguments, monkeypatch) -> int:
    """The tool's exit status, in this process."""
    spec = importlib.util.spec_from_file_location('export_tool', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['export.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        tool.main()
    return end.value.code


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['no_such_model'], 'no_such_model'),
        (['etris_vitb16_refcoco'], 'no weights'),
        (['CONFIG', '--weights', 'nowhere.pth'], 'nowhere.pth'),
        (['CONFIG', '--weights', 'WEIGHTS', '--size', '60', '64'], 'multiples of 8'),
        (['CONFIG', '--weights', 'WEIGHTS', '--opset', '11'], '18 or newer'),
        (['demo', '--out-dir', 'OUT'], '--force'),
        (['demo', '--out-dir', 'MODEL', '--force'], 'is no export'),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(vit, tmp_path, monkeypatch, capsys, arguments, message):
    places = dict(CONFIG=vit.config, WEIGHTS=vit.weights, OUT=vit.out, MODEL=vit.config.parent)
    arguments = ['--out-dir', tmp_path / 'new', *(places.get(word, word) for word in arguments)]
    before = sorted(vit.out.iterdir())
    assert call(arguments, monkeypatch) == 2
    last = capsys.readouterr().err.rstrip('\n').split('\n')[-1]
    assert last.startswith('export.py: error: ') and message in last
    assert not list(tmp_path.iterdir()) and sorted(vit.out.iterdir()) == before
