"""Whether the classes of the data are those that the model looks for."""

from types import SimpleNamespace

import pytest

from mmetris.engine.hooks import VocabularyCheckHook
from mmetris.structures.vocabulary import Vocabulary

NAMES = ['sky', 'sofa', 'dog']


def loader(classes):
    return SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))


def runner(train=NAMES, val=NAMES, test=NAMES, vocabulary=NAMES):
    model = SimpleNamespace(vocabulary=vocabulary and Vocabulary.build(vocabulary))
    return SimpleNamespace(
        model=model,
        train_dataloader=loader(train),
        val_dataloader=loader(val),
        test_dataloader=loader(test),
        val_loop=True,
    )


def run_all(runner):
    hook = VocabularyCheckHook()
    hook.before_train(runner)
    hook.before_val(runner)
    hook.before_test(runner)


def test_the_same_classes_pass():
    run_all(runner())


def test_a_model_without_a_vocabulary_and_data_without_classes_pass():
    run_all(runner(vocabulary=None, train=['anything']))
    run_all(runner(train=None, val=None, test=None))


@pytest.mark.parametrize('phase', ['train', 'val', 'test'])
@pytest.mark.parametrize(
    'classes, message',
    [
        (['sky', 'sofa'], 'the data set has 2 classes, the vocabulary 3'),
        (['sofa', 'sky', 'dog'], "'sofa' is class 0 of the data set, but 1 of the vocabulary"),
    ],
)
def test_labels_that_mean_something_else_stop_the_run(phase, classes, message):
    with pytest.raises(ValueError, match=f'{phase}_dataloader.*{message}'):
        run_all(runner(**{phase: classes}))


def test_a_validation_that_would_fail_stops_the_training_at_its_start():
    with pytest.raises(ValueError, match='val_dataloader'):
        VocabularyCheckHook().before_train(runner(val=['sky', 'sofa']))


def test_other_wordings_are_logged(monkeypatch):
    logged = []
    monkeypatch.setattr('mmetris.engine.hooks.vocabulary_check_hook.print_log', lambda text, **_: logged.append(text))
    VocabularyCheckHook().before_test(runner(test=['sky-other', 'sofa', 'dog']))
    assert logged == ["1 classes are named otherwise in the test data: 0: 'sky-other' there, 'sky' here"]


def test_it_looks_through_the_wrapper_of_test_time_augmentation():
    wrapped = runner(test=['sky', 'sofa'])
    wrapped.model = SimpleNamespace(module=wrapped.model)
    with pytest.raises(ValueError, match='test_dataloader'):
        VocabularyCheckHook().before_test(wrapped)
