"""mmetris download, and segmenting by a published model's name: from a hub of tiny files on this machine."""

import functools
import hashlib
import json
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from mmengine.config import Config
from PIL import Image

from mmetris.apis import RefSegInferencer, fetching, model_zoo, published
from mmetris.apis.fetching import download
from mmetris.apis.model_zoo import find_model, indexed_models, package_root
from mmetris.utils import downloads, encoder_files
from tests.toy_command import ask_command
from tests.toy_hub import COMMIT, ToyHub, ask_toy_hub
from tests.toy_inference import ROOT, picture

GOLDEN = ROOT / 'tests' / 'data' / 'golden'
REPO, FILE = 'thuteam/DETRIS', 'large/large_refcoco.pth'
NAME = 'detris_large_refcoco'
HEADS = dict(head_heads=4, align_heads=4, image_heads=4)  # Of the recorded tiny model.
SET = [word for key, value in HEADS.items() for word in ('--set', f'{key}={value}')]


@pytest.fixture(scope='module')
def server():
    hub = ToyHub()
    yield hub
    hub.close()


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The hub with the tiny DETRIS in it, empty caches, and no waiting between tries."""
    ask_toy_hub(server, tmp_path / 'home', monkeypatch)
    server.repos[REPO] = {
        'README.md': b'weights',
        FILE: (GOLDEN / 'detris.ckpt.pth').read_bytes(),
        'large/other.pth': (GOLDEN / 'etris_vit.ckpt.pth').read_bytes(),
    }
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.chdir(tmp_path)
    return server


@pytest.fixture
def said():
    return []


@pytest.fixture
def mmetris(monkeypatch, capsys):
    """Run the command: its exit status, what it printed, and its errors."""
    return functools.partial(ask_command, capsys)


def files_of_the_cache():
    return [path for path in Path(constants.HF_HUB_CACHE).rglob('*') if path.is_file()]


def with_all_words(file):
    """The recorded tiny DETRIS with a vocabulary for any sentence."""
    checkpoint = torch.load(GOLDEN / 'detris.ckpt.pth', weights_only=True)
    key = 'module.txt_backbone.token_embedding.weight'
    words = checkpoint['state_dict'][key]
    generator = torch.Generator().manual_seed(0)
    checkpoint['state_dict'][key] = words.std() * torch.randn(49408, words.shape[1], generator=generator)
    torch.save(checkpoint, file)
    return Path(file).read_bytes()


def test_from_a_name_to_a_mask(hub, mmetris, tmp_path):
    """The error names the command, the command fetches and converts once, and then the name is enough."""
    hub.repos[REPO][FILE] = with_all_words('words.pth')
    Image.fromarray(picture()).save('photo.png')
    ask = ('segment', 'photo.png', 'the man in red', '--model', 'detris-large_refcoco', '--device', 'cpu')
    status, _, err = mmetris(*ask)
    assert status == 2 and f'"mmetris download {NAME}"' in err and f'{hub.address}/{REPO}' in err
    assert 'not here yet: mmetris download detris_large_refcoco (thuteam/DETRIS, large' in mmetris('models')[1]
    status, out, err = mmetris('download', 'DETRIS-large_refcoco', *SET)
    size = len(hub.repos[REPO][FILE])
    assert (status, err) == (0, '')
    first, note, second, third = out.splitlines()
    assert first.startswith(f'{FILE} of {REPO}: {size:,} bytes, {size:,} of them received now, sha256 agrees -> ')
    assert re.match(r'note: a DINOv2 of width \d+, .* that of detris_large_refcoco has 1024, 24 and 4: is it', note)
    assert re.match(r'converted: \d+ keys, none left over -> .*model\.pth, [\d,]+ bytes$', second)
    assert third == f'ready: mmetris segment photo.jpg "the man in red" --model {NAME}'
    assert len(hub.gets()) == 1
    status, out, _ = mmetris('download', NAME, *SET)
    assert status == 0 and 'found in the cache' in out and 'converted before' in out and len(hub.gets()) == 1
    hub.asked.clear()
    status, out, err = mmetris(*ask)
    assert (status, err) == (0, '') and out.startswith('photo.png: the man in red') and not hub.asked
    assert f'{NAME}' in (models := mmetris('models')[1]) and 'ready: converted from thuteam/DETRIS' in models
    assert not [path for path in (tmp_path / 'home').rglob('*') if 'unfinished' in path.name]


def test_the_converted_model_is_the_recorded_one(hub, said, monkeypatch):
    """Here of a file that was fetched elsewhere, without a network."""
    Path('fetched.pth').write_bytes(hub.repos[REPO][FILE])
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    download(NAME, local='fetched.pth', options=HEADS, say=said.append)
    assert not hub.asked
    recorded = torch.load(GOLDEN / 'detris.io.pth', weights_only=True)
    model = RefSegInferencer(NAME, device='cpu', show_progress=False).model
    with torch.no_grad():
        logits = model.forward_logits(recorded['image'], recorded['tokens'])
    torch.testing.assert_close(logits, recorded['logits'], rtol=0, atol=1e-4)
    source = json.loads((published.assets_folder('converted', NAME) / 'source.json').read_text())
    assert source['file'] == 'fetched.pth' and source['options'] == HEADS | dict(context_length=17)
    assert source['sha256'] == hashlib.sha256(hub.repos[REPO][FILE]).hexdigest()


def test_an_interrupted_download_goes_on_where_it_stopped(hub, said, monkeypatch):
    """Within a command the hub's client tries again; when it gives up, the next command goes on."""
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1 << 16)  # Not 10 MB, before which nothing is kept.
    hub.break_after += [300_000, *[0] * 7]
    with pytest.raises(
        FileNotFoundError, match=r'broke off after ([\d,]+) of [\d,]+ bytes .*goes on from there'
    ) as error:
        download(NAME, options=HEADS, say=said.append)
    have = int(re.search(r'after ([\d,]+) of', str(error.value))[1].replace(',', ''))
    assert 0 < have <= 300_000 and not said
    assert not list(Path(constants.HF_HUB_CACHE).rglob('*.pth')), 'nothing has its name yet'
    hub.break_after.clear()
    fetched = downloads.fetch_hub_file(REPO, FILE)
    assert hub.gets()[-1][1] == f'bytes={have}-'
    size = len(hub.repos[REPO][FILE])
    assert (fetched.size, fetched.received, fetched.checked) == (size, size - have, 'sha256')
    assert fetched.path.read_bytes() == hub.repos[REPO][FILE]


