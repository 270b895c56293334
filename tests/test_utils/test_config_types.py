"""A part's type by its name, whether a config writes names (of text) or classes (pure Python)."""

from __future__ import annotations

import pytest
from mmengine.config import Config, ConfigDict

from mmetris.datasets.pipelines import adapted
from mmetris.datasets.transforms import Letterbox, TokenizeExpression
from mmetris.models import BridgedBackbone, ClassNameSegmentor, ReferringSegmentor
from mmetris.registry import MODELS
from mmetris.utils.config_types import class_of, is_kind_of, type_name

# What `read_base` makes of a config of text is such a config; the classes are imported as the last lines are read.
PURE = """
from mmengine.config import read_base

with read_base():
    from .base import *
from mmengine.optim import OptimWrapper

from mmetris.datasets.transforms import Letterbox, TokenizeExpression
from mmetris.models import ReferringSegmentor

model = dict(type=ReferringSegmentor)
optim_wrapper = dict(type=OptimWrapper)
test_pipeline = [dict(type=Letterbox, size=(64, 64)), dict(type=TokenizeExpression, context_length=9)]
"""


@pytest.fixture
def pure(tmp_path) -> Config:
    (tmp_path / 'base.py').write_text("default_scope = 'mmetris'\n")
    (tmp_path / 'pure.py').write_text(PURE)
    return Config.fromfile(tmp_path / 'pure.py')


def test_names_and_classes_have_the_same_name(pure):
    for kind in ('Letterbox', 'mmetris.Letterbox', 'mmetris.datasets.transforms.Letterbox', Letterbox):
        assert type_name(kind) == type_name(dict(type=kind)) == type_name(ConfigDict(type=kind)) == 'Letterbox'
    assert [type_name(step) for step in pure.test_pipeline] == ['Letterbox', 'TokenizeExpression']
    assert type_name(pure.model) == 'ReferringSegmentor' and type_name(pure.optim_wrapper) == 'OptimWrapper'


def test_what_has_no_type_has_no_name():
    assert type_name(None) == type_name({}) == type_name(dict(type=None)) == ''
    assert type_name(dict(type=toy_function)) == 'toy_function'  # MMEngine builds from functions too.


def toy_function() -> None:
    """Something that a config may name as a type."""


def test_a_kind_is_that_of_the_class_or_of_one_that_it_is_derived_from(pure):
    class Derived(ReferringSegmentor):
        pass

    assert is_kind_of(pure.model, ReferringSegmentor, MODELS) and class_of(pure.model, MODELS) is ReferringSegmentor
    for kind in ('ReferringSegmentor', 'mmetris.ReferringSegmentor', ReferringSegmentor, Derived):
        assert is_kind_of(dict(type=kind), ReferringSegmentor, MODELS)
        assert not is_kind_of(dict(type=kind), ClassNameSegmentor, MODELS)
    assert not is_kind_of(dict(type=BridgedBackbone), ReferringSegmentor, MODELS)
    for kind in ('NoSuchModel', toy_function):
        assert not is_kind_of(dict(type=kind), ReferringSegmentor, MODELS)


def test_pipelines_of_classes_are_adapted():
    steps = [dict(type=Letterbox, size=(416, 416)), dict(type=TokenizeExpression, context_length=17)]
    base = dict(train_pipeline=steps, test_pipeline=steps, tta_pipeline=steps)
    for pipeline in adapted(base, input_size=(64, 96), context_length=9):
        assert pipeline[0] == dict(type=Letterbox, size=(64, 96))
        assert pipeline[1] == dict(type=TokenizeExpression, context_length=9)
