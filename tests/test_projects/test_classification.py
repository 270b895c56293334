"""Classes of images: the answers of the trunk and of CLIP, folders of pictures, scores, a training by the config."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from open_clip import CLIP
from PIL import Image
from torch.nn import functional as F

from mmetris import tokenize
from mmetris.apis import ImageClassificationInferencer
from mmetris.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from mmetris.structures import BridgedFeatures, Vocabulary
from projects.classification.classification import ClassDataSample, NamePoolingHead
from projects.classification.classification.model import best_names
from projects.classification.classification.shapes import CLASSES, HELD_OUT, FoldersSpec, draw_picture, write_folders
from tests import toy
from tests.forked_process import kill_test

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'projects' / 'classification' / 'configs'
NAMES = ['red circle', 'blue square', 'a dog', 'the left cat']
CLOSE = dict(rtol=1e-5, atol=1e-5)


def model_cfg(kind='vit', classes=NAMES, **kwargs):
    cfg = toy.model_cfg(kind, neck=dict(zoom_norm=False, zero_init=True) | kwargs.pop('neck', {}))
    del cfg['decode_head']
    cfg['text_encoder'] = dict(cfg['text_encoder'], type='ClassText')
    vocabulary = dict({} if classes is None else dict(classes=classes), **kwargs.pop('vocabulary', {}))
    return dict(cfg, type='BridgedClassifier', vocabulary=vocabulary, **kwargs)


def build(kind='vit', **kwargs):
    return toy.build(model_cfg(kind, **kwargs))


def stirred(model):
    """The model after its tuned weights have moved, so that Bridger and map take part."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    return model


def samples_of(labels):
    samples = [ClassDataSample(metainfo=dict(img_path=f'{index}.jpg')) for index in range(len(labels))]
    for sample, label in zip(samples, labels):
        sample.gt_label = torch.tensor([label])
    return samples


@pytest.mark.parametrize('kind', toy.ARCHS)
def test_zero_shot_is_clips_own(kind, tmp_path):
    """Pool, scale of the logits and templates: open_clip's model, and its recipe for a classifier."""
    torch.manual_seed(0)
    clip = CLIP(**toy.ARCHS[kind], quick_gelu=True).eval()
    clip.logit_scale.data.fill_(math.log(37.0))
    torch.save(clip.state_dict(), tmp_path / 'clip.pth')
    templates = ['a photo of a {}.', 'the {}', 'art of a small {}']
    cfg = model_cfg(kind, vocabulary=dict(templates=templates))
    for part in ('backbone', 'text_encoder'):
        cfg[part]['clip_checkpoint'] = str(tmp_path / 'clip.pth')
    model = toy.build(cfg, seed=1).eval()
    model.init_weights()
    images = toy.randn(3, 3, 64, 64)
    with torch.no_grad():
        columns = []
        for name in NAMES:
            vectors = F.normalize(clip.encode_text(tokenize([template.format(name) for template in templates], 77)))
            columns.append(F.normalize(vectors.mean(dim=0), dim=0))
        expected = 37.0 * F.normalize(clip.encode_image(images)) @ torch.stack(columns, dim=1)
        found = model.predict(images)
    torch.testing.assert_close(torch.stack([one.zero_shot_logits for one in found]), expected, rtol=1e-4, atol=1e-4)
    # And it stays so, whatever the Bridger learns.
    again = stirred(model).predict(images)
    torch.testing.assert_close(torch.stack([one.zero_shot_logits for one in again]), expected, rtol=1e-4, atol=1e-4)
    assert (again[0].pred_logits - found[0].pred_logits).abs().max() > 1e-3


