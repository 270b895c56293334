"""Every config parses, says what its name says, has the paper's sizes, builds, and trains one step."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.structures import PixelData

from mmetris.models.clip import resolve_arch
from mmetris.structures import RefDataSample
from mmetris.utils.command_line import build_without_weights
from mmetris.utils.config_options import runner_settings
from mmetris.utils.param_count import count_parameters
from tests import toy, toy_timm

ROOT = Path(__file__).parents[1]
ALL_CONFIGS = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
# Referring models; other folders have tests of their own (test_bridger_configs.py).
CONFIGS = [
    path
    for path in ALL_CONFIGS
    if path.parent.name in ('ablation', 'cris', 'detris', 'etris', 'etris_released', 'tuning')
]
NAMES = [path.relative_to(ROOT / 'configs').with_suffix('').as_posix() for path in CONFIGS]
METAFILE = {
    model['Name']: model
    for model in yaml.safe_load((ROOT / 'configs' / 'etris' / 'metafile.yml').read_text(encoding='utf-8'))['Models']
}

# Names a config computes settings from; everything else at the top must be something that a runner or a tool reads.
VARIABLES = {
    'ann_file',
    'arch',
    'batch_size',
    'clip_checkpoint',
    'clip_mean',
    'clip_rate',
    'clip_std',
    'context_length',
    'data_root',
    'input_size',
    'learning_rate',
    'loading',
    'max_epochs',
    'reader',
    'split_file',
    'test_pipeline',
    'tested',
    'train_pipeline',
    'vis_backends',
}
# And by the runner, which has no argument for sync_bn.
READ_BY_TOOLS = {'auto_scale_lr', 'custom_imports', 'sync_bn', 'tta_model', 'tta_pipeline'}

ENCODERS = dict(
    r50=('CLIPResNet', 'RN50', 'RN50.pt'),
    r101=('CLIPResNet', 'RN101', 'RN101.pt'),
    vitb16=('CLIPViT', 'ViT-B-16', 'ViT-B-16.pt'),
    vitl14=('CLIPViT', 'ViT-L-14', 'ViT-L-14.pt'),
    tiny=('CLIPResNet', None, 'tiny_clip_resnet.safetensors'),
    # DETRIS's, whose text encoder is that of a CLIP.
    base=('DINOv2ViT', 'ViT-B-16', 'ViT-B-16.pt'),
    large=('DINOv2ViT', 'ViT-B-16', 'ViT-B-16.pt'),
    **{'dinov2-b': ('DINOv2ViT', 'ViT-B-16', 'ViT-B-16.pt')},
    # Of open_clip, by the tags of their weights.
    **{
        'siglip-b16': ('CLIPTimmViT', 'ViT-B-16-SigLIP-384', 'webli'),
        'siglip2-b16': ('CLIPTimmViT', 'ViT-B-16-SigLIP2-384', 'webli'),
        'eva02-b16': ('CLIPTimmViT', 'EVA02-B-16', 'merged2b_s8b_b131k'),
        'mobileclip-s2': ('CLIPTimmConvNet', 'MobileCLIP-S2', 'datacompdr'),
        'convnext-b': ('CLIPTimmConvNet', 'convnext_base_w_320', 'laion_aesthetic_s13b_b82k_augreg'),
    },
)
# Image encoders whose stages have one grid.
VITS = {name for name, (kind, *_) in ENCODERS.items() if kind in ('CLIPViT', 'CLIPTimmViT')} | {'dinov2-b'}
# data set -> annotations, splits, split of validation, splits of testing, token length
DATA = dict(
    refcoco=('refcoco/instances.json', 'refcoco/refs(unc).p', 'val', ['testA', 'testB'], 17),
    refcocoplus=('refcoco+/instances.json', 'refcoco+/refs(unc).p', 'val', ['testA', 'testB'], 17),
    refcocog_umd=('refcocog/instances.json', 'refcocog/refs(umd).p', 'val', ['test'], 22),
    refcocog_google=('refcocog/instances.json', 'refcocog/refs(google).p', 'val', ['val'], 22),
    grefcoco=('grefcoco/instances.json', 'grefcoco/grefs(unc).json', 'val', ['testA', 'testB'], 17),
    shapes=('refcoco/instances.json', 'refcoco/refs(unc).p', 'val', ['val', 'testA', 'testB'], 17),
    refzom=('ref-zom/instances.json', 'ref-zom/refs(final).p', 'val', ['test'], 17),
    refclef=('refclef/instances.json', 'refclef/refs(unc).p', 'val', ['testA', 'testB', 'testC'], 17),
    rrsisd=('rrsisd/instances.json', 'rrsisd/refs(unc).p', 'val', ['test'], 22),
    refsegrs=(None, None, 'val', ['test'], 17),
    phrasecut=(None, None, 'val', ['test'], 17),
    refcoco_m=('refcoco/instances.json', 'refcoco/refs(unc).p', 'val', ['val'], 17),
    table=('sentences.csv', None, 'val', ['val'], 17),
    mixed=('refcoco/instances.json', 'refcoco/refs(unc).p', 'val', ['testA', 'testB'], 17),
)
DATA['shapes-grefs'] = ('grefcoco/instances.json', 'grefcoco/grefs(unc).json', 'val', ['val', 'testA', 'testB'], 17)


def load(name: str) -> Config:
    """A config of ours by its name, e.g. ``etris/etris_r101_refcoco``."""
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def parts_of(name: str) -> tuple[str, str, str]:
    """``etris/etris_tiny_no-bridger_shapes`` -> encoder 'tiny', departure 'no-bridger', data 'shapes'.

    What is tuned is the departure of configs/tuning: ``tuning/lora_r101_refcoco`` -> 'r101', 'lora', 'refcoco'.
    """
    encoders, data = '|'.join(ENCODERS), '|'.join(DATA)
    if name.startswith('tuning/'):
        match = re.fullmatch(rf'tuning/(?P<departure>[a-z-]+)_(?P<encoder>{encoders})_(?P<data>{data})', name)
        assert match, f'{name}.py is not named <method>_<encoder>_<data>'
    else:
        match = re.fullmatch(
            rf'[a-z_]+/(?:etris|etris_released|cris|detris)_(?P<encoder>{encoders})(?:_(?P<departure>[a-z0-9-]+))?_(?P<data>{data})',
            name,
        )
        assert match, f'{name}.py is not named <method>_<encoder>[_<departure>]_<data>'
    return match['encoder'], match['departure'] or '', match['data']


def has_bridger(name: str) -> bool:
    """Whether a config's name says that its model has a Bridger."""
    departure = parts_of(name)[1]
    return (
        departure.endswith('-etris')
        if name.startswith('tuning/')
        else departure != 'no-bridger' and not name.startswith(('cris/', 'detris/'))
    )


