"""The script that times class counts."""

import importlib.util
from pathlib import Path

from tests import toy

SCRIPT = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'class_count_cost.py'


def test_every_number_of_classes_is_timed():
    spec = importlib.util.spec_from_file_location('class_count_cost', SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    cfg = toy.model_cfg() | dict(type='ClassNameSegmentor', vocabulary=dict(classes='voc'))
    cfg['text_encoder']['type'] = 'ClassText'
    model = toy.build(cfg).eval()
    times = script.time_vocabularies(model, toy.randn(1, 3, 64, 64), [2, 7], repeats=2)
    assert len(times) == 2 and all(value > 0 for value in times)
    assert model.out_channels == 7
