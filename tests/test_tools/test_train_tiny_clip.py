"""The pre-training of the tiny CLIP, at settings that run for seconds. Nothing is downloaded."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('open_clip')
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'pretrain'))

import probes  # noqa: E402
import shapes_batches  # noqa: E402
import tiny_clip  # noqa: E402
import train_tiny_clip  # noqa: E402

from mmetris.datasets.shapes import random_scene  # noqa: E402

TINY_VIT = dict(
    embed_dim=32,
    quick_gelu=True,
    vision_cfg=dict(image_size=128, patch_size=16, width=32, head_width=16, layers=4),
    text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=4),
)


def run(folder, *args):
    command = [
        '--out',
        f'{folder}/clip',
        '--cache',
        f'{folder}/cache',
        '--batch-size',
        '8',
        '--bank',
        '20',
        '--keep',
        '24',
        '--probe-scenes',
        '8',
        '--log-seconds',
        '0',
        '--probe-seconds',
        '1000',
        '--arch',
        'vit',
        *args,
    ]
    trainer = train_tiny_clip.train(train_tiny_clip.parse_args(command))
    records = [json.loads(line) for line in (folder / 'clip.log.jsonl').read_text().splitlines()]
    return trainer, records


@pytest.fixture
def tiny(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setitem(tiny_clip.ARCHS, 'vit', TINY_VIT)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize('arch', ['vit', 'resnet'])
def test_an_export_takes_at_most_eight_megabytes_and_splits_into_four_stages(arch, tmp_path):
    config = tiny_clip.arch_config(arch)
    tiny_clip.save_clip(tmp_path / 'clip.safetensors', tiny_clip.build_clip(config), config)
    assert (tmp_path / 'clip.safetensors').stat().st_size <= 8_000_000
    layers = config['vision_cfg']['layers']
    assert len(layers) == 4 if isinstance(layers, list) else layers % 4 == 0
    assert config['text_cfg']['layers'] % 4 == 0


def test_twenty_steps_reduce_the_loss(tiny, tmp_path):
    trainer, records = run(tmp_path, '--steps', '24', '--lr', '3e-3')
    losses = [record['loss'] for record in records if record['kind'] == 'train']
    assert trainer.step == len(losses) == 24
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.1
    assert set(records[-1]) >= {'colour', 'shape', 'size', 'texture', 'place', 'retrieval', 'near_miss', 'relation'}


def test_an_export_gives_the_same_features_in_a_plain_open_clip_model(tiny, tmp_path):
    trainer, _ = run(tmp_path, '--steps', '2')
    model, metadata = tiny_clip.load_clip(tmp_path / 'clip.safetensors')
    assert json.loads(metadata['arch']) == TINY_VIT and metadata['quick_gelu'] == 'true'
    assert metadata['samples_seen'] == '16' and 'Shapes' in metadata['trained_on']
    scene = random_scene(np.random.default_rng(0))
    image = tiny_clip.normalise(shapes_batches.picture(scene)[None])
    text = ['a small red star left of the big blue ring']
    full = shapes_batches._tokenizer()(text)
    trainer.model.eval()
    with torch.no_grad():
        wanted = trainer.model.encode_image(image), tiny_clip.encode_text(trainer.model, shapes_batches.tokenize(text))
        for ours, theirs in zip(wanted, (model.encode_image(image), model.encode_text(full))):
            torch.testing.assert_close(theirs, ours, rtol=0.02, atol=0.02)


def test_resuming_continues_at_the_step_and_appends_to_the_log(tiny, tmp_path):
    first, _ = run(tmp_path, '--steps', '3')
    second, records = run(tmp_path, '--steps', '5', '--resume')
    assert (first.step, second.step) == (3, 5)
    assert [record['step'] for record in records if record['kind'] == 'train'] == [1, 2, 3, 4, 5]
    assert second.seconds > first.seconds


def test_a_step_is_the_same_on_every_run_of_a_seed(tiny, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    (_, one), (_, two) = (run(tmp_path / name, '--steps', '2') for name in 'ab')
    assert [r['loss'] for r in one if r['kind'] == 'train'] == [r['loss'] for r in two if r['kind'] == 'train']


def test_resuming_needs_a_checkpoint_of_the_same_architecture(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match='--resume'):
        run(tmp_path, '--steps', '1', '--resume')
    run(tmp_path, '--steps', '1')
    with pytest.raises(ValueError, match="'vit'"):
        run(tmp_path, '--steps', '2', '--resume', '--arch', 'resnet')


def test_an_unknown_architecture_and_bad_numbers_are_named():
    with pytest.raises(ValueError, match="'swin'.*resnet"):
        tiny_clip.arch_config('swin')
    with pytest.raises(ValueError, match='--batch-size is 0'):
        train_tiny_clip.parse_args(['--batch-size', '0'])
    with pytest.raises(ValueError, match='--forms'):
        train_tiny_clip.parse_args(['--forms', *'00000'])
    for flag in ('--place-loss', '--teacher-loss', '--lone'):
        with pytest.raises(ValueError, match=f'{flag} is -1'):
            train_tiny_clip.parse_args([f'{flag}=-1'])


def test_a_place_loss_teaches_where_a_lone_object_stands(tiny, tmp_path):
    """A feature that holds the place, and one that does not."""
    scenes = [random_scene(np.random.default_rng(seed), count, count) for seed, count in enumerate((1, 1, 2, 1))]
    pictures = [shapes_batches.picture(scene) for scene in scenes]
    centres = shapes_batches.make_batch(pictures, scenes, np.random.default_rng(0)).centres
    lone = scenes[0].objects[0]
    assert centres[0].tolist() == pytest.approx([2 * lone.x / scenes[0].width - 1, 2 * lone.y / scenes[0].height - 1])
    assert centres[2].isnan().all() and centres[[0, 1, 3]].abs().max() < 1
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    told = centres.nan_to_num(9.0) / 2**0.5
    assert train_tiny_clip.place_loss(layer, told, centres).item() == pytest.approx(0, abs=1e-6)
    assert train_tiny_clip.place_loss(layer, -told, centres) > 0.1
    assert train_tiny_clip.place_loss(layer, told[2:3], centres[2:3]) == 0
    bank = shapes_batches.SceneBank(tmp_path / 'bank', 0, 10)
    close_ups = shapes_batches.close_up_batch(bank, np.random.default_rng(0), 3, num_captions=1, num_misses=1)
    assert close_ups.centres.isnan().all()  # A piece of a scene does not show where in the scene it is.

    trainer = train_tiny_clip.Trainer(train_tiny_clip.parse_args(['--arch', 'vit', '--place-loss', '1']))
    begun = trainer.place.weight.detach().clone()
    trainer.train_step(shapes_batches.make_batch(pictures, scenes, np.random.default_rng(0)))
    assert not torch.equal(trainer.place.weight, begun)
    run(tmp_path, '--steps', '1', '--place-loss', '1')
    saved = torch.load(tmp_path / 'cache' / 'clip.ckpt.pth', weights_only=True)['place']
    again, _ = run(tmp_path, '--steps', '1', '--place-loss', '1', '--resume')
    assert torch.equal(again.place.weight, saved['weight'])
    with pytest.raises(ValueError, match='was trained with --place-loss'):
        run(tmp_path, '--steps', '4', '--resume')


def test_a_training_may_start_from_an_exported_clip(tiny, tmp_path):
    run(tmp_path, '--steps', '1')
    start, _ = tiny_clip.load_clip(tmp_path / 'clip.safetensors')
    args = ['--arch', 'vit', '--init', f'{tmp_path}/clip.safetensors']
    trainer = train_tiny_clip.Trainer(train_tiny_clip.parse_args(args))
    for name in ('visual.conv1.weight', 'text_projection'):
        assert torch.equal(trainer.model.state_dict()[name], start.state_dict()[name])
    with pytest.raises(ValueError, match='clip.safetensors has embed_dim 32, but 64 is trained'):
        train_tiny_clip.Trainer(train_tiny_clip.parse_args(['--arch', 'resnet', *args[2:]]))


def test_a_teacher_gives_its_text_encoder_and_its_pictures_features(tiny, tmp_path):
    run(tmp_path, '--steps', '1')
    teacher, _ = tiny_clip.load_clip(tmp_path / 'clip.safetensors')
    args = [
        '--arch',
        'vit',
        '--teacher',
        f'{tmp_path}/clip.safetensors',
        '--lr',
        '3e-3',
        '--warmup',
        '0',
        '--seed',
        '1',
    ]
    trainer = train_tiny_clip.Trainer(train_tiny_clip.parse_args(args))
    state = trainer.model.state_dict()
    assert torch.equal(state['text_projection'], teacher.text_projection)
    assert not torch.equal(state['visual.conv1.weight'], teacher.visual.conv1.weight)
    bank = shapes_batches.SceneBank(tmp_path / 'bank', 0, 10)
    batch = shapes_batches.bank_batch(bank, np.random.default_rng(0), 8)

    def agreement():
        pictures = tiny_clip.normalise(batch.pictures)
        with torch.no_grad():
            return torch.cosine_similarity(trainer.model.encode_image(pictures), teacher.encode_image(pictures)).mean()

    before = agreement()
    for _ in range(8):
        trainer.train_step(batch)
    trainer.patches.keep = None
    assert agreement() > before + 0.1
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in trainer.teacher.parameters())
    with pytest.raises(ValueError, match='--teacher .*clip.safetensors has embed_dim 32'):
        train_tiny_clip.Trainer(train_tiny_clip.parse_args(['--arch', 'resnet', *args[2:]]))


def test_only_captions_known_to_be_false_are_negatives():
    images = torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    owner, scale = torch.tensor([0, 1]), torch.tensor(10.0)
    # The first caption fits both pictures, so even at equal similarity it costs nothing to rank it high in the second.
    texts = torch.stack([images[1], images[1]])
    nothing_false = torch.zeros(2, 2, dtype=torch.bool)
    assert train_tiny_clip.contrastive_loss(images, texts, owner, nothing_false, scale) == 0
    false = torch.tensor([[False, True], [True, False]])
    assert train_tiny_clip.contrastive_loss(images, texts, owner, false, scale) > 0.5


def test_trimmed_tokens_give_the_text_features_of_full_length_ones():
    torch.manual_seed(0)
    model = tiny_clip.build_clip(TINY_VIT).eval()
    texts = ['a star', 'the leftmost checkered cyan ring']
    with torch.no_grad():
        trimmed = tiny_clip.encode_text(model, shapes_batches.tokenize(texts))
        torch.testing.assert_close(trimmed, model.encode_text(shapes_batches._tokenizer()(texts)))


def test_our_tokens_are_those_of_clip():
    texts = ['a star', 'the leftmost checkered cyan ring farthest from the purple heart']
    tokens, full = shapes_batches.tokenize(texts), shapes_batches._tokenizer()(texts)
    assert torch.equal(tokens, full[:, : tokens.shape[1]]) and not full[:, tokens.shape[1] :].any()
    assert set(tokens.unique().tolist()) <= set(shapes_batches.used_tokens())


def test_the_patches_kept_are_mostly_those_of_the_objects():
    torch.manual_seed(0)
    pictures = np.full((2, 112, 112, 3), 120, np.uint8)
    pictures[0, 16:48, 16:48] = (222, 40, 36)  # 16 of the 196 patches
    choice = tiny_clip.PatchChoice()
    choice.keep = 24
    choice.look_at(pictures, 8)
    tokens = torch.arange(197.0).view(1, -1, 1).expand(2, -1, 4)
    kept = choice(tokens)
    assert kept.shape == (2, 25, 4) and (kept[:, 0] == 0).all()
    vivid = {1 + 14 * row + column for row in range(2, 6) for column in range(2, 6)}
    assert vivid <= set(kept[0, :, 0].int().tolist())
    assert choice.eval()(tokens) is tokens


def test_letterboxing_keeps_the_whole_picture_and_centres_it():
    image = np.full((96, 128, 3), 7, np.uint8)
    boxed = tiny_clip.letterbox(image)
    assert boxed.shape == (128, 128, 3) and (boxed[16:112] == 7).all()
    assert (boxed[0, 0] == np.round(np.array(tiny_clip.OPENAI_DATASET_MEAN) * 255)).all()
    assert float(tiny_clip.normalise(boxed[None])[0, :, 0, 0].abs().max()) < 0.02


def test_the_probes_ask_about_scenes_that_training_never_shows(tiny, tmp_path):
    asked = probes.Probes(0, 8)
    bank = shapes_batches.SceneBank(tmp_path, 0, 20)
    assert not set(asked.single + asked.pairs + asked.crowds) & {bank.scene(i) for i in range(20)}
    result = asked.run(tiny_clip.build_clip(TINY_VIT))
    assert all(0 <= value <= 1 for value in result.values())


def test_near_misses_add_their_own_term_and_those_not_known_to_be_false_do_not():
    images = torch.eye(2, 8)
    texts = torch.cat([images, images])  # each caption has one near miss, which is just as similar to its picture
    owner, scale = torch.tensor([0, 1]), torch.tensor(10.0)
    own = torch.tensor([[False, True], [True, False]])
    without = train_tiny_clip.contrastive_loss(images, texts, owner, torch.cat([own, torch.zeros_like(own)]), scale)
    with_misses = train_tiny_clip.contrastive_loss(images, texts, owner, torch.cat([own, ~own]), scale)
    assert without < 0.01
    assert float(with_misses - without) > np.log(2)


def test_positions_of_the_vit_start_as_waves_that_tell_every_patch_from_the_others():
    positions = tiny_clip.build_clip(TINY_VIT).visual.positional_embedding[1:].detach()
    assert positions.shape == (64, 32) and positions.abs().max() <= 0.5
    apart = torch.cdist(positions, positions) + torch.eye(64)
    assert apart.min() > 0.1
    assert (positions[0, 16:] == positions[7, 16:]).all() and (positions[0, :16] == positions[56, :16]).all()


def test_the_resnet_trains_and_its_export_loads(tmp_path):
    threads = torch.get_num_threads()
    trainer, records = run(tmp_path, '--steps', '2', '--arch', 'resnet')
    torch.set_num_threads(threads)
    assert trainer.step == 2 and np.isfinite([record['loss'] for record in records if record['kind'] == 'train']).all()
    model, _ = tiny_clip.load_clip(tmp_path / 'clip.safetensors')
    assert hasattr(model.visual, 'attnpool')


def test_close_ups_show_the_lone_object_and_name_all_of_it(tmp_path):
    bank = shapes_batches.SceneBank(tmp_path, 0, 20)
    batch = shapes_batches.close_up_batch(bank, np.random.default_rng(0), 4, num_captions=1, num_misses=1)
    assert batch.pictures.shape == (4, 64, 64, 3) and batch.false.shape == (8, 4)
    vivid = batch.pictures.max(-1).astype(int) - batch.pictures.min(-1)
    assert (vivid.reshape(4, -1).max(1) > 60).all()  # Objects are coloured, backgrounds grey.
    with pytest.raises(ValueError, match='close-ups'):
        train_tiny_clip.parse_args(['--arch', 'vit', '--close-ups', '0.5'])


def test_a_resnet_takes_other_sizes_by_resizing_its_positions():
    model = tiny_clip.build_clip(tiny_clip.arch_config('resnet')).eval()
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiny_clip.encode_image(model, images), model.encode_image(images))
    assert tiny_clip.encode_image(model, images[..., :64, :64]).shape == (2, 64)


def test_the_shipped_tiny_clip_is_small_and_knows_what_its_readme_says():
    shipped = Path(__file__).parents[2] / 'pretrained' / 'tiny_clip_resnet.safetensors'
    assert shipped.stat().st_size <= 8_000_000
    model, _ = tiny_clip.load_clip(shipped)
    result = probes.Probes(0, 64).run(model)
    assert min(result[name] for name in ('colour', 'shape', 'size', 'texture')) > 0.9


def test_rows_of_words_that_no_caption_holds_become_zero():
    embedding = torch.nn.Embedding(6, 4)
    words = tiny_clip.UsedWords(embedding, [4, 1])
    filled = words.filled()
    assert torch.equal(filled[[1, 4]], embedding.weight[[1, 4]]) and not filled[[0, 2, 3, 5]].any()
    assert torch.equal(words(torch.tensor([4])), filled[[4]])
    with pytest.raises(IndexError):
        words(torch.tensor([2]))


def test_one_of_two_tiny_clips_tells_where_a_lone_object_stands():
    """What docs/study.md says of the settings `demo` and `keeps-place`."""
    root = Path(__file__).parents[2]
    told = []
    for path in ('pretrained/tiny_clip_resnet.safetensors', 'studies/tiny_clip_resnet-places.safetensors'):
        model, _ = tiny_clip.load_clip(root / path)
        told.append(probes.Probes(0, 1).read_place(model))
    assert max(told[0]) < 0.1 and min(told[1]) > 0.9