def gpus_of(name: str) -> int:
    """GPUs that a config's batch size is meant for: the paper's."""
    return 8 if name.startswith('cris/') else 2


def sizes_of(arch: str | dict) -> list:
    """What tells CLIP's architectures apart, whether named or given by sizes."""
    resolved = resolve_arch(arch)
    vision = [resolved.vision.get(key) for key in ('layers', 'width', 'patch_size')]
    return [resolved.embed_dim, *vision, *(resolved.text[key] for key in ('layers', 'width', 'heads'))]


def train_sets(cfg: Config) -> list[dict]:
    """Data sets that are trained on, of a mixture each."""
    dataset = cfg.train_dataloader.dataset
    return dataset.get('datasets', [dataset])


def walk(node, key: str = ''):
    """Every (key, value) inside a config."""
    yield key, node
    if isinstance(node, dict):
        for name, value in node.items():
            yield from walk(value, name)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value, key)


def steps_of(cfg: Config, kind: str, pipelines: tuple[str, ...] = ('train', 'val', 'test')) -> list[dict]:
    """All steps of one type in the pipelines of the data loaders."""
    datasets = dict(train=train_sets(cfg)[0], val=cfg.val_dataloader.dataset, test=cfg.test_dataloader.dataset)
    steps = [step for phase in pipelines for step in datasets[phase].pipeline]
    return [step for step in steps if step.type == kind]


