"""Published checkpoints give the numbers that the published codes gave (tolerance 1e-4, relative, single precision).

``tests/data/golden/{etris_rn,etris_vit,cris,detris}.ckpt.pth`` are checkpoints of tiny random models as the released
ETRIS code, CRIS's and DETRIS's save them, ``*.io.pth`` what they computed from them, in eval mode. Tokens and
letterboxing are compared in ``test_utils/test_tokenizer.py`` and ``test_utils/test_letterbox.py``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mmetris.apis import init_model
from mmetris.models.converters import CRIS, DETRIS, ETRIS, PublishedCode
from tests.warm_process import run_script

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'data' / 'golden'
TOLERANCE = 1e-4


class Kind(NamedTuple):
    """A recorded model: its code, the converters' name for it, its image encoder, what shapes do not tell."""

    code: PublishedCode
    tool: str
    family: str
    options: tuple


KINDS = dict(
    etris_rn=Kind(ETRIS, 'etris', 'resnet', ('--bridger-heads', 4, '--head-heads', 4)),
    etris_vit=Kind(ETRIS, 'etris', 'vit', ('--bridger-heads', 4, '--head-heads', 4)),
    cris=Kind(CRIS, 'cris', 'resnet', ('--head-heads', 4)),
    detris=Kind(DETRIS, 'detris', 'dinov2', ('--head-heads', 4, '--align-heads', 4, '--image-heads', 4)),
)
# Intermediate values that the codes' records call otherwise: the map after each of the decoder's first two steps.
FUSED = dict(etris_rn='hierarchical', etris_vit='hierarchical', cris='aligned', detris='aligned')
ALIGNED = dict(etris_rn='global_aligned', etris_vit='global_aligned', cris='decoded', detris='decoded')


def run_tool(name, *args):
    """Run a converter as a process of its own."""
    return run_script(ROOT / 'tools' / 'model_converters' / name, *args)


def error(actual, expected):
    """Relative distance of two tensors."""
    assert actual.shape == expected.shape
    return ((actual - expected).norm() / expected.norm()).item()


def ours_name(kind, published):
    """Name in our model of a recorded parameter, which may have the prefix of a checkpoint."""
    return KINDS[kind].code.keys(KINDS[kind].family).ours(published.removeprefix('module.'))


@pytest.fixture(scope='module', params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope='module')
def converted(kind, tmp_path_factory):
    """Folder that the converter wrote, and what it printed."""
    folder = tmp_path_factory.mktemp(kind)
    tool = f'{KINDS[kind].tool}_to_mmetris.py'
    result = run_tool(tool, GOLDEN / f'{kind}.ckpt.pth', folder, *KINDS[kind].options)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope='module')
def recorded(kind):
    return torch.load(GOLDEN / f'{kind}.io.pth', weights_only=True)


@pytest.fixture(scope='module')
def model(converted):
    return init_model(converted[0] / 'config.py', converted[0] / 'model.pth', device='cpu')


def test_every_published_key_is_reported_once(kind, converted):
    state = torch.load(GOLDEN / f'{kind}.ckpt.pth', weights_only=True)['state_dict']
    reported = [line.split(' -> ')[0] for line in converted[1].splitlines() if line.startswith('module.')]
    assert reported == list(state)


def test_the_config_needs_no_other_file_and_holds_the_inferred_sizes(kind, converted, recorded):
    assert '_base_' not in (converted[0] / 'config.py').read_text()
    cfg, sizes = init_model(converted[0] / 'config.py', device='cpu').cfg, recorded['config']
    said = {*cfg.model.text_encoder, *(() if kind == 'detris' else cfg.model.backbone)}
    assert not {'arch', 'clip_checkpoint'} & said, 'both sides have what dual_encoder says, but for a DINOv2'
    text = cfg.model.dual_encoder.arch.text_cfg
    assert (text.vocab_size, text.width, text.heads) == (sizes['vocab'], sizes['text_width'], sizes['text_heads'])
    assert cfg.model.neck.get('embed_dims') == sizes.get('bridger_dim')
    assert cfg.model.decode_head.channels == recorded[FUSED[kind]].shape[1]
    assert cfg.model.decode_head.global_alignment.ffn_dims == sizes['dim_ffn']
    assert kind != 'etris_vit' or cfg.input_size == (sizes['image_size'], sizes['image_size'])


def test_every_intermediate_has_the_recorded_value(kind, model, recorded):
    with torch.no_grad():
        features = model.extract_feat(recorded['image'], recorded['tokens'])
        head = model.decode_head
        fused = head.align_hierarchically(features)
        aligned = head.align_globally(fused, features)
        logits = model.forward_logits(recorded['image'], recorded['tokens'])
    ours = dict(zip(('vis2', 'vis3', 'vis4'), features.maps), words=features.words, sentence=features.sentence)
    # CRIS's and DETRIS's decoders were recorded as they hand their pixels on, in one axis.
    ours |= {
        FUSED[kind]: fused,
        ALIGNED[kind]: aligned if kind.startswith('etris') else aligned.flatten(2),
        'logits': logits,
    }
    inputs = {'config', 'image', 'tokens', 'mask', 'loss', 'grad_norms', 'trainable'}
    assert recorded.keys() - inputs == ours.keys() & recorded.keys()
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
    names = {published: ours_name(kind, published) for published in recorded['grad_norms']}
    norms = {published: parameters[name].grad.norm().item() for published, name in names.items()}
    # The bias of an attention's keys shifts all weights alike: its gradient is 0 but for rounding, 4e-9 here.
    assert norms == pytest.approx(recorded['grad_norms'], rel=TOLERANCE, abs=1e-8)
    others = {name for name in set(parameters) - set(names.values()) if parameters[name].requires_grad}
    assert {name.split('.')[-1] for name in others} == ({'positional_embedding'} if kind.startswith('etris') else set())


def test_as_much_is_tuned_as_there(kind, model, recorded):
    """But for the temperature of CLIP's pre-training, one number, which nothing reads and CRIS's code tunes."""
    if kind.startswith('etris'):
        return  # It was not recorded.
    tuned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert tuned + (kind == 'cris') == recorded['trainable']


def test_converting_back_gives_the_published_file_bit_by_bit(kind, converted, tmp_path):
    result = run_tool(f'mmetris_to_{KINDS[kind].tool}.py', converted[0] / 'model.pth', tmp_path / 'back.pth')
    assert result.returncode == 0, result.stderr
    published = torch.load(GOLDEN / f'{kind}.ckpt.pth', weights_only=True)
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    assert back.keys() == published.keys() and back['epoch'] == published['epoch']
    assert list(back['state_dict']) == list(published['state_dict'])
    for key, value in published['state_dict'].items():
        assert back['state_dict'][key].dtype == value.dtype
        assert torch.equal(back['state_dict'][key], value), key


def test_the_examples_of_the_api_document_run(kind, converted):
    """Its Python blocks, in order, on the checkpoint that its first command converts."""
    if kind != 'etris_vit':
        return  # The document converts the ViT.
    text = (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8')
    command = re.search(r'etris_to_mmetris.py (\S+) converted (.*)', text)
    assert command.groups() == ('tests/data/golden/etris_vit.ckpt.pth', '--bridger-heads 4 --head-heads 4')
    code = '\n'.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL))
    code = code.replace("'converted/", f"'{converted[0]}/").replace("'tests/data/", f"'{ROOT}/tests/data/")
    exec(compile(code, 'docs/api.md', 'exec'), {})