@pytest.mark.parametrize('kind', toy.ARCHS)
@pytest.mark.parametrize('neck', [{}, dict(stages=()), dict(stages=(3,))])
@pytest.mark.parametrize('size', [64, 96])
def test_training_starts_from_clips_answers(kind, neck, size):
    model = build(kind, neck=neck, vocabulary=dict(templates=['the {}'])).eval()
    for one in model.predict(toy.randn(2, 3, size, size)):
        own = one.pred_logits / model.cls_head.logit_scale.exp()
        torch.testing.assert_close(own, one.zero_shot_logits / model.zero_shot.logit_scale.exp(), **CLOSE)
        torch.testing.assert_close(one.pred_score, one.pred_logits.softmax(0))
        assert one.pred_label.item() == one.zero_shot_logits.argmax()


@pytest.mark.parametrize('kind', toy.ARCHS)
def test_shapes_and_gradients(kind):
    model = stirred(build(kind)).train()
    losses = model.loss(toy.randn(3, 3, 64, 64), samples_of([0, 3, 1]))
    losses['loss_cls'].backward()
    tuned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split('.')[0] for name in tuned} == {'neck', 'cls_head'}
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in tuned.values())
    # Of every stage's Bridger, both ways, something arrives at the answer.
    for stage in ('2', '3', '4'):
        for part in ('zoom_out', 'words_out'):
            found = [value.grad.abs().max() for name, value in tuned.items() if f'bridges.{stage}.{part}' in name]
            assert found and max(found) > 0
    model.eval()
    images = toy.randn(2, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(images[:1]), model(images[1:])])
    assert together.shape == (2, len(NAMES))
    torch.testing.assert_close(together, alone, **CLOSE)


def test_the_head_by_hand():
    head = NamePoolingHead([2], logit_scale=10, pool_scale=math.log(3))
    head.map_weight.data.fill_(2.0)
    pixels = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]]).unsqueeze(0)  # Along x, along y.
    features = BridgedFeatures((pixels,), torch.zeros(1, 1, 1), torch.tensor([[[5.0, 0.0], [1.0, 1.0]]]))
    logits = head(features, torch.tensor([[0.6, 0.8]]))
    # "x": weights 3 : 1, pooled (3, 1) / 4. "xy": equal weights, pooled (1, 1) / 2, its own direction.
    expected = [10 * (0.6 + 2 * 3 / math.sqrt(10)), 10 * (1.4 / math.sqrt(2) + 2)]
    torch.testing.assert_close(logits, torch.tensor([expected]))
    losses = head.loss(torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]), torch.tensor([1, 0]))
    assert losses['loss_cls'].item() == pytest.approx(0.5 * (math.log(4 / 3) + math.log(4)))
    assert losses['acc_cls'].item() == 50
    with pytest.raises(ValueError, match='two encoders of one CLIP'):
        NamePoolingHead([2], sentence_channels=3)
    with pytest.raises(ValueError, match='logit_scale=0 must be positive'):
        NamePoolingHead([2], logit_scale=0)


def test_a_class_is_the_best_of_its_names():
    vocabulary = Vocabulary.build([['sofa', 'couch'], 'dog', ['cat', 'kitten', 'puss']])
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0, -1.0, 5.0]])
    assert best_names(logits, vocabulary).tolist() == [[3.0, 2.0, 5.0]]
    model = build(classes=[['sofa', 'couch'], 'dog']).eval()
    with torch.no_grad():
        assert model(toy.randn(1, 3, 64, 64)).shape == (1, 2)