def test_there_is_a_config_for_every_encoder_and_data_set_of_the_paper():
    published = {'refcoco', 'refcocoplus', 'refcocog_umd', 'refcocog_google'}
    wanted = {f'etris/etris_{encoder}_{data}' for encoder in ('r50', 'r101', 'vitb16') for data in published}
    wanted |= {f'detris/detris_{encoder}_{data}' for encoder in ('base', 'large') for data in published}
    wanted |= {'etris/etris_vitl14_refcoco', 'etris/etris_tiny_shapes', 'detris/detris_large_mixed'}
    assert wanted <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_no_top_level_key_is_unknown(name):
    assert set(load(name)) - VARIABLES - READ_BY_TOOLS <= runner_settings()


@pytest.mark.parametrize('name', NAMES)
def test_the_name_agrees_with_the_content(name):
    encoder, _, data = parts_of(name)
    cfg = load(name)
    kind, arch, checkpoint = ENCODERS[encoder]
    assert cfg.model.backbone.type == kind
    for part in (cfg.model.backbone, cfg.model.text_encoder)[kind == 'DINOv2ViT' :]:
        assert not {'arch', 'clip_checkpoint', 'quick_gelu'} & set(part), 'both sides have what dual_encoder says'
    assert arch is None or sizes_of(cfg.model.dual_encoder.arch) == sizes_of(arch)
    if '.' in checkpoint:
        assert cfg.model.dual_encoder.clip_checkpoint == f'pretrained/{checkpoint}'
    else:
        assert cfg.model.dual_encoder.clip_checkpoint == checkpoint
        assert checkpoint in open_clip.list_pretrained_tags_by_model(arch)
    ann_file, split_file, val_split, test_splits, length = DATA[data]
    for phase, split in (('train', 'train'), ('val', val_split), ('test', None)):
        dataset = train_sets(cfg)[0] if phase == 'train' else cfg[f'{phase}_dataloader'].dataset
        if (data, phase) == ('refcoco_m', 'test'):
            assert dataset.type == 'RefCocoMDataset' and dataset.data_root == cfg.data_root
        else:
            assert (dataset.get('ann_file'), dataset.get('split_file')) == (ann_file, split_file)
        assert split is None or dataset.split == split
        assert ('shapes' in dataset.data_root) == data.startswith('shapes')
    assert cfg.test_cfg.splits == test_splits
    assert cfg.test_dataloader.dataset.split in test_splits
    if name.startswith('detris/') and data == 'refcocog_google':
        length = 17
    # Whose features depend on it, and whose tokens are CLIP's: SigLIP's are not made by the pipeline.
    assert cfg.context_length == (77 if encoder == 'mobileclip-s2' else length)
    assert (cfg.model.neck.type == 'TextFirst') == name.startswith('detris/')
    assert name.startswith('detris/') or (cfg.model.neck.get('stages') != ()) == has_bridger(name)


@pytest.mark.parametrize('name', NAMES)
def test_input_size_and_token_length_are_the_same_everywhere(name):
    cfg = load(name)
    letterboxes, tokenizers = steps_of(cfg, 'Letterbox'), steps_of(cfg, 'TokenizeExpression')
    assert len(letterboxes) == len(tokenizers) == 3
    assert {tuple(step.size) for step in letterboxes} == {tuple(cfg.input_size)}
    lengths = [value for key, value in walk(cfg.to_dict()) if key == 'context_length' and not isinstance(value, dict)]
    text_tower = getattr(cfg.model.dual_encoder.arch, 'text_cfg', {}).get('context_length')
    assert set(lengths) <= {cfg.context_length, text_tower}
    divisor = cfg.model.data_preprocessor.size_divisor
    sizes = [value for key, value in walk(cfg.tta_pipeline) if key == 'size' and isinstance(value, tuple)]
    assert len(sizes) >= 3
    for size in [cfg.input_size, *sizes]:
        assert all(length % divisor == 0 for length in size)


