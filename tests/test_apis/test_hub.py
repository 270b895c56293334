"""push_to_hub and from_pretrained: what is shared gives the same masks, holds nothing private and runs nothing."""

import getpass
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from mmengine.config import Config
from safetensors.torch import load_file, save_file

from mmetris.apis import RefSegInferencer, from_pretrained, hub, init_model, push_to_hub, save_pretrained
from mmetris.apis.conversion import convert_file
from mmetris.apis.hub import CARD, CONFIG, WEIGHTS, find_shared, read_config
from mmetris.apis.model_zoo import package_root
from mmetris.cli import mmetris_command, run
from mmetris.models.converters import DETRIS
from mmetris.models.encoders.fingerprint import Fingerprint
from mmetris.utils.downloads import fetch_hub_file
from tests import toy
from tests.toy_hub import COMMIT, ToyHub, ask_toy_hub
from tests.toy_inference import picture

GOLDEN = package_root() / 'tests' / 'data' / 'golden'
SECRETS = ('alice', 'projects/secret', 'token-of-alice')


@pytest.fixture(scope='module')
def server():
    toy_hub = ToyHub()
    yield toy_hub
    toy_hub.close()


@pytest.fixture
def toy_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv('SECRET', 'token-of-alice')
    return ask_toy_hub(server, tmp_path / 'home', monkeypatch)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a training of a tiny model on the CLIP that ships, with private things all over its config."""
    folder = tmp_path_factory.mktemp('alice') / 'training'
    folder.mkdir()
    cfg = Config.fromfile(package_root() / 'configs/etris/etris_tiny_long-192px_shapes.py')
    clip = tmp_path_factory.mktemp('alice') / 'tiny_clip_resnet.safetensors'
    shutil.copy(package_root() / 'pretrained' / clip.name, clip)
    secret = '/home/alice/projects/secret/'
    cfg.merge_from_dict(
        {
            'model.dual_encoder.clip_checkpoint': str(clip),
            'model.prefix_cache': dict(dir=secret + 'cache', max_gb=1),
            'model.decode_head.projector.init_cfg': dict(type='Pretrained', checkpoint=secret + 'x.pth'),
            'data_root': secret,
            'train_dataloader.dataset.data_root': secret,
            'test_dataloader.dataset.data_root': secret,
            'work_dir': secret + os.environ.get('SECRET', 'token-of-alice'),
            'load_from': secret + 'start.pth',
        }
    )
    cfg.dump(folder / 'alice.py')
    shutil.copy(package_root() / 'pretrained/etris_tiny_long-192px_shapes.pth', folder / 'best_mIoU_epoch_9.pth')
    return folder


@pytest.fixture(scope='module')
def shared(trained, tmp_path_factory):
    """What is shared of it."""
    folder = tmp_path_factory.mktemp('shared')
    scores = {'Shapes val': dict(mIoU=78.82, oIoU=75.93), 'Shapes testA': dict(mIoU=70)}
    return save_pretrained(trained, folder, scores=scores, datasets=['shapes'], license='apache-2.0', name='tiny')


def test_the_same_masks_come_out(trained, shared):
    image, text = picture(), 'the red circle'
    own = RefSegInferencer(device='cpu', show_progress=False)(image, text)
    for source in (shared, str(shared)):
        other = RefSegInferencer(source, device='cpu', show_progress=False)(image, text)
        assert (other['probabilities'][0] == own['probabilities'][0]).all()
    model = from_pretrained(shared, device='cpu')
    assert not model.training and list(model.dataset_meta['classes']) == ['background', 'referred object']
    assert {path.name for path in shared.iterdir()} == {CONFIG, WEIGHTS, CARD}


def test_the_card_tells_what_users_ask(shared):
    card = ModelCard.load(shared / CARD)
    named = {key: card.data.to_dict()[key] for key in ('library_name', 'license', 'datasets')}
    assert named == dict(library_name='mmetris', license='apache-2.0', datasets=['shapes'])
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found == {('Shapes val', 'mIoU'): 78.82, ('Shapes val', 'oIoU'): 75.93, ('Shapes testA', 'mIoU'): 70.0}
    told = json.loads((shared / CONFIG).read_text())
    model = from_pretrained(shared, device='cpu')
    tunable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert told['tunable_parameters'] == tunable and f'| tunable parameters | {tunable:,} |' in card.text
    for name in ('backbone', 'text_encoder'):
        own = model.get_submodule(name).fingerprint()
        assert own.sha256 == told['encoders'][name]['sha256'] and own.sha256 in card.text
    assert 'referring image segmentation' in card.text and '| Shapes testA | 70 | - |' in card.text


def test_nothing_private_is_in_it(trained, shared, tmp_path, monkeypatch):
    for path in shared.iterdir():
        content = path.read_bytes().decode('latin-1')
        for secret in (*SECRETS, str(trained), str(Path.home()), str(package_root()), '/tmp', 'work_dir', 'data_root'):
            assert secret not in content, f'{secret} in {path.name}'
        if len(user := getpass.getuser()) > 4:
            assert user not in content
    # A CLIP of one's own has a name that is nobody's business; where it is then, others have to say.
    clip = tmp_path / 'alice_clip.safetensors'
    shutil.copy(package_root() / 'pretrained/tiny_clip_resnet.safetensors', clip)
    cfg = Config.fromfile(next(trained.glob('*.py')))
    cfg.model.dual_encoder.clip_checkpoint = str(clip)
    folder = save_pretrained(cfg, tmp_path / 'own', weights=trained / 'best_mIoU_epoch_9.pth')
    own = save_pretrained(init_model(cfg, trained / 'best_mIoU_epoch_9.pth', device='cpu'), tmp_path / 'of_a_model')
    for path in (*folder.iterdir(), *own.iterdir()):
        # In safetensors, the fingerprint's name stands as bytes of a tensor.
        assert b'alice' not in path.read_bytes()
    with pytest.raises(ValueError, match='clip_checkpoint|fingerprint|tuned on'):
        from_pretrained(folder, device='cpu')
    from_pretrained(folder, device='cpu', cfg_options={'model.dual_encoder.clip_checkpoint': str(clip)})
    # What cannot be told from a path is refused, and so is a path in the title.
    cfg.model.test_cfg = dict(mode='whole', notes='/home/alice/notes')
    cfg.model.dual_encoder.clip_checkpoint = str(clip)
    model = init_model(Config.fromfile(next(trained.glob('*.py'))), trained / 'best_mIoU_epoch_9.pth', device='cpu')
    model.cfg.model.test_cfg = cfg.model.test_cfg
    with pytest.raises(ValueError, match="model.test_cfg.notes='/home/alice/notes' looks like a path"):
        save_pretrained(model, tmp_path / 'refused')
    with pytest.raises(ValueError, match='README.md would have a path of this machine in it'):
        save_pretrained(trained, tmp_path / 'refused', datasets=['/home/alice/data'])


def test_push_and_fetch(toy_server, trained, shared, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'hf_x')
    url = push_to_hub(trained, 'me/tiny', scores={'Shapes val': dict(mIoU=78.82)}, token='hf_x')
    assert url == f'{toy_server.address}/me/tiny/commit/{COMMIT}'
    sent = toy_server.repos['me/tiny']
    assert set(sent) == {CONFIG, WEIGHTS, CARD} and sent[WEIGHTS] == (shared / WEIGHTS).read_bytes()
    assert b"RefSegInferencer('hf://me/tiny')" in sent[CARD]
    toy_server.asked.clear()
    for source in ('me/tiny', 'hf://me/tiny', f'hf://me/tiny@{COMMIT}'):
        model = from_pretrained(source, device='cpu', token=False)
    assert len(toy_server.gets()) == 2
    expected = from_pretrained(shared, device='cpu').state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    toy_server.asked.clear()
    from_pretrained('me/tiny', device='cpu', local_files_only=True)
    assert not toy_server.asked
    with pytest.raises(FileNotFoundError, match='is not in .*local_files_only'):
        from_pretrained('me/tiny', local_files_only=True, cache_dir=tmp_path / 'other')
    with pytest.raises(FileNotFoundError, match="no revision 'v2'"):
        from_pretrained('me/tiny', revision='v2')
    with pytest.raises(FileNotFoundError, match='there is no .*me/none'):
        from_pretrained('me/none')
    with pytest.raises(FileNotFoundError, match='not found: me/tiny; a model of the hub is hf://me/tiny'):
        RefSegInferencer('me/tiny')
    result = RefSegInferencer('hf://me/tiny', device='cpu', show_progress=False)(picture(), 'the red circle')
    assert result['masks'][0].shape == (48, 80)


def test_the_command(toy_server, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'hf_x')
    run(mmetris_command, ['push', str(trained), '--out-dir', str(tmp_path / 'out'), '--score', 'Shapes val:mIoU=78.82'])
    assert capsys.readouterr().out == f'written: {tmp_path / "out"}\n'
    assert '| Shapes val | 78.82 |' in (tmp_path / 'out' / CARD).read_text()
    run(mmetris_command, ['push', str(trained), 'me/tiny', '--dataset', 'shapes'])
    assert capsys.readouterr().out.startswith('sent: ') and 'me/tiny' in toy_server.repos
    for wrong in (['push', str(trained)], ['push', str(trained), 'me/tiny', '--score', 'mIoU']):
        with pytest.raises(SystemExit):
            run(mmetris_command, wrong)


@pytest.fixture
def forged(shared, tmp_path):
    """A copy of what was shared, whose config can be changed."""
    folder = tmp_path / 'forged'
    shutil.copytree(shared, folder)

    def change(**changes):
        told = json.loads((shared / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(told))
        return told

    return folder, change


@pytest.mark.parametrize(
    'part',
    [
        dict(type='os.system', command='touch ran'),
        dict(type='antigravity'),
        dict(type='mmengine.model.BaseModel'),
        dict(type='EncoderDecoder'),
        dict(type='mmseg.EncoderDecoder'),
        dict(type=['ReferringSegmentor']),
        dict(type='LoadImageFromFile'),
        dict(_scope_='mmdet'),
        dict(init_cfg=dict(type='Pretrained', checkpoint='evil.pth')),
        dict(clip_checkpoint='/etc/passwd'),
        dict(clip_checkpoint='https://evil.example/x.pt'),
        dict(checkpoint='../x.pth'),
        dict(clip_checkpoint=3),
        dict(folder='~/.ssh'),
    ],
)
def test_a_config_that_names_strangers_is_refused(forged, part):
    folder, change = forged
    told = json.loads((folder / CONFIG).read_text())
    told['model']['neck']['extra'] = [part]
    change(model=told['model'])
    with pytest.raises(ValueError, match=r'config\.json: model\.neck\.extra\.0'):
        find_shared(folder)


def test_what_is_no_config_is_refused(forged, tmp_path):
    folder, change = forged
    config = folder / CONFIG
    for content, complaint in (
        ('model = 1', 'cannot be read as JSON'),
        ('[' * 100_000, 'cannot be read as JSON'),
        ('{}', 'no config of a model of mmetris'),
        ('[1]', 'no config of a model of mmetris'),
        (' ' * (hub.MAX_CONFIG_BYTES + 1), 'larger than'),
        (json.dumps(dict(library_name='mmetris', format=1, model=[], test_pipeline=[])), 'no "model"'),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=complaint):
            read_config(config)
    change(format=2)
    with pytest.raises(ValueError, match='format 1'):
        read_config(config)
    (tmp_path / 'py').mkdir()
    (tmp_path / 'py' / 'config.py').write_text('raise SystemExit("run")')
    with pytest.raises(FileNotFoundError, match='has no config.json'):
        from_pretrained(tmp_path / 'py')
    with pytest.raises(ValueError, match='names no repo'):
        from_pretrained('just_a_name')
    with pytest.raises(ValueError, match='names a file'):
        from_pretrained('hf://me/tiny/model.safetensors')


class Evil:
    def __reduce__(self):
        return (Path.write_text, (Path('ran'), 'code'))


def test_weights_that_are_no_safetensors_are_refused(forged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = forged
    whole = (folder / WEIGHTS).read_bytes()
    torch.save(dict(evil=Evil()), tmp_path / 'evil.pth')
    pickled = (tmp_path / 'evil.pth').read_bytes()
    data = torch.frombuffer(bytearray(pickled), dtype=torch.uint8)
    save_file(load_file(folder / WEIGHTS) | dict(zzz=data), tmp_path / 'both.safetensors')
    for content, complaint in (
        (pickled, 'not a readable safetensors file'),
        (whole[:-1000], 'not a readable safetensors file'),
        (b'', 'not a readable safetensors file'),
        ((tmp_path / 'both.safetensors').read_bytes(), 'safetensors file and an archive at once'),
    ):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            from_pretrained(folder, device='cpu')
    assert not Path('ran').exists()


def test_weights_of_another_model_are_refused(forged):
    folder, _ = forged
    state = load_file(folder / WEIGHTS)
    key = next(key for key in state if key.startswith('neck.'))
    save_file({name: value for name, value in state.items() if name != key}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=rf'does not fit the model of the config[\s\S]*{key}'):
        from_pretrained(folder, device='cpu')
    mark = Fingerprint('another CLIP', '0' * 64).to_tensor()
    save_file(state | {'backbone.clip_fingerprint': mark}, folder / WEIGHTS)
    with pytest.raises(ValueError, match='another CLIP'):
        from_pretrained(folder, device='cpu')


def test_a_converted_model_is_shared_with_its_encoders(tmp_path, monkeypatch, capsys):
    """Its config names no files of theirs, so that a slim checkpoint could never be completed."""
    recipe = package_root() / 'configs/detris/detris_base_refcoco.py'
    golden = GOLDEN / 'detris.ckpt.pth'
    convert_file(
        DETRIS, golden, tmp_path / 'converted', dict(dinov2=recipe), head_heads=4, align_heads=4, image_heads=4
    )
    config, weights = tmp_path / 'converted' / 'config.py', tmp_path / 'converted' / 'model.pth'
    with pytest.raises(ValueError, match=r'frozen at random weights.*or save full.*full=True \(--full\)'):
        save_pretrained(config, tmp_path / 'slim', weights)
    run(mmetris_command, ['push', str(config), '--weights', str(weights), '--out-dir', str(tmp_path / 'out'), '--full'])
    assert 'the whole model' in (tmp_path / 'out' / CARD).read_text()
    own, shared = init_model(config, weights, device='cpu'), from_pretrained(tmp_path / 'out', device='cpu')
    assert all(torch.equal(value, shared.state_dict()[key]) for key, value in own.state_dict().items())
    again = save_pretrained(shared, tmp_path / 'again', full=True)  # Whoever has it can pass it on.
    assert (again / WEIGHTS).read_bytes() == (tmp_path / 'out' / WEIGHTS).read_bytes()


def test_all_of_a_slim_model_can_be_shared(trained, tmp_path):
    """Then the encoders' files are not needed where it is loaded."""
    folder = save_pretrained(trained, tmp_path / 'full', full=True)
    told = json.loads((folder / CONFIG).read_text())
    assert told['model']['dual_encoder']['clip_checkpoint'] is None and not told['encoders']
    own = RefSegInferencer(device='cpu', show_progress=False)
    other = RefSegInferencer(folder, device='cpu', show_progress=False)
    image, text = picture(), 'the red circle'
    assert (own(image, text)['probabilities'][0] == other(image, text)['probabilities'][0]).all()


