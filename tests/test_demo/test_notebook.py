"""The notebook of demo/ runs from top to bottom, and its saved outputs are what it prints."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mmetris.apis import model_zoo

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / 'demo' / 'first_steps.ipynb'
nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')


def printed(notebook) -> list[str]:
    """What its cells print."""
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    return [output.text for output in outputs if output.output_type == 'stream' and output.name == 'stdout']


@pytest.mark.processes
def test_the_notebook_runs_and_shows_what_is_saved_in_it(monkeypatch):
    if not (ROOT / model_zoo.DEMO_WEIGHTS).is_file():
        pytest.skip('the weights of the demo model are not in this copy')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    saved = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(saved)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    place = dict(metadata=dict(path=str(NOTEBOOK.parent)))
    nbclient.NotebookClient(fresh, timeout=600, coalesce_streams=True, resources=place).execute()
    assert not [output for cell in fresh.cells for output in cell.get('outputs', []) if output.output_type == 'error']
    found, kept = printed(fresh), printed(saved)
    # Answers to the pixel and the count of parameters; a training may differ from machine to machine.
    assert found[:-1] == kept[:-1] and len(found) == len(kept) == 5
    losses = [float(value) for value in re.findall(r'loss ([\d.]+)', found[-1])]
    assert len(losses) == 3 and losses[-1] < 0.2 * losses[0]
    pictures = [
        output for cell in fresh.cells for output in cell.get('outputs', []) if 'image/png' in output.get('data', {})
    ]
    assert len(pictures) == 2


def test_no_path_or_name_of_a_machine_is_saved_in_it():
    text = NOTEBOOK.read_text(encoding='utf-8')
    assert '/home/' not in text and str(ROOT) not in text and '/site-packages/' not in text
