"""RefSegPredictor: a picture is encoded once; answers are the inferencer's."""

import numpy as np
import pytest

from mmetris.apis import RefSegInferencer, RefSegPredictor
from tests.toy_inference import picture, save_toy_model

TEXTS = ['the left dog', 'a cat', 'the tree behind the house']


@pytest.fixture(scope='module')
def model_files(tmp_path_factory):
    return save_toy_model(tmp_path_factory.mktemp('model'))


@pytest.fixture
def predictor(model_files):
    return RefSegPredictor(*model_files, device='cpu')


def test_the_image_is_encoded_once_for_any_number_of_questions(predictor, monkeypatch):
    """Neither the prefix as a whole nor any of its parts runs again."""
    runs = []
    for name in ('stem', 'stage'):
        function = getattr(predictor.model.backbone, name)
        monkeypatch.setattr(
            predictor.model.backbone,
            name,
            lambda *args, function=function, name=name: (
                runs.append((name, args[0] if name == 'stage' else None)),
                function(*args),
            )[1],
        )
    predictor.set_image(picture())
    assert runs == [('stem', None), ('stage', 1), ('stage', 2)]  # The first Bridger follows stage 2.
    runs.clear()
    predictor.predict(TEXTS[0])
    assert runs == [('stage', 3), ('stage', 4)]
    runs.clear()
    predictor.predict(TEXTS[1:])
    assert runs == [('stage', 3), ('stage', 4)]


def test_answers_are_exactly_the_inferencers(predictor, model_files):
    inferencer = RefSegInferencer(*model_files, device='cpu', show_progress=False)
    for seed, (height, width) in enumerate([(48, 80), (90, 31)]):
        image = picture(height, width, seed)
        predictor.set_image(image)
        assert predictor.image_hw == (height, width)
        for threshold in (None, 0.5):
            asked = predictor.predict(TEXTS, threshold, return_datasamples=True)
            expected = inferencer(image, TEXTS, threshold=threshold, return_datasamples=True)
            assert set(asked) == set(expected) - {'images', 'image_index'}
            for key in ('masks', 'probabilities', 'boxes'):
                assert all(np.array_equal(*pair) for pair in zip(asked[key], expected[key], strict=True))
            assert asked['scores'] == expected['scores'] and asked['is_empty'] == expected['is_empty']


def test_maps_of_another_size_lie_over_the_same_picture(predictor):
    """Each pixel of a map of a quarter of the size is the middle of the sixteen that it stands for."""
    predictor.set_image(picture(240, 400))
    exact = predictor.predict(TEXTS[0])['probabilities'][0].astype(float)
    found = predictor.predict(TEXTS[0], out_hw=(60, 100))
    assert found['masks'][0].shape == (60, 100) and found['boxes'][0].max() <= 100
    middles = (exact[1::4, 1::4] + exact[1::4, 2::4] + exact[2::4, 1::4] + exact[2::4, 2::4]) / 4
    off = np.abs(found['probabilities'][0] - middles)
    assert off[1:-1, 1:-1].max() < 0.02
    assert np.abs(found['probabilities'][0] - exact[::4, ::4]).max() > 2 * off.max(), 'a shift would be seen'
    assert predictor.predict(TEXTS[0])['masks'][0].shape == (240, 400)


def test_asking_again_and_in_another_order_changes_nothing(predictor):
    predictor.set_image(picture())
    first = predictor.predict(TEXTS, batch_size=1)
    again = predictor.predict(TEXTS[::-1], batch_size=1)
    assert all(np.array_equal(*pair) for pair in zip(first['probabilities'], again['probabilities'][::-1]))


def test_a_new_image_replaces_the_old_and_a_bad_one_leaves_none(predictor, tmp_path):
    with pytest.raises(RuntimeError, match='call set_image first'):
        predictor.predict('dog')
    predictor.set_image(picture(seed=1))
    one = predictor.predict('dog')['probabilities'][0]
    predictor.set_image(picture(seed=2))
    assert not np.array_equal(one, predictor.predict('dog')['probabilities'][0])
    with pytest.raises(FileNotFoundError):
        predictor.set_image(tmp_path / 'none.png')
    assert predictor.image_hw is None
    with pytest.raises(RuntimeError):
        predictor.predict('dog')
    predictor.set_image(picture())
    predictor.reset_image()
    assert predictor.image_hw is None


def test_an_inferencers_model_is_shared(model_files, predictor):
    inferencer = RefSegInferencer(*model_files, device='cpu', show_progress=False)
    assert RefSegPredictor(inferencer).model is inferencer.model


def test_it_computes_in_another_type(predictor, model_files):
    lowered = RefSegPredictor(*model_files, device='cpu', dtype='bfloat16')
    inferencer = RefSegInferencer(*model_files, device='cpu', show_progress=False, dtype='bfloat16')
    kinds = []
    lowered.model.decode_head.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    probs, plain = [], []
    for one, found in ((predictor, plain), (lowered, probs)):
        one.set_image(picture())
        found.extend(one.predict(TEXTS)['probabilities'])
    assert kinds[-1].itemsize == 2 and probs[0].dtype == np.float32
    assert all(map(np.array_equal, probs, inferencer(picture(), TEXTS)['probabilities']))
    assert 0 < np.abs(np.subtract(probs, plain)).max() < 0.1
    with pytest.raises(ValueError, match="dtype='half' must be one of"):
        RefSegPredictor(*model_files, device='cpu', dtype='half')
    with pytest.raises(ValueError, match='shared with an inferencer, so give it to that'):
        RefSegPredictor(inferencer, dtype='bfloat16')


def test_bad_sentences_and_thresholds_are_refused(predictor):
    predictor.set_image(picture())
    for texts in ('', [], ['a', ' ']):
        with pytest.raises(ValueError, match='the dog on the left'):
            predictor.predict(texts)
    with pytest.raises(ValueError, match='threshold'):
        predictor.predict('a', threshold=2)