def test_what_cannot_be_shared_is_told(tmp_path):
    model = toy.build_model().eval()
    with pytest.raises(ValueError, match='has no cfg'):
        save_pretrained(model, tmp_path)
    model.cfg = Config(dict(model=toy.model_cfg(), input_size=(64, 64)))
    with pytest.raises(ValueError, match='frozen at random weights'):
        save_pretrained(model, tmp_path)
    shipped = init_model(package_root() / 'configs/etris/etris_tiny_long-192px_shapes.py', device='cpu')
    shipped.cfg.model.dual_encoder.tokenizer = '/home/alice/tokenizer'  # Whoever loads it has the files elsewhere.
    assert 'tokenizer' not in read_config(save_pretrained(shipped, tmp_path / 'told') / CONFIG)['model']['dual_encoder']
    next(shipped.decode_head.parameters()).data.view(-1)[0] = float('nan')
    with pytest.raises(ValueError, match='ReferringSegmentor holds weights that are NaN or infinite: decode_head'):
        save_pretrained(shipped, tmp_path / 'nan')
    with pytest.raises(ValueError, match='weights are for a config'):
        save_pretrained(model, tmp_path, weights='x.pth')


def test_a_small_file_with_another_content_is_refused_by_the_fetching(toy_server):
    toy_server.repos['me/tiny'] = {CONFIG: b'{}'}
    toy_server.small.add(CONFIG)
    toy_server.wrong.add(CONFIG)
    with pytest.raises(ValueError, match='git sha1'):
        fetch_hub_file('me/tiny', CONFIG)
