"""A handful of real photographs, learnt by heart: people told apart by sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.test_tools.test_tools import TOOLS, run

PHOTOS = Path(os.environ.get('MMETRIS_SHARED', Path(__file__).parents[3] / 'shared')) / 'photos'


@pytest.mark.processes
@pytest.mark.skipif(not PHOTOS.is_dir(), reason='the photographs beside the repository are missing')
def test_a_model_learns_three_photographs_by_heart(tmp_path):
    output = run(
        'bash',
        TOOLS / 'dist_train.sh',
        'configs/etris/etris_tiny_few-photos_refcoco.py',
        2,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'val_dataloader.dataset.split=train',
        REFER_ROOT=f'{PHOTOS}/',
        timeout=900,
    )
    scores = re.findall(r'Epoch\(val\).* mIoU: ([\d.]+) .*samples: (\d+)', output)
    assert scores[-1][1] == '22' and float(scores[-1][0]) >= 85