def test_a_wrong_hash_leaves_nothing(hub, said):
    hub.wrong.add(FILE)
    with pytest.raises(ValueError, match='sha256 .* was expected: it is damaged or was exchanged'):
        download(NAME, options=HEADS, say=said.append)
    assert not said and not [path for path in files_of_the_cache() if path.suffix != '.lock']
    hub.wrong.clear()
    assert downloads.fetch_hub_file(REPO, FILE).received


def test_a_file_that_is_known_by_its_sha256_is_no_other(hub, said):
    hub.repos[REPO]['base/base_refcoco.pth'] = hub.repos[REPO][FILE]
    with pytest.raises(ValueError, match='but f52c5b00.* is known for it: it was replaced. Name it with --file'):
        download('detris_base_refcoco', options=HEADS, say=said.append)
    assert not hub.gets()
    with pytest.raises(ValueError, match='does not divide into 5 heads'):  # Taken, since it was named.
        download('detris_base_refcoco', file='base/base_refcoco.pth', options=dict(head_heads=5), say=said.append)


def test_a_damaged_file_in_the_hubs_cache_is_told(hub, said):
    """Other programs put files there, and compare sizes alone."""
    blob = downloads.fetch_hub_file(REPO, FILE).path.resolve()
    blob.write_bytes(b'x' * blob.stat().st_size)
    with pytest.raises(ValueError, match='damaged, or is not http.* Remove it, and it is fetched again'):
        download(NAME, options=HEADS, say=said.append)


def test_small_files_have_gits_checksum(hub):
    hub.small.add('README.md')
    assert downloads.fetch_hub_file(REPO, 'README.md').checked == 'git sha1'
    hub.repos[REPO]['README.md'] = b'other content'
    hub.wrong.add('README.md')
    with pytest.raises(ValueError, match='git sha1'):
        downloads.fetch_hub_file(REPO, 'README.md')


def test_what_the_repo_has_is_listed(hub, said):
    with pytest.raises(FileNotFoundError, match='no none.pth at main; its files: README.md, large/large_refcoco.pth'):
        download(NAME, file='none.pth', say=said.append)
    with pytest.raises(FileNotFoundError, match='detris_large_mixed is not known here: name it with --file. .*README'):
        download('detris_large_mixed', say=said.append)
    with pytest.raises(FileNotFoundError, match="has no revision 'v9'"):
        download(NAME, revision='v9', say=said.append)
    del hub.repos[REPO][FILE]
    with pytest.raises(FileNotFoundError, match='is supposed, not known: see --file'):
        download(NAME, say=said.append)
    del hub.repos[REPO]
    with pytest.raises(FileNotFoundError, match='there is no http.*thuteam/DETRIS, or it is private'):
        download(NAME, say=said.append)


