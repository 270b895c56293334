"""Data sets in REFER's layout on other images than COCO's; :class:`RefCocoDataset` with their places for files."""

from __future__ import annotations

from typing import Any

from ..registry import DATASETS
from .refcoco import RefCocoDataset


@DATASETS.register_module()
class RefClefDataset(RefCocoDataset):
    """RefCLEF (ReferItGame; Kazemzadeh et al., 2014) as REFER publishes it, on images of IAPR TC-12.

    Splits of ``refs(unc).p`` are 'train', 'val', 'testA', 'testB' and 'testC', of ``refs(berkeley).p`` 'train', 'val'
    and 'test'; an object of 'testAB' is in 'testA' and in 'testB'. A mask is a list of RLEs.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: Annotations of the images. Defaults to ``'refclef/instances.json'``.
        split_file: REFER's list of objects and sentences. Defaults to ``'refclef/refs(unc).p'``.
        data_prefix: Folder of the images. Defaults to ``dict(img_path='images/saiapr_tc-12/')``.
        **kwargs: The other arguments of :class:`RefCocoDataset`.

    Raises:
        FileNotFoundError, ValueError: See :class:`RefCocoDataset`.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'refclef/instances.json',
        split_file: str = 'refclef/refs(unc).p',
        data_prefix: dict = dict(img_path='images/saiapr_tc-12/'),  # noqa: B006  BaseDataset copies it
        **kwargs: Any,
    ) -> None:
        super().__init__(data_root, ann_file=ann_file, split_file=split_file, data_prefix=data_prefix, **kwargs)


@DATASETS.register_module()
class RRSISDDataset(RefCocoDataset):
    """RRSIS-D (Liu et al., "Rotated Multi-Scale Interaction Network for Referring Remote Sensing Image Segmentation",
    2024): aerial images of 800 x 800 pixels.

    Splits are 'train', 'val' and 'test'; each object has one sentence, and as mask a list of one RLE.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: Annotations of the images. Defaults to ``'rrsisd/instances.json'``.
        split_file: List of objects and sentences. Defaults to ``'rrsisd/refs(unc).p'``.
        data_prefix: Folder of the images. Defaults to ``dict(img_path='images/rrsisd/JPEGImages/')``.
        **kwargs: The other arguments of :class:`RefCocoDataset`.

    Raises:
        FileNotFoundError, ValueError: See :class:`RefCocoDataset`.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'rrsisd/instances.json',
        split_file: str = 'rrsisd/refs(unc).p',
        data_prefix: dict = dict(img_path='images/rrsisd/JPEGImages/'),  # noqa: B006  BaseDataset copies it
        **kwargs: Any,
    ) -> None:
        super().__init__(data_root, ann_file=ann_file, split_file=split_file, data_prefix=data_prefix, **kwargs)