@pytest.mark.parametrize('name', NAMES)
def test_the_best_epoch_is_picked_on_val_and_every_sentence_is_scored(name):
    cfg = load(name)
    assert cfg.val_dataloader.dataset.split == 'val'
    several = parts_of(name)[2] in ('grefcoco', 'refzom', 'shapes-grefs', 'table')
    assert cfg.default_hooks.checkpoint.save_best == ('gIoU' if several else 'mIoU')
    for phase in ('val', 'test'):
        assert cfg[f'{phase}_dataloader'].dataset.text_mode == 'original'
        assert cfg[f'{phase}_dataloader'].dataset.test_mode is True
        if several:
            assert cfg[f'{phase}_evaluator'] == dict(type='GRefSegMetric')
        else:
            assert cfg[f'{phase}_evaluator'].metric == ['oIoU', 'mIoU', 'Pr']


@pytest.mark.parametrize('name', [name for name in NAMES if 'tiny' not in name])
def test_the_recipe_is_the_papers(name):
    cfg = load(name)
    assert cfg.optim_wrapper.optimizer == dict(type='Adam', lr=1e-4, weight_decay=0, fused=True)
    multiples = cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    expected = {}
    if parts_of(name)[0] in VITS and not name.startswith('etris_released'):  # There no part has its own rate.
        expected['neck'] = dict(lr_mult=10)
    if name.startswith('cris/'):
        expected.update({part: dict(lr_mult=0.1) for part in ('backbone', 'text_encoder')})
        expected['positional_embedding'] = dict(lr_mult=1.0)
    if name.startswith('tuning/full_'):
        expected.update(backbone=dict(lr_mult=0.1), text_encoder=dict(lr_mult=0.1))
    assert multiples == expected
    is_long = name in ('detris/detris_base_refcoco', 'detris/detris_base_refcocog_umd')
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[0].end == (65 if is_long else 50)
    assert cfg.param_scheduler[0].milestones == ([35, 55] if is_long else [35])
    assert cfg.param_scheduler[0].gamma == 0.1
    assert cfg.train_dataloader.batch_size * gpus_of(name) == cfg.auto_scale_lr.base_batch_size
    assert cfg.auto_scale_lr.base_batch_size == (64 if name.startswith('cris/') else 32)
    text_mode = 'original' if name.endswith(('_grefcoco', '_refzom')) else 'random'
    assert {dataset.text_mode for dataset in train_sets(cfg)} == {text_mode}
    assert cfg.model.decode_head.threshold == 0.35
    assert cfg.input_size == ((448, 448) if name.startswith('detris/') else (416, 416)) or (
        parts_of(name)[0] in ('vitl14', 'dinov2-b')
    )


@pytest.mark.parametrize('path', CONFIGS, ids=NAMES)
def test_the_first_lines_give_the_command_the_papers_row_and_what_was_run(path):
    header = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    name = f'{path.parent.name}/{path.name}'
    assert f'bash tools/dist_train.sh configs/{name} {gpus_of(name)}' in header
    assert 'paper' in header.lower()
    assert 'not run' in header or 'docs/shapes.md' in header


