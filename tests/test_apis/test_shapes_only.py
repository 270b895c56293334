"""What is said of the model that ships, and which pictures are like those that it was trained on."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmetris.apis import RefSegInferencer, RefSegPredictor, model_zoo
from mmetris.apis.shapes_only import NOTE, ShapesNotes, look_of, looks_drawn, notes_for
from mmetris.datasets.shapes import draw_sample, render
from tests.toy_inference import ROOT, picture

PHOTOS = ROOT.parent / 'shared' / 'photos' / 'train2014'


def drawn(seed: int, split: str, index: int, quality: int = 95) -> np.ndarray:
    """A scene as it is read from its file, BGR."""
    image = render(draw_sample(seed, split, index)[0])[0]
    return cv2.imdecode(
        cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
    )


@pytest.mark.parametrize('split', ['train', 'testB'])
def test_scenes_that_were_not_used_to_set_the_limits_look_drawn(split):
    images = [drawn(11, split, index) for index in range(40)]
    assert all(map(looks_drawn, images))
    enlarged = cv2.resize(images[0], None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    assert looks_drawn(enlarged) and looks_drawn(drawn(11, split, 0, quality=75))


def test_photographs_do_not():
    if not PHOTOS.is_dir():
        pytest.skip('the photographs are not beside this copy')
    photos = [cv2.imread(str(file)) for file in sorted(PHOTOS.glob('*.jpg'))]
    quarters = [
        half for photo in photos for part in np.array_split(photo, 2) for half in np.array_split(part, 2, axis=1)
    ]
    assert len(photos) == 4 and not any(looks_drawn(image) for image in photos + quarters)


@pytest.mark.parametrize(
    ('image', 'shares'),
    [
        (np.full((6, 8, 3), 120, np.uint8), (1, 1, 1)),
        (np.full((1, 1, 3), 120, np.uint8), (1, 1, 1)),
        (np.full((300, 200, 3), 250, np.uint8), (0, 0, 1)),
        (np.full((6, 8, 3), (60, 120, 180), np.uint8), (0, 0, 1)),
        # Rows 0 and 1 dull, 2 and 3 black: of 16 pixels 8, of the border's 4 + 4 + 4 + 4 again 8, of 24 pairs 20 flat.
        (np.repeat(np.array([120, 120, 0, 0], np.uint8), 12).reshape(4, 4, 3), (8 / 16, 8 / 16, 20 / 24)),
    ],
)
def test_the_shares_counted_by_hand(image, shares):
    assert look_of(image) == pytest.approx(shares)
    assert looks_drawn(image) == (shares == (1, 1, 1))


def test_inferencer_and_predictor_say_it_of_each_picture_and_warn_once():
    if not (ROOT / model_zoo.DEMO_WEIGHTS).is_file():
        pytest.skip('the weights of the demo model are not in this copy')
    with pytest.warns(UserWarning, match='knows drawn shapes only') as caught:
        inferencer = RefSegInferencer(device='cpu', show_progress=False)
    assert [Path(warning.filename).name for warning in caught if str(warning.message) == NOTE] == [Path(__file__).name]
    scene, other = drawn(7, 'testA', 0), picture()
    with pytest.warns(UserWarning, match='^image_1 is unlike the drawn pictures') as caught:
        result = inferencer([scene, other, other], ['the ring', 'the heart'])
        maps = inferencer.label_maps([other], 'circle')
    assert len([warning for warning in caught if 'unlike' in str(warning.message)]) == 1
    assert result['notes'][0] == NOTE and 'image_1' in result['notes'][1] and 'image_2' in result['notes'][2]
    assert all(NOTE in note for note in result['notes']) and 'mean nothing' in maps['notes'][0]
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # The model is the inferencer's, which has said it.
        predictor = RefSegPredictor(inferencer)
        assert predictor.note is None
        predictor.set_image(scene)
        assert predictor.note == NOTE and predictor.predict('the ring')['notes'] == [NOTE]
        predictor.set_image(other)
        assert 'the image is unlike' in predictor.note
        predictor.reset_image()
        assert predictor.note is None


def test_nothing_is_said_of_another_model(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert notes_for(tmp_path / 'best.pth') is None
    with pytest.warns(UserWarning, match='drawn shapes'):
        assert isinstance(notes_for(ROOT / 'pretrained' / '..' / model_zoo.DEMO_WEIGHTS), ShapesNotes)