def test_few_classes_take_part_in_a_step():
    model = stirred(build(max_train_classes=2)).train()
    for _ in range(10):
        drawn = model._train_classes({2})
        assert len(drawn) == 2 and 2 in drawn and drawn == sorted(drawn)
    assert model._train_classes({0, 1, 3}) == [0, 1, 3]
    model.eval()  # Without dropout.
    images, labels = toy.randn(2, 3, 64, 64), [3, 1]
    logits, _ = model.class_logits(images, [1, 3])
    expected = F.cross_entropy(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(model.loss(images, samples_of(labels))['loss_cls'], expected)


def test_names_are_the_data_s_or_the_callers():
    model = build(classes=None, vocabulary=dict(templates=['the {}']))
    with pytest.raises(RuntimeError, match='classes are not known: add ClassNamesHook'):
        model.predict(toy.randn(1, 3, 64, 64))
    model.set_vocabulary(dict(classes=['x', 'y', 'z']))
    assert model.vocabulary.prompts == ['the x', 'the y', 'the z']
    assert len(model.eval().predict(toy.randn(1, 3, 64, 64))[0].pred_score) == 3
    with pytest.raises(ValueError, match='label 3 in the data, but the vocabulary has 3 classes'):
        model.loss(toy.randn(1, 3, 64, 64), samples_of([3]))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(classes=['dog']), 'needs at least two classes'),
        (dict(classes=['dog', 'cat', 'Dog']), "'Dog' stands for class 0 and again for class 2"),
        (dict(classes=['dog', ' ']), 'class 1 of the vocabulary has an empty name'),
        (dict(vocabulary=dict(background=0)), 'needs a name'),
        (dict(max_train_classes=1), 'at least 2'),
        (dict(prefix_cache=dict(dir='x')), 'cropped at random'),
        (dict(text_encoder=dict(type='CLIPTextEncoder')), 'need a ClassText'),
    ],
)
def test_models_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        toy.build(
            model_cfg(**{key: value for key, value in change.items() if key != 'text_encoder'})
            | {key: value for key, value in change.items() if key == 'text_encoder'}
        )


def test_encoders_that_have_no_zero_shot_answer():
    cfg = model_cfg()
    cfg['backbone']['tuning'] = dict(lora=dict(type='LoRA', places=['attention.q'], rank=2))
    tuned = dict(cfg, backbone=dict(cfg['backbone'], tuning=None, frozen=False))
    with pytest.raises(ValueError, match=r'image encoder custom is tuned.*with_zero_shot=False'):
        toy.build(tuned)
    model = toy.build(dict(tuned, with_zero_shot=False)).eval()
    assert 'zero_shot_logits' not in model.predict(toy.randn(1, 3, 64, 64))[0]
    cfg = dict(model_cfg(), backbone=toy.encoder_cfgs('dinov2')[0])
    with pytest.raises(ValueError, match='DINOv2ViT has no image feature of its own'):
        toy.build(cfg)


