"""Published checkpoints give the numbers that the released code gave (tolerance 1e-4, relative, single precision).

``tests/data/golden/etris_{rn,vit}.ckpt.pth`` are checkpoints of two tiny random models as the released code saves them,
``etris_{rn,vit}.io.pth`` what it computed from them, in eval mode. Tokens and letterboxing are compared in
``test_utils/test_tokenizer.py`` and ``test_utils/test_letterbox.py``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmetris.apis import init_model
from mmetris.models.converters import ours_name

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'data' / 'golden'
FAMILIES = dict(rn='resnet', vit='vit')
TOLERANCE = 1e-4


def run_tool(name, *args):
    """Run a converter as a process of its own."""
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'model_converters' / name), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def error(actual, expected):
    """Relative distance of two tensors."""
    assert actual.shape == expected.shape
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.fixture(scope='module', params=['rn', 'vit'])
def kind(request):
    return request.param


@pytest.fixture(scope='module')
def converted(kind, tmp_path_factory):
    """Folder that etris_to_mmetris.py wrote, and what it printed."""
    folder = tmp_path_factory.mktemp(kind)
    result = run_tool(
        'etris_to_mmetris.py', GOLDEN / f'etris_{kind}.ckpt.pth', folder, '--bridger-heads', 4, '--head-heads', 4
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope='module')
def recorded(kind):
    return torch.load(GOLDEN / f'etris_{kind}.io.pth', weights_only=True)


@pytest.fixture(scope='module')
def model(converted):
    return init_model(converted[0] / 'config.py', converted[0] / 'model.pth', device='cpu')


def test_every_published_key_is_reported_once(kind, converted):
    state = torch.load(GOLDEN / f'etris_{kind}.ckpt.pth', weights_only=True)['state_dict']
    reported = [line.split(' -> ')[0] for line in converted[1].splitlines() if line.startswith('module.')]
    assert reported == list(state)


def test_the_config_needs_no_other_file_and_holds_the_inferred_sizes(kind, converted, recorded):
    assert '_base_' not in (converted[0] / 'config.py').read_text()
    cfg, sizes = init_model(converted[0] / 'config.py', device='cpu').cfg, recorded['config']
    text = cfg.model.text_encoder.arch.text_cfg
    assert (text.vocab_size, text.width, text.heads) == (sizes['vocab'], sizes['text_width'], sizes['text_heads'])
    assert cfg.model.neck.embed_dims == sizes['bridger_dim']
    assert cfg.model.decode_head.global_alignment.ffn_dims == sizes['dim_ffn']
    assert kind == 'rn' or cfg.input_size == (sizes['image_size'], sizes['image_size'])


def test_every_intermediate_has_the_recorded_value(model, recorded):
    with torch.no_grad():
        features = model.extract_feat(recorded['image'], recorded['tokens'])
        head = model.decode_head
        fused = head.align_hierarchically(features)
        aligned = head.align_globally(fused, features)
        logits = model.forward_logits(recorded['image'], recorded['tokens'])
    ours = dict(
        zip(('vis2', 'vis3', 'vis4'), features.maps),
        words=features.words,
        sentence=features.sentence,
        hierarchical=fused,
        global_aligned=aligned,
        logits=logits,
    )
    errors = {name: error(value, recorded[name]) for name, value in ours.items()}
    assert max(errors.values()) < TOLERANCE, errors


def test_the_loss_and_every_gradient_have_the_recorded_values(kind, model, recorded):
    model.zero_grad()
    loss = model.decode_head.loss_decode[0](
        model.forward_logits(recorded['image'], recorded['tokens']), recorded['mask']
    )
    loss.backward()
    assert loss.item() == pytest.approx(recorded['loss'].item(), rel=TOLERANCE)
    parameters = dict(model.named_parameters())
    ours = {name: parameters[ours_name(name, FAMILIES[kind])].grad.norm().item() for name in recorded['grad_norms']}
    assert ours == pytest.approx(recorded['grad_norms'], rel=TOLERANCE)
    others = set(parameters) - {ours_name(name, FAMILIES[kind]) for name in recorded['grad_norms']}
    assert {name.split('.')[-1] for name in others if parameters[name].requires_grad} == {'positional_embedding'}


def test_converting_back_gives_the_published_file_bit_by_bit(kind, converted, tmp_path):
    result = run_tool('mmetris_to_etris.py', converted[0] / 'model.pth', tmp_path / 'back.pth')
    assert result.returncode == 0, result.stderr
    published = torch.load(GOLDEN / f'etris_{kind}.ckpt.pth', weights_only=True)
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    assert back.keys() == published.keys() and back['epoch'] == published['epoch']
    assert list(back['state_dict']) == list(published['state_dict'])
    for key, value in published['state_dict'].items():
        assert back['state_dict'][key].dtype == value.dtype
        assert torch.equal(back['state_dict'][key], value), key


def test_the_examples_of_the_api_document_run(kind, converted):
    """Its Python blocks, in order, on the checkpoint that its first command converts."""
    if kind == 'rn':
        return  # The document converts the ViT.
    text = (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8')
    command = re.search(r'etris_to_mmetris.py (\S+) converted (.*)', text)
    assert command.groups() == ('tests/data/golden/etris_vit.ckpt.pth', '--bridger-heads 4 --head-heads 4')
    code = '\n'.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL))
    code = code.replace("'converted/", f"'{converted[0]}/").replace("'tests/data/", f"'{ROOT}/tests/data/")
    exec(compile(code, 'docs/api.md', 'exec'), {})