def test_without_a_network_the_message_says_which_file_goes_where(hub, said, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')  # A port that nobody listens at.
    address = f'http://127.0.0.1:9/{REPO}/resolve/main/{FILE}'
    with pytest.raises(FileNotFoundError, match=f'could not be fetched from {address} .*--local FILE'):
        download(NAME, say=said.append)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(FileNotFoundError, match=f'{address}.*HF_HUB_OFFLINE is set.*fetch {address} elsewhere'):
        download(NAME, say=said.append)
    with pytest.raises(FileNotFoundError, match='HF_HUB_OFFLINE.*openaipublic.*pretrained/ViT-B-16.pt'):
        download('clip-vitb16', say=said.append)
    assert not hub.asked and not said


def test_offline_the_cache_is_enough(hub, monkeypatch):
    downloads.fetch_hub_file(REPO, FILE)
    hub.asked.clear()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert downloads.fetch_hub_file(REPO, FILE).received == 0 and not hub.asked


def test_a_file_of_another_code_is_named(hub, said):
    with pytest.raises(ValueError, match='not one of DETRIS.*, but of the released ETRIS.*etris_to_mmetris.py'):
        download(NAME, file='large/other.pth', say=said.append)
    assert published.converted_files(published.published_of(model_zoo.find_entry(NAME), package_root())) is None
    hub.repos[REPO]['large/cris.pth'] = (GOLDEN / 'cris.ckpt.pth').read_bytes()
    with pytest.raises(ValueError, match='not one of DETRIS'):
        download(NAME, file='large/cris.pth', say=said.append)
    state = torch.load(GOLDEN / 'detris.ckpt.pth', weights_only=True)
    keys = [key for key in state['state_dict'] if '.resblocks.1.adapter.' in key]
    for key in keys[:3]:
        del state['state_dict'][key]
    torch.save(state, 'without.pth')
    with pytest.raises(ValueError, match=f'missing: {re.escape(keys[0])}'):
        download(NAME, local='without.pth', options=HEADS, say=said.append)
    for key in [key for key in state['state_dict'] if '.resblocks.' in key and '.adapter.' in key]:
        del state['state_dict'][key]
    torch.save(state, 'without.pth')
    with pytest.raises(ValueError, match='without.pth: the text encoder has no adapters'):
        download(NAME, local='without.pth', options=HEADS, say=said.append)


class Evil:
    def __reduce__(self):
        return (Path.write_text, (Path('ran'), 'code'))


def test_code_in_a_file_is_refused(hub, said):
    torch.save(dict(state_dict={}, evil=Evil()), 'evil.pth')
    hub.repos[REPO]['large/evil.pth'] = Path('evil.pth').read_bytes()
    with pytest.raises(ValueError, match='nothing in it was run'):
        download(NAME, file='large/evil.pth', say=said.append)
    assert not Path('ran').exists()


def test_encoders_are_fetched_into_a_place_where_configs_find_them(hub, said, monkeypatch, tmp_path):
    """From this machine's server, in the place of OpenAI's and Meta's."""
    content = b'weights of an encoder'
    sha256 = hashlib.sha256(content).hexdigest()
    hub.repos['open/ai'] = {'RN101.pt': content, 'dinov2_vitl14_reg4_pretrain.pth': content}
    table = {
        file: one._replace(address=f'{hub.address}/open/ai/resolve/main/{file}', sha256=one.sha256 and sha256)
        for file, one in encoder_files.encoder_files().items()
    }
    for module in (encoder_files, fetching):
        monkeypatch.setattr(module, 'encoder_files', lambda: table)
    (rn101,) = download('clip-rn101', say=said.append)
    assert rn101.read_bytes() == content and 'sha256 agrees' in said[0]
    assert encoder_files.encoder_path('pretrained/RN101.pt') == rn101
    (dinov2,) = download('dinov2_vitl14_reg', say=said.append)
    assert (
        'size agrees' in said[1] and encoder_files.encoder_path('pretrained/dinov2_vitl14_reg4_pretrain.pth') == dinov2
    )
    hub.asked.clear()
    assert download('etris_r101_refcoco', say=said.append) == [rn101] and not hub.asked
    assert 'nobody published weights' in said[2] and 'here already' in said[3]
    download(str(ROOT / 'configs/cris/cris_r101_refcoco.py'), say=said.append)
    table['RN50.pt'] = table['RN50.pt']._replace(
        address=f'{hub.address}/open/ai/resolve/main/RN101.pt', sha256='0' * 64
    )
    with pytest.raises(ValueError, match='0000 was expected'):
        download('clip-rn50', say=said.append)
    assert not table['RN50.pt'].place.exists()


def test_tags_of_open_clip_are_fetched_and_compared(hub, said, monkeypatch):
    """Of the two forms safetensors; what breaks off is gone on from, and not begun anew with the other form."""
    repo, safe, pickled = 'laion/CLIP-ViT-B-16-laion2B-s34B-b88K', 'open_clip_model.safetensors', b'pickled weights'
    Path('tagged.py').write_text(
        "model = dict(dual_encoder=dict(arch='ViT-B-16', clip_checkpoint='laion2b_s34b_b88k'))"
    )
    hub.repos[repo] = {'open_clip_pytorch_model.bin': pickled}
    assert [path.read_bytes() for path in download('tagged.py', say=said.append)] == [pickled]
    assert said[-1].startswith('laion2b_s34b_b88k of ViT-B-16: 15 bytes, 15 of them received now, sha256 agrees')
    hub.asked.clear()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert download('tagged.py', say=said.append)[0].read_bytes() == pickled and not hub.asked
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(FileNotFoundError, match=f"'laion2b_s34b_b88k' of ViT-B-16 .* {repo} .* set clip_checkpoint to"):
        download('tagged.py', say=said.append)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    hub.repos[repo][safe] = b'weights'
    hub.wrong.add(safe)
    with pytest.raises(ValueError, match=f'{safe} gave a file of sha256 .* nothing was kept'):
        download('tagged.py', say=said.append)
    hub.break_after += [0] * 8
    with pytest.raises(FileNotFoundError, match=f'{safe} broke off after 0 of 7 bytes'):
        download('tagged.py', say=said.append)
    Path('empty.py').write_text('model = dict()')
    assert download('empty.py', say=said.append) == [] and said[-1] == 'empty.py names no files of encoders'
    with pytest.raises(FileNotFoundError, match='config file not found: none.py'):
        download('none.py', say=said.append)


def test_a_tokenizer_comes_with_its_encoder(hub, said, monkeypatch):
    """SigLIP's config says so by the name of its architecture alone."""
    config = str(ROOT / 'configs/etris/etris_siglip-b16_refcoco.py')
    hub.repos['timm/ViT-B-16-SigLIP-384'] = {'open_clip_model.safetensors': b'weights'}
    hub.repos['timm/ViT-B-16-SigLIP'] = {'tokenizer.json': b'{}', 'README.md': b''}
    with pytest.raises(FileNotFoundError, match='ViT-B-16-SigLIP has no tokenizer_config.json at main; its files: '):
        download(config, say=said.append)
    hub.repos['timm/ViT-B-16-SigLIP']['tokenizer_config.json'] = b'{"tokenizer_class": "T5Tokenizer"}'
    names = [path.name for path in download(config, say=said.append)]
    assert names == ['open_clip_model.safetensors', 'tokenizer_config.json', 'tokenizer.json']
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert [path.name for path in download(config, say=said.append)] == names
    assert 'tokenizer.json of timm/ViT-B-16-SigLIP: 2 bytes, here already' in said[-1]
    elsewhere = Config.fromfile(config)
    elsewhere.model.dual_encoder.tokenizer = 'pretrained/siglip'
    assert fetching.tokenizer_repos(elsewhere) == []


def test_names_and_arguments_that_lead_nowhere(hub, said, mmetris):
    with pytest.raises(FileNotFoundError, match='did you mean detris_large_refcoco'):
        download('detris_large_refcocc', say=said.append)
    with pytest.raises(ValueError, match='etris_r101_refcoco has none'):
        download('etris_r101_refcoco', file='x.pth', say=said.append)
    with pytest.raises(ValueError, match='hands is no option of the converter'):
        download(NAME, options=dict(hands=2), say=said.append)
    assert '--set heads=many: a whole number' in mmetris('download', NAME, '--set', 'heads=many')[2]
    with pytest.raises(FileNotFoundError, match='no weights for etris_r101_refcoco: nobody published any'):
        find_model('etris_r101_refcoco')


def test_addresses_of_equal_names_are_several_files(hub):
    hub.repos['a/b'] = {'best.pth': b'one'}
    hub.repos['c/d'] = {'best.pth': b'two'}
    addresses = [f'{hub.address}/{repo}/resolve/main/best.pth?download=1' for repo in ('a/b', 'c/d')]
    for _ in range(2):
        assert [downloads.weights_path(address).read_bytes() for address in addresses] == [b'one', b'two']
    assert len(hub.gets()) == 2
    assert downloads.weights_path('hf://c/d/best.pth').read_bytes() == b'two'
    assert downloads.weights_path(f'hf://c/d@{COMMIT}/best.pth').read_bytes() == b'two'


def test_every_published_entry_is_whole():
    """Code, options and repo of the metafiles are such that a download can begin."""
    entries = [published.published_of(entry, package_root()) for entry in indexed_models()]
    found = [entry for entry in entries if entry is not None]
    assert len(found) == 9 and {entry.repo for entry in found} == {REPO}
    for entry in found:
        assert entry.code in published.CODES and entry.config.is_file() and set(entry.options) <= set(published.OPTIONS)
        assert entry.seen == (entry.sha256 is not None) == entry.name.startswith('detris_base')