def write_pictures(folder, **counts):
    """Folders of grey pictures of 20 x 30 pixels, by the number of each."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(folder / name / f'{index}.png'), np.full((20, 30, 3), 50 * label + index, np.uint8))
    return folder


def dataset(folder, **kwargs):
    init_default_scope('mmetris')
    return DATASETS.build(dict(type='ClassFolderDataset', data_root=str(folder), **kwargs))


def labels_of(data):
    return [(Path(data[index]['img_path']).parent.name, data[index]['gt_label']) for index in range(len(data))]


def test_folders_are_classes(tmp_path):
    write_pictures(tmp_path / 'train', red_circle=2, Blue_square=1)
    (tmp_path / 'train/.cache').mkdir()
    (tmp_path / 'train/red_circle/more').mkdir()
    cv2.imwrite(str(tmp_path / 'train/red_circle/more/3.JPG'), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / 'train/red_circle/notes.txt').write_text('no picture')
    data = dataset(tmp_path, data_prefix='train')
    assert data.metainfo['classes'] == ('Blue square', 'red circle')
    assert labels_of(data) == [('Blue_square', 0), ('red_circle', 1), ('red_circle', 1), ('more', 1)]
    # In another order, by their own names or others; data_prefix and metainfo as in MMPretrain.
    prefix = dict(data_prefix=dict(img_path='train'))
    data = dataset(tmp_path, **prefix, metainfo=dict(classes=['red circle', 'blue square']))
    assert data.metainfo['classes'] == ('red circle', 'blue square')
    assert [label for _, label in labels_of(data)] == [0, 0, 0, 1]
    data = dataset(tmp_path, **prefix, classes=dict(red_circle='a red disc', blue_square='a box'))
    assert data.metainfo['classes'] == ('a red disc', 'a box')
    (tmp_path / 'classes.txt').write_text('red_circle: disc\n\nBlue_square\n')
    data = dataset(tmp_path, **prefix, classes=str(tmp_path / 'classes.txt'))
    assert data.metainfo['classes'] == ('disc', 'Blue square') and labels_of(data)[-1] == ('Blue_square', 1)
    unlabelled = dataset(tmp_path, **prefix, with_label=False)
    assert len(unlabelled) == 4 and 'gt_label' not in unlabelled[0]
    with_names = dataset(tmp_path, **prefix, with_label=False, classes=['x', 'y'])
    assert with_names.metainfo['classes'] == ('x', 'y')
    some = dataset(tmp_path, **prefix, classes=['red circle', 'blue square', 'star'], allow_empty=True)
    assert len(some) == 4 and len(some.metainfo['classes']) == 3


@pytest.mark.parametrize(
    ('counts', 'kwargs', 'message'),
    [
        (dict(), {}, 'has no folders'),
        (dict(a=0, b=0), {}, 'no images below'),
        (dict(a=1, b=0), {}, r'no images in .*b: remove the class'),
        (dict(a=1), {}, "has one class, 'a': whatever the picture"),
        (dict(a=1, A=1, b=1), {}, 'are folders of one class'),
        (dict(a=1, b=1), dict(classes=['a', 'b', 'c']), 'no folder for the classes c'),
        (dict(a=1, b=1, c=1), dict(classes=['a', 'b']), r'folders that are in no line of classes: .*c'),
        (dict(a=1, b=1), dict(classes=dict(a='dog', b='Dog')), "'Dog' stands for two classes"),
        (dict(a=1, b=1), dict(classes=dict(a='dog', b=' ')), 'empty name'),
        (dict(a=1, b=1), dict(ann_file='x.txt'), 'reads folders; leave it out'),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, counts, kwargs, message):
    write_pictures(tmp_path, **counts)
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, **kwargs)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder .*train'):
        dataset(tmp_path, data_prefix='train')
    write_pictures(tmp_path, a=1, b=1)
    with pytest.raises(FileNotFoundError, match=r'classes=.names\.txt. is no file'):
        dataset(tmp_path, classes='names.txt')
    (tmp_path / 'a/0.png').write_bytes(b'no picture')
    steps = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    with pytest.raises(ValueError, match=r'a/0\.png .*cannot be read as an image'):
        dataset(tmp_path, pipeline=steps)[0]


def test_images_are_prepared_as_clip_prepares_them(tmp_path):
    generator = np.random.default_rng(0)
    picture = cv2.resize(generator.integers(0, 256, (9, 14, 3), dtype=np.uint8), (331, 250))
    cv2.imwrite(str(tmp_path / 'x.png'), picture)
    init_default_scope('mmetris')
    cfg = Config.fromfile(CONFIGS / 'bridged_vitb16_folders.py')
    packed = Compose([TRANSFORMS.build(step) for step in cfg.test_pipeline])(dict(img_path=str(tmp_path / 'x.png')))
    preprocessor = MODELS.build(dict(type='RefSegDataPreProcessor', size_divisor=32))
    found = preprocessor(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]))['inputs'][0]
    expected = open_clip.image_transform(224, is_train=False)(Image.open(tmp_path / 'x.png'))
    assert found.shape == expected.shape == (3, 224, 224)
    # Half a step of 255 at most: one of them rounds to whole colours before the other.
    torch.testing.assert_close(found, expected, rtol=0, atol=1 / 255 / 0.26)


def test_crops_are_parts_of_the_image():
    crop = TRANSFORMS.build(dict(type='RandomResizedCrop', scale=(8, 16), crop_ratio_range=(0.2, 0.5)))
    np.random.seed(0)
    shares, aspects = [], []
    for _ in range(200):
        top, left, height, width = crop.draw(60, 90)
        assert 0 <= top <= 60 - height and 0 <= left <= 90 - width
        shares.append(height * width / 5400)
        aspects.append(width / height)
    assert 0.18 < min(shares) < 0.25 and 0.45 < max(shares) < 0.52
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.4
    assert crop(dict(img=np.zeros((60, 90, 3), np.uint8)))['img'].shape == (8, 16, 3)
    # A strip has no such part: its middle is taken.
    assert crop.draw(4, 200) == (0, 98, 4, 4)
    with pytest.raises(ValueError, match='crop_ratio_range'):
        TRANSFORMS.build(dict(type='RandomResizedCrop', scale=8, crop_ratio_range=(0.5, 0.2)))


def answered(label, logits, zero_shot=None, path='x.jpg'):
    (sample,) = samples_of([label])
    sample.set_metainfo(dict(img_path=path))
    sample.pred_logits = torch.tensor(logits, dtype=torch.float32)
    if zero_shot is not None:
        sample.zero_shot_logits = torch.tensor(zero_shot, dtype=torch.float32)
    return sample.to_dict()


# Ranks by hand: 0, 1, 2 (a tie that an earlier class wins), 0; of zero-shot CLIP 2, 0, 0, 1.
SCORED = [
    answered(0, [3, 1, 2], [0, 1, 2]),
    answered(1, [3, 2, 1], [0, 9, 2]),
    answered(2, [5, 1, 1], [0, 1, 2]),
    answered(2, [1, 2, 3], [3, 1, 2]),
]


def metric(**kwargs):
    init_default_scope('mmetris')
    built = METRICS.build(dict(type='ClassAccuracy', **kwargs))
    built.dataset_meta = dict(classes=('a', 'b', 'c'))
    return built


def test_scores_are_those_counted_by_hand():
    one = metric(topk=(1, 2, 5), held_out=['c'], per_class=True)
    one.process(None, SCORED)
    expected = {
        'accuracy/top1': 50,
        'accuracy/top1/held-out': 50,
        'accuracy/top1/seen': 50,
        'accuracy/top2': 75,
        'accuracy/top2/held-out': 50,
        'accuracy/top2/seen': 100,
        'zero-shot/top1': 50,
        'zero-shot/top1/held-out': 50,
        'zero-shot/top1/seen': 50,
        'zero-shot/top2': 75,
        'zero-shot/top2/held-out': 100,
        'zero-shot/top2/seen': 50,
        # Answers: a, a, a, c. Precision 1/3, 0 (never said), 1; recall 1, 0, 1/2.
        'single-label/precision': 100 * (1 / 3 + 0 + 1) / 3,
        'single-label/recall': 100 * (1 + 0 + 1 / 2) / 3,
        'single-label/f1-score': 100 * (1 / 2 + 0 + 2 / 3) / 3,
    }
    assert one.evaluate(4) == pytest.approx(expected)
    # A model that does not say what CLIP says.
    one = metric()
    one.process(None, [answered(0, [3, 1, 2])])
    assert one.evaluate(1) == {'accuracy/top1': 100}


def test_scores_of_nonsense_are_none():
    with pytest.raises(ValueError, match=r'x\.jpg: its logits are not finite'):
        metric().process(None, [answered(0, [float('nan'), 1, 2])])
    with pytest.raises(ValueError, match=r'x\.jpg has the label 3, but there are 3 classes'):
        metric().process(None, [answered(3, [0, 1, 2])])
    sample = answered(0, [0, 1])
    with pytest.raises(KeyError, match='has no gt_label; data need with_label=True'):
        metric().process(None, [{key: value for key, value in sample.items() if key != 'gt_label'}])
    with pytest.raises(ValueError, match="held_out=.'d'. of ClassAccuracy are no classes"):
        one = metric(held_out=['d'])
        one.process(None, SCORED)
        one.evaluate(4)
    with pytest.raises(ValueError, match='must be ranks from 1'):
        metric(topk=(0,))


@pytest.mark.processes
def test_scores_are_the_same_on_two_processes(tmp_path):
    def share():
        rank = int(os.environ['RANK'])
        torch.distributed.init_process_group('gloo')
        one = metric(held_out=['c'], per_class=True)
        # As DistributedSampler deals three images: every second one, and the first again where they do not suffice.
        one.process(None, [SCORED[index % 3] for index in range(rank, 4, 2)])
        torch.save(one.evaluate(3), tmp_path / f'{rank}.pth')

    assert kill_test.wait(kill_test.start(share, tmp_path / 'log.txt', processes=2)), (tmp_path / 'log.txt').read_text()
    alone = metric(held_out=['c'], per_class=True)
    alone.process(None, SCORED[:3])
    expected = alone.evaluate(3)
    assert expected['accuracy/top1'] == pytest.approx(100 / 3)
    assert all(torch.load(tmp_path / f'{rank}.pth', weights_only=False) == expected for rank in range(2))


def test_each_phase_has_its_own_classes(tmp_path):
    class OneRunner:
        def __init__(self, model, **classes):
            self.model = model
            for phase, names in classes.items():
                data = type('Data', (), dict(metainfo=dict(classes=names)))()
                setattr(self, f'{phase}_dataloader', type('Loader', (), dict(dataset=data))())

    init_default_scope('mmetris')
    hook, model = HOOKS.build(dict(type='ClassNamesHook')), build(classes=None)
    runner = OneRunner(model, train=('a', 'b'), val=('a', 'b', 'c'), test=())
    hook.before_train_iter(runner, 0)
    assert model.vocabulary.class_names == ('a', 'b')
    hook.before_val_epoch(runner)
    assert model.vocabulary.class_names == ('a', 'b', 'c')
    hook.before_train_iter(runner, 1)
    assert model.vocabulary.class_names == ('a', 'b')
    with pytest.raises(ValueError, match='test_dataloader has no classes'):
        hook.before_test_epoch(runner)
    # A model that was told keeps its own, for CLIP perhaps better, names.
    hook, model = HOOKS.build(dict(type='ClassNamesHook')), build(classes=['a', 'a bee'])
    hook.before_train_iter(OneRunner(model, train=('a', 'b')), 0)
    assert model.vocabulary.class_names == ('a', 'a bee')
    with pytest.raises(ValueError, match='the data set has 3 classes, the vocabulary 2'):
        hook.before_val_epoch(OneRunner(model, val=('a', 'b', 'c')))


def test_shapes_are_drawn_the_same_again(tmp_path):
    spec = FoldersSpec(num_train=50, num_val=57, num_test=0)
    assert write_folders(tmp_path / 'a', spec) and not write_folders(tmp_path / 'a', spec)
    assert write_folders(tmp_path / 'b', spec)
    files = [sorted(path.relative_to(folder) for path in folder.rglob('*.jpg')) for folder in tmp_path.iterdir()]
    assert files[0] == files[1] and len(files[0]) == 107
    assert all((tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes() for name in files[0])
    held_out = {name.replace(' ', '_') for name in HELD_OUT}
    assert {path.name for path in (tmp_path / 'a/train').iterdir()}.isdisjoint(held_out)
    assert held_out <= {path.name for path in (tmp_path / 'a/val').iterdir()}
    for index in range(20):
        scene, name = draw_picture(spec, 'val', index)
        (large,) = [one for one in scene.objects if one.size == 'large']
        assert name == f'{large.colour} {large.shape}' == CLASSES[index]
        assert 2 <= len(scene.objects) <= 4
    with pytest.raises(FileExistsError, match='--force'):
        write_folders(tmp_path / 'a', FoldersSpec(num_train=48))
    with pytest.raises(ValueError, match='are no classes of Shapes'):
        FoldersSpec(held_out=('grey dog',))
    with pytest.raises(ValueError, match='num_train=47 leaves classes without a picture: 0, or 48 at least'):
        FoldersSpec(num_train=47)


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_configs_build(path):
    cfg = Config.fromfile(path)
    assert all(cfg[f'{phase}_dataloader'].dataset.type == 'ClassFolderDataset' for phase in ('train', 'val', 'test'))
    init_default_scope('mmetris')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    tuned = {name.split('.')[0] for name, value in model.named_parameters() if value.requires_grad}
    assert tuned == ({'cls_head'} if 'no-bridger' in path.stem else {'neck', 'cls_head'})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The shipped config after one epoch on few pictures, and its last scores."""
    folder = tmp_path_factory.mktemp('trained')
    write_folders(folder / 'data', FoldersSpec(num_train=48, num_val=56, num_test=56))
    cfg = Config.fromfile(CONFIGS / 'bridged_tiny_shapes-classes.py')
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = str(folder / 'data')
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'work_dir': str(folder / 'work')})
    cfg.param_scheduler, cfg.experiment_name = [], folder.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return folder, cfg, runner.test()


