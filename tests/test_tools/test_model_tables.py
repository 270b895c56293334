"""Tables of READMEs are those of the metafiles, and the script that makes them does what its first lines say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'misc' / 'model_tables.py'


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('model_tables', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(name: str, parameters: dict | None = None, run_here: bool = False, table=None, **results: dict) -> dict:
    """An entry of a metafile; ``RefCOCO_val`` stands for the data set ``RefCOCO val``."""
    metadata = {'Encoder': 'CLIP ViT-B/16', 'Run Here': run_here, **(parameters or {})}
    if table is not None:
        metadata['Paper Table'] = table
    return dict(
        Name=name,
        Metadata=metadata,
        Results=[dict(Dataset=data.replace('_', ' '), Metrics=metrics) for data, metrics in results.items()],
    )


def write(folder: Path, models: list[dict], readme: str) -> Path:
    folder.mkdir()
    (folder / 'metafile.yml').write_text(yaml.safe_dump(dict(Models=models), sort_keys=False))
    (folder / 'README.md').write_text(readme)
    return folder / 'README.md'


@pytest.fixture
def readme(tmp_path) -> Path:
    """The README of tuning methods, say, beside a folder that has the model without them."""
    base = model('base_refcoco', {'Head Parameters': 23_981_569}, table=1, RefCOCO_val=dict(mIoU=67.73))
    write(tmp_path / 'base', [base], '<!-- models -->\n<!-- end of models -->\n')
    adapter = {'Backbone Parameters (M)': 2.39, 'Prompt Parameters (K)': 0.0, 'Head Parameters': 23_981_569}
    coop = {**adapter, 'Backbone Parameters (M)': 0.0, 'Prompt Parameters (K)': 4.1}
    rows = [
        model('adapter_refcoco', adapter, table='2, 8', RefCOCO_val={'mIoU': 69.46, 'Pr@0.5': 81.05}),
        model('coop_refcoco', coop, table=2, RefCOCO_val=dict(mIoU=67.87)),
    ]
    return write(
        tmp_path / 'tuning',
        rows,
        '# Methods\n\n<!-- models table="2" metrics="mIoU" also="base_refcoco" -->\n<!-- end of models -->\n\n'
        'Between.\n\n<!-- models table="8" -->\nstale\n<!-- end of models -->\nAfter.\n',
    )


def test_the_readmes_of_our_configs_are_not_stale():
    done = subprocess.run([sys.executable, SCRIPT, '--check'], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_folder_of_the_model_index_is_covered():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').glob('*/metafile.yml')} == {
        path for path in index if path.startswith('configs/')
    }


def test_columns_of_parameters_and_results_and_a_row_from_elsewhere(script, readme):
    assert (
        script.rewrite(readme)
        == """# Methods

<!-- models table="2" metrics="mIoU" also="base_refcoco" -->

| config | Backbone parameters (M) | Prompt parameters (K) | Head parameters | RefCOCO val mIoU |
| --- | --- | --- | --- | --- |
| `adapter_refcoco` | 2.39 | 0.00 | 23,981,569 | 69.46 |
| `coop_refcoco` | 0.00 | 4.10 | 23,981,569 | 67.87 |
| [`base_refcoco`](../base/README.md) | - | - | 23,981,569 | 67.73 |

**Not run here:** the results are the paper's.

<!-- end of models -->

Between.

<!-- models table="8" -->

| config | Backbone parameters (M) | Prompt parameters (K) | Head parameters | RefCOCO val mIoU | RefCOCO val Pr@0.5 |
| --- | --- | --- | --- | --- | --- |
| `adapter_refcoco` | 2.39 | 0.00 | 23,981,569 | 69.46 | 81.05 |

**Not run here:** the results are the paper's.

