"""docs/inference.md: its Python runs, its commands are those of the command line."""

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmetris.apis import init_model, model_zoo
from mmetris.cli import mmetris_command, run
from mmetris.datasets.shapes import draw_sample, render
from mmetris.models.encoders.slim_checkpoint import slim_state_dict
from tests.test_projects.test_classification_inference import save as save_classifier
from tests.toy_inference import ROOT, picture
from tests.toy_videos import write_video

GUIDE = (ROOT / 'docs' / 'inference.md').read_text(encoding='utf-8')


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', GUIDE, re.DOTALL)


def test_its_python_runs_from_top_to_bottom_with_the_model_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not (ROOT / model_zoo.DEMO_WEIGHTS).is_file():  # Random weights over the shipped CLIP stand for those to come.
        model = init_model(model_zoo.find_model(weights=__file__).config, device='cpu')
        state = dict(model.state_dict())
        slim_state_dict(model, state)
        torch.save(dict(state_dict=state), tmp_path / 'demo.pth')
        monkeypatch.setattr(model_zoo, 'DEMO_WEIGHTS', str(tmp_path / 'demo.pth'))
    Image.fromarray(picture(64, 80)).save('picture.png')
    write_video(tmp_path / 'clip.mp4', number=3)
    (tmp_path / 'folder').mkdir()
    Image.fromarray(picture(50, 50, 1)).save('folder/other.png')
    save_classifier(tmp_path / 'work_dirs/bridged_vitb16_folders')
    (tmp_path / 'photos').mkdir()
    for seed, name in enumerate(['photo.jpg', 'photos/first.jpg', 'photos/second.jpg']):
        Image.fromarray(picture(seed=seed)).save(name)
    assert len(blocks('python')) >= 5
    names: dict = {}
    for block in blocks('python'):
        exec(compile(block, 'docs/inference.md', 'exec'), names)
    assert (tmp_path / 'results' / 'predictions.json').is_file() and names['labels'].shape == (64, 80)
    assert names['report'] == (3, 2, False) and (tmp_path / 'found.mp4').is_file()
    assert names['one'].image.endswith('second.jpg') and set(names['one'].probabilities) == {'cat', 'dog', 'sofa'}


def test_the_first_command_works_as_it_stands_here_and_in_the_readme(tmp_path, monkeypatch, capsys):
    if not (ROOT / model_zoo.DEMO_WEIGHTS).is_file():
        pytest.skip('the weights of the demo model are not in this copy')
    command = blocks('bash')[0].strip()
    assert f'```bash\n{command}\n```' in (ROOT / 'README.md').read_text(encoding='utf-8')
    (tmp_path / 'demo').symlink_to(ROOT / 'demo')
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        run(mmetris_command, shlex.split(command)[1:])
    out, err = capsys.readouterr()
    assert err.startswith('warning: the model that ships') and err.count('\n') == 1 and Path('found.png').is_file()
    scores = [float(score) for score in re.findall(r'score ([\d.]+),', out)]
    assert len(scores) == 2 and min(scores) > 0.7
    scene = draw_sample(7, 'testA', 4)[0]
    assert np.array_equal(np.asarray(Image.open('demo/shapes.png')), render(scene)[0])


def test_its_commands_are_parsed_by_the_commands_they_name():
    lines = [line for block in blocks('bash') for line in block.split('\n') if line.startswith('mmetris ')]
    assert len(lines) >= 6
    for line in lines:
        _, name, *arguments = shlex.split(line, comments=True)
        mmetris_command.commands[name].make_context(name, arguments)