def test_the_shipped_config_trains_and_is_scored_beside_clip(trained):
    folder, _, scores = trained
    assert {'accuracy/top1', 'accuracy/top5/held-out', 'zero-shot/top1', 'zero-shot/top1/seen'} <= scores.keys()
    # The tiny CLIP knows colours and shapes, and not that the large one is meant.
    assert 5 < scores['zero-shot/top1'] < 60
    assert list((folder / 'work').glob('best_accuracy_top1_epoch_1.pth'))


@pytest.mark.processes
def test_two_processes_train_and_score_as_one(trained, tmp_path):
    """The Bridger learns under DDP, and of 55 pictures, an odd number, none counts twice."""
    _, shipped, _ = trained
    cfg = shipped.copy()
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'work'), tmp_path.name
    cfg.train_dataloader.dataset.indices, cfg.train_dataloader.batch_size = 12, 3
    cfg.test_dataloader.dataset.indices = 55
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)  # As tools/train.py without a GPU.

    def share():
        torch.distributed.init_process_group('gloo')
        cfg.launcher = 'pytorch'
        runner = Runner.from_cfg(cfg)
        runner.train()
        torch.save(runner.test(), tmp_path / f'{os.environ["RANK"]}.pth')

    processes, log = kill_test.start(share, tmp_path / 'log.txt', processes=2), tmp_path / 'log.txt'
    assert kill_test.wait(processes, seconds=300), log.read_text()
    cfg.load_from, cfg.experiment_name = str(tmp_path / 'work/epoch_1.pth'), f'{tmp_path.name}_alone'
    expected = Runner.from_cfg(cfg).test()
    for rank in range(2):
        scores = torch.load(tmp_path / f'{rank}.pth', weights_only=False)
        assert {key: scores[key] for key in expected if '/' in key} == {
            key: value for key, value in expected.items() if '/' in key
        }