<!-- end of models -->
After.
"""
    )


def test_a_row_from_elsewhere_has_its_bridger_as_backbone_and_its_decoder_as_head(script):
    adapter = {'Backbone Parameters': 3, 'Prompt Parameters': 0, 'Head Parameters': 5}
    etris = model('etris', {'Bridger Parameters': 2, 'Decoder Parameters': 5}, A_val=dict(mIoU=1.5))
    table = script.make_table(dict(adapter=model('adapter', adapter, table='none')), dict(etris=('../x.md', etris)))
    assert '| `adapter` | 3 | 0 | 5 |\n| [`etris`](../x.md) | 2 | - | 5 |\n' in table
    assert table.endswith('**Not run here.**\n')  # There are no results that could be the paper's.


def test_a_stale_table_is_told_then_written_then_right(script, readme, capsys):
    before = readme.read_text()
    with pytest.raises(SystemExit) as ended:
        script.main(['--check', '--configs', str(readme.parents[1])])
    assert ended.value.code == 1 and readme.read_text() == before
    assert f'{readme}: stale' in capsys.readouterr().out
    script.main(['--configs', str(readme.parents[1])])
    assert '69.46' in readme.read_text()
    capsys.readouterr()
    script.main(['--check', '--configs', str(readme.parents[1])])
    assert capsys.readouterr().out == ''


def test_a_changed_figure_makes_the_table_stale(script, readme):
    script.main(['--configs', str(readme.parents[1])])
    metafile = readme.with_name('metafile.yml')
    metafile.write_text(metafile.read_text().replace('69.46', '69.47'))
    with pytest.raises(SystemExit):
        script.main(['--check', '--configs', str(readme.parents[1])])


def test_models_of_one_name_share_a_row_and_splits_a_column(script):
    models = [
        model('etris_r50_refcoco', RefCOCO_val=dict(mIoU=70.39), RefCOCO_testA=dict(mIoU=73.11)),
        model('etris_r50_refcocog_google', RefCOCOg_Google_val=dict(mIoU=57.22)),
        model('etris_vitl14_refcoco'),
        model('etris_vitb16_refcoco', RefCOCO_testA=dict(mIoU=73.51)),
    ]
    assert (
        script.make_table({one['Name']: one for one in models}, {})
        == """| config | RefCOCO val / testA mIoU | RefCOCOg Google val mIoU |
| --- | --- | --- |
| `etris_r50_*` | 70.39 / 73.11 | 57.22 |
| `etris_vitl14_refcoco` | - | - |
| `etris_vitb16_refcoco` | - / 73.51 | - |

**Not run here:** the results are the paper's.
"""
    )


def test_what_was_run_here_is_told_row_by_row_where_it_differs(script):
    ours, papers = model('ours', run_here=True, A_val=dict(mIoU=1)), model('papers', A_val=dict(mIoU=2.5))
    mixed = script.make_table(dict(ours=ours, papers=papers), {})
    assert '| config | A val mIoU | run here |' in mixed and 'Not run here' not in mixed
    assert '| `ours` | 1 | yes |' in mixed and '| `papers` | 2.50 | no |' in mixed
    assert 'run here' not in script.make_table(dict(ours=ours), {}).lower()


@pytest.mark.parametrize(
    'text, message',
    [
        ('# Methods\n', 'no table: write <!-- models -->'),
        ('<!-- models -->\n', 'no table'),
        ('<!-- models -->\n<!-- end of models -->\n<!-- models -->\n', 'must stand in pairs'),
        ('<!-- models -->\n<!-- models -->\n<!-- end of models -->\n', 'must stand in pairs'),
        ('<!-- models tables="2" -->\n<!-- end of models -->\n', "unknown option 'tables'"),
        ('<!-- models also="nothing" -->\n<!-- end of models -->\n', 'no metafile has the model nothing'),
        ('<!-- models table="3" -->\n<!-- end of models -->\n', 'no model belongs into the table'),
        ('<!-- models metrics="oIoU" -->\n<!-- end of models -->\n', 'no model has the metric oIoU'),
    ],
)
def test_mistakes_are_told_with_the_file(script, readme, text, message, capsys):
    readme.write_text(text)
    with pytest.raises(SystemExit) as ended:
        script.main(['--configs', str(readme.parents[1])])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and message in told and str(readme) in told


def test_models_that_share_a_row_agree_on_parameters(script):
    one, other = (
        model(f'm_{data}', {'Head Parameters': count}) for data, count in (('refcoco', 1), ('refcocoplus', 2))
    )
    with pytest.raises(ValueError, match='m_.* share a row'):
        script.make_table({'m_refcoco': one, 'm_refcocoplus': other}, {})


def test_a_metafile_without_a_readme_is_told(script, readme, capsys):
    readme.unlink()
    with pytest.raises(SystemExit):
        script.main(['--configs', str(readme.parents[1])])
    assert 'has no README.md beside it' in capsys.readouterr().err