def test_every_base_has_a_user():
    bases = {path.resolve() for path in (ROOT / 'configs' / '_base_').rglob('*.py')}
    used = set()
    for path in [*ALL_CONFIGS, *bases]:
        text = path.read_text(encoding='utf-8')
        match = re.search(r'^_base_ = (\[.*?\]|\'.*?\')', text, re.DOTALL | re.MULTILINE)
        names = ast.literal_eval(match[1]) if match else []
        used |= {(path.parent / name).resolve() for name in ([names] if isinstance(names, str) else names)}
    assert bases <= used


# Printed by the paper's Tables 1 and 2 in millions; RN50's printed 1.68 does not follow from its text.
@pytest.mark.parametrize('encoder, bridger, head', [('r50', 1.94, None), ('r101', 1.94, 23.98), ('vitb16', 1.39, None)])
@pytest.mark.parametrize('data', ['refcoco', 'refcocog_google'])
def test_full_size_models_build_and_have_the_papers_counts(encoder, bridger, head, data):
    counts = count_parameters(build_without_weights(load(f'etris/etris_{encoder}_{data}')))
    assert round(counts['bridger'] / 1e6, 2) == bridger
    assert head is None or round(counts['head'] / 1e6, 2) == head
    assert counts['backbone_tunable'] == counts['prompt'] == 0
    assert counts['total'] == sum(count for part, count in counts.items() if part != 'total')


@pytest.mark.parametrize('model', [*METAFILE.values()], ids=[*METAFILE])
def test_the_metafile_has_the_models_counts(model):
    """And the Bridger that the paper's Table 3 prints, which for RN50 is another."""
    facts = model['Metadata']
    counts = count_parameters(build_without_weights(load(f'etris/{model["Name"]}')))
    assert (facts['Bridger Parameters'], facts['Decoder Parameters']) == (counts['bridger'], counts['head'])
    printed = dict(r50=1.68, r101=1.94, vitb16=1.39)
    assert facts.get('Bridger Parameters (M)') == printed.get(parts_of(f'etris/{model["Name"]}')[0])


def shrunken_timm(model: dict, encoder: str) -> dict:
    """A model on a tiny tower of timm's of the same family, whose tokens are CLIP's."""
    arch = copy.deepcopy(toy_timm.FAMILIES[encoder.partition('-')[0].removesuffix('02')])
    arch['text_cfg']['context_length'] = 77
    model.dual_encoder = dict(arch=arch)
    model.decode_head.channels = 32
    return model


def shrunken_dinov2(model: dict) -> dict:
    """A Bridger between a tiny DINOv2 and a tiny CLIP's text encoder."""
    model.backbone.update(arch=toy.DINOV2, checkpoint=None)
    model.dual_encoder = dict(arch=toy.VIT)
    model.decode_head.channels = 32
    model.data_preprocessor.size_divisor = 2 * toy.DINOV2['patch_size']
    return model


def shrunken_detris(model: dict) -> dict:
    """DETRIS with as many blocks, but narrow ones."""
    depth = model.backbone.stage_ends[-1]
    model.backbone.update(arch=toy.DINOV2 | dict(depth=depth), checkpoint=None)
    model.backbone.tuning.aligner.update(channels=16, word_channels=16, align_dims=16)
    arch = copy.deepcopy(toy.VIT)
    arch['text_cfg']['layers'] = 12
    model.text_encoder.tuning.adapter.channels = 16
    model.dual_encoder = dict(arch=arch)
    model.decode_head.channels = 32
    model.data_preprocessor.size_divisor = toy.DINOV2['patch_size']
    return model


