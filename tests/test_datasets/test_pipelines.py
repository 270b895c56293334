"""Pipelines of a base config for another size and length."""

import pytest

from mmetris.datasets.pipelines import adapted

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
BASE = dict(
    train_pipeline=[LOAD, dict(type='Letterbox', size=(416, 416)), dict(type='TokenizeExpression', context_length=17)],
    test_pipeline=[dict(type='Letterbox', size=(416, 416), border=1), PACK],
    tta_pipeline=[
        dict(type='TokenizeExpression', context_length=17),
        dict(type='TestTimeAug', transforms=[[dict(type='Letterbox', size=(384, 384))], [LOAD], [PACK]]),
    ],
)


def test_every_letterbox_gets_the_size_and_test_time_augmentation_three_around_it():
    train, test, tta = adapted(BASE, input_size=(64, 96), tta_step=16)
    assert train[1]['size'] == (64, 96) and test[0] == dict(type='Letterbox', size=(64, 96), border=1)
    assert [step['size'] for step in tta[1]['transforms'][0]] == [(48, 80), (64, 96), (80, 112)]
    assert tta[1]['transforms'][1:] == [[LOAD], [PACK]] and train[2]['context_length'] == 17
    assert BASE['train_pipeline'][1]['size'] == (416, 416)


def test_every_tokenizer_gets_the_length_and_sizes_stay():
    train, test, tta = adapted(BASE, context_length=22)
    assert train[2]['context_length'] == tta[0]['context_length'] == 22
    assert train[1]['size'] == (416, 416) and len(tta[1]['transforms'][0]) == 1


def test_a_base_without_them_is_named():
    with pytest.raises(KeyError, match='no test_pipeline and no tta_pipeline'):
        adapted(dict(train_pipeline=[]))