def test_any_names_can_be_asked_of_a_trained_model(trained):
    folder, cfg, _ = trained
    checkpoint = next((folder / 'work').glob('best_*.pth'))
    assert checkpoint.stat().st_size < 2e6  # Slim: CLIP's weights stay where they are.
    classifier = ImageClassificationInferencer(cfg, checkpoint, device='cpu')
    assert len(classifier.trained_classes) == 48
    paths = sorted((folder / 'data/val').glob('*/*.jpg'))[:3]
    first = classifier(paths)
    assert len(first[0].probabilities) == 48 and sum(first[0].probabilities.values()) == pytest.approx(1, abs=1e-4)
    # Names that no training saw, one of them of no Shapes at all; one picture alone says the same.
    found = classifier([str(path) for path in paths], ['red star', 'grey elephant', 'pink circle'], batch_size=2)
    assert list(found[0].probabilities) != [] and set(found[0].zero_shot) == {
        'red star',
        'grey elephant',
        'pink circle',
    }
    values = list(found[0].probabilities.values())
    assert values == sorted(values, reverse=True) and found[0].name == next(iter(found[0].probabilities))
    alone = classifier(cv2.imread(str(paths[2])), ['red star', 'grey elephant', 'pink circle'])[0]
    assert alone.probabilities == pytest.approx(found[2].probabilities, abs=1e-4)
    with pytest.raises(ValueError, match='at least two classes'):
        classifier(paths, ['red star'])
    with pytest.raises(ValueError, match='stands for class 0 and again for class 1'):
        classifier(paths, ['red star', 'Red star'])