def shrunken(cfg: Config, input_hw: tuple[int, int]) -> dict:
    """The config's model on a tiny CLIP of the same family, with random weights, for small images."""
    model = copy.deepcopy(cfg.model)
    if model.backbone.type == 'DINOv2ViT':
        return shrunken_detris(model) if model.backbone.get('tuning') else shrunken_dinov2(model)
    if model.backbone.type.startswith('CLIPTimm'):
        (encoder,) = [name for name, (_, arch, _) in ENCODERS.items() if arch == model.dual_encoder.arch]
        return shrunken_timm(model, encoder)
    kind = 'vit' if model.backbone.type == 'CLIPViT' else 'resnet'
    arch = copy.deepcopy(toy.ARCHS[kind])
    for part, sizes in ((model.backbone, arch['vision_cfg']), (model.text_encoder, arch['text_cfg'])):
        if part.type != 'CLIPResNet':
            sizes['layers'] = part.num_stages if 'num_stages' in part else 4
        for method in part.get('tuning', {}).values():
            if any('1[01]' in place for place in method.get('places', ())):
                sizes['layers'] = 12  # Of which it names the last nine.
            if method.type == 'Compacter':
                method.reduction = 4  # A 32nd of the toy's width has no four parts.
    for part in (model.backbone, model.text_encoder):
        part.update(arch=arch, clip_checkpoint=None)
    model.decode_head.channels = 32
    if 'input_hw' in model.neck:
        model.neck.input_hw = input_hw
    if kind == 'vit':
        model.data_preprocessor.size_divisor = 16
    return model


@pytest.mark.parametrize('name', NAMES)
def test_one_training_step_moves_the_tuned_weights_and_no_other(name):
    cfg = load(name)
    height, width = 64, 96
    model = toy.build(shrunken(cfg, (height, width))).train()
    for key, parameter in model.backbone.tower.named_parameters():
        if key.endswith('bn3.weight'):  # Zero in a new ResNet, which so would hold back all gradients in its blocks.
            torch.nn.init.constant_(parameter, 0.5)
    target = torch.zeros(1, height, width, dtype=torch.uint8)
    target[:, 16:40, 20:70] = 1
    samples = []
    for expression in ('the red star', 'left of the blue ring'):
        sample = RefDataSample(metainfo=dict(expression=expression, img_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=target)
        samples.append(sample)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = list(toy.randn(2, 3, height, width) * 50 + 120)
    batch = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    losses = model(**batch, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    tuned = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [key for key, parameter in tuned.items() if parameter.grad is None], 'DDP refuses unused parameters'
    torch.optim.SGD(tuned.values(), lr=0.1).step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith('decode_head') for key in moved)
    inside = {key for key in moved if key.startswith(('backbone', 'text_encoder'))}
    if name.startswith('tuning'):
        buffers = {key for key, _ in model.named_buffers() if 'running' in key or 'num_batches' in key}
        assert inside <= set(tuned) | {key for key in buffers if '.tuning.' in key or name.startswith('tuning/full_')}
        for part in ('backbone', 'text_encoder'):
            is_tuned = bool(cfg.model[part].get('tuning')) or not cfg.model[part].get('frozen', True)
            assert any(key.startswith(part) for key in inside) == is_tuned
    elif name.startswith('etris_released'):
        # Positions are tuned, and the "frozen" ResNet's BatchNorm follows the data.
        assert all('positional_embedding' in key or 'running' in key or 'num_batches' in key for key in inside)
    elif name.startswith('cris/'):
        # All is tuned, although blocks of a ResNet that start as no change do not move in the first step.
        assert tuned.keys() == dict(model.named_parameters()).keys()
        assert all(parameter.grad is not None for parameter in tuned.values())
        parts = {'.'.join(key.split('.')[:2]) for key in inside if key in tuned}
        assert parts == {'backbone.tower', 'backbone.pool_shortcut', 'text_encoder.tower'}
    elif not cfg.model.backbone.get('frozen', True):
        assert inside and all(key.startswith('backbone') for key in inside)
    elif name.startswith('detris/'):
        parts = {'.'.join(key.split('.')[:3]) for key in inside}
        assert parts == {'backbone.tuning.aligner', 'text_encoder.tuning.adapter'}
    else:
        assert not inside
    has_bridger = cfg.model.neck.type == 'Bridger' and cfg.model.neck.get('stages') != ()
    assert any(key.startswith('neck') for key in moved) == has_bridger
