"""Where data sets come from, for the message that one is not there."""

from __future__ import annotations

import os.path
from types import TracebackType
from typing import Any

from mmengine.dataset import BaseDataset

from mmetris.package import find_root

from .refer import REFER_URL, published_name

COCO_TRAIN2014 = 'http://images.cocodataset.org/zips/train2014.zip'
# Copies of REFER's files, whose own host is down (docs/data.md).
_ARCHIVE = 'https://web.archive.org/web/{}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{}.zip'
REFER_ZIPS = {
    name: _ARCHIVE.format(time, name)
    for name, time in (('refcoco', 20220413011718), ('refcoco+', 20220413011656), ('refcocog', 20220413012904))
}
# Class of a data set -> the page that tells where its files are.
PAGES = dict(
    GRefCocoDataset='https://github.com/henghuiding/gRefCOCO',
    RefZomDataset='https://github.com/toggle1995/RIS-DMMI',
    RefClefDataset=REFER_URL,
    RRSISDDataset='https://github.com/Lsan2401/RMSIN',
    RefSegRSDataset='https://github.com/zhu-xlab/rrsis',
    PhraseCutDataset='https://github.com/ChenyunWu/PhraseCutDataset',
    RefCocoMDataset='https://huggingface.co/datasets/moondream/refcoco-m',
)
MMSEG_PAGE = 'https://mmsegmentation.readthedocs.io/en/latest/user_guides/2_dataset_prepare.html'
_SHAPES_SCRIPT = 'tools/dataset_tools/make_shapes.py'


def how_to_get(dataset: BaseDataset) -> str | None:
    """From where the files of a data set come and where they go, in a sentence; None if nobody but its user knows.

    Args:
        dataset: A data set, which need not have been read.
    """
    kind, root = type(dataset).__name__, dataset.data_root or ''
    if os.path.basename(os.path.normpath(root)).startswith('shapes'):  # As our configs call what that script draws.
        root_of_script = None if os.path.isfile(_SHAPES_SCRIPT) else find_root(_SHAPES_SCRIPT)
        script = _SHAPES_SCRIPT if root_of_script is None else str(root_of_script / _SHAPES_SCRIPT)
        more = ' --num-train 10800' if root.rstrip('/').endswith('shapes_large') else ''  # docs/shapes.md
        layout = dict(ShapesSegDataset=' --layout semseg', GRefCocoDataset=' --layout grefcoco').get(kind, '')
        return f'"python {script} {os.path.normpath(root)}{layout}{more}" draws this data set'
    if kind in PAGES:
        return f'its files: {PAGES[kind]}, and where each goes: docs/data.md'
    split_file = getattr(dataset, 'split_file', None)
    published = None if split_file is None else published_name(split_file)
    if published is not None:
        place, images = os.path.dirname(dataset.ann_file), dataset.data_prefix.get('img_path')
        return f'{REFER_ZIPS[published[0]]} goes into {place}/, {COCO_TRAIN2014} into {images} (docs/data.md)'
    if type(dataset).__module__.startswith('mmseg.'):
        return f'its files, and how they are laid out: {MMSEG_PAGE}'
    return None


def how_to_get_missing(error: BaseException) -> str | None:
    """:func:`how_to_get` of the data set that raised an error, if one did.

    Args:
        error: As it was caught.
    """
    found: Any = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        owner = step.tb_frame.f_locals.get('self')
        found = owner if isinstance(owner, BaseDataset) else found
        step = step.tb_next
    return None if found is None else how_to_get(found)
