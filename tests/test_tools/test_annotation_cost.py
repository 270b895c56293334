"""The script that measures what annotations and masks cost."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmetris.datasets import RefCocoDataset, refer
from tests.quiet_start import assert_quiet
from tests.warm_process import run_script

ROOT = Path(__file__).parents[2]
SCRIPT = 'tools/analysis_tools/annotation_cost.py'


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('annotation_cost', ROOT / SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def source(script, tmp_path_factory):
    return script.write_annotations(tmp_path_factory.mktemp('made_up'), images=20, annotations=200, refs=100)


def test_the_made_up_files_have_refcoco_s_shares(source):
    refs = refer.load_refs(f'{source["data_root"]}/{source["split_file"]}')
    counts = refer.count_split(refs)
    # RefCOCO's shares: 84.8, 7.6, 4.0 and 3.6 percent.
    assert {split: objects for split, (objects, _, _) in counts.items()} == dict(train=85, val=8, testA=4, testB=3)
    assert 250 < sum(sentences for _, sentences, _ in counts.values()) < 350
    assert len({ref['ann_id'] for ref in refs}) == 100
    instances = refer.load_instances(f'{source["data_root"]}/{source["ann_file"]}')
    outlines = [annotation['segmentation'][0] for annotation in instances.annotations.values()]
    assert 23 < np.mean([len(outline) / 2 for outline in outlines]) < 27
    assert {annotation['image_id'] for annotation in instances.annotations.values()} == set(range(20))


def test_the_same_files_come_out_each_time(script, source, tmp_path):
    script.write_annotations(tmp_path, images=20, annotations=200, refs=100)
    for name in ('instances.json', 'refs(mine).p'):
        assert (tmp_path / name).read_bytes() == (Path(source['data_root']) / name).read_bytes()


def test_every_made_up_object_has_a_mask(source):
    dataset = RefCocoDataset(**source)
    areas = [coco_mask.area(dataset.get_data_info(idx)['segmentation']) for idx in range(len(dataset))]
    assert len(areas) == 85 and min(areas) > 0


def test_reading_is_measured(script, source, monkeypatch):
    monkeypatch.setattr(refer, '_load_json', refer._load_json)  # Put back after the test.
    figures = script.read_once(source, 'json')
    assert refer._load_json is json.loads
    assert figures['objects'] == 85 and figures['record_bytes'] == RefCocoDataset(**source).data_bytes.nbytes
    assert figures['read_seconds_json'] > 0 and figures['read_peak_bytes_json'] >= 0


def test_masks_are_timed_in_both_forms(script, source, monkeypatch):
    loaded = []

    class Load(script.LoadAnnotations):
        def transform(self, results):
            results = super().transform(results)
            loaded.append((type(results['segmentation']), results['gt_seg_map']))
            return results

    monkeypatch.setattr(script, 'LoadAnnotations', Load)
    figures = script.time_masks(source, masks=7)
    assert set(figures) == {'draw_seconds', 'rle_us', 'polygon_us'} and min(figures.values()) > 0
    # In each round the same masks come first from RLE, then from polygons.
    assert [kind for kind, _ in loaded] == ([dict] * 7 + [list] * 7) * script.TURNS
    for (_, from_rle), (_, from_polygons) in zip(loaded[:7], loaded[7:14]):
        np.testing.assert_array_equal(from_rle, from_polygons)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--images', '0'], '--images 0: at least 1'),
        (['--repeats', '-3'], '--repeats -3: at least 1'),
        (['--annotations', '5', '--refs', '6'], '--refs 6: at most one for each of the 5 annotations'),
    ],
)
def test_impossible_numbers_end_with_one_line(script, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, 'argv', [SCRIPT, *arguments])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.processes
def test_the_command_prints_every_figure_in_json():
    result = run_script(SCRIPT, '--images', 3, '--annotations', 9, '--refs', 6, '--json')
    assert result.returncode == 0, result.stderr
    assert_quiet(result.stdout + result.stderr)
    figures = json.loads(result.stdout.splitlines()[-1])
    assert (figures['images'], figures['annotations'], figures['refs'], figures['objects']) == (3, 9, 6, 6)
    assert {
        'instances_bytes',
        'refs_bytes',
        'record_bytes',
        'read_seconds_json',
        'read_peak_bytes_json',
        'draw_seconds',
        'rle_us',
        'polygon_us',
    } <= set(figures)
    assert all(value > 0 for value in figures.values())
