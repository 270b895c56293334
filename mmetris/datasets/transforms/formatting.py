"""Packing of a sample for the model."""

from __future__ import annotations

from collections.abc import Sequence

import mmseg.datasets.transforms as mmseg_transforms
import torch
from mmengine.structures import InstanceData

from ...registry import TRANSFORMS
from ...structures import RefDataSample

# What MMSeg packs by default, and what a referring sample cannot do without.
MMSEG_META_KEYS = (
    'img_path',
    'seg_map_path',
    'ori_shape',
    'img_shape',
    'pad_shape',
    'scale_factor',
    'flip',
    'flip_direction',
    'reduce_zero_label',
)
REF_META_KEYS = (
    'sample_idx',
    'sample_name',
    'img_id',
    'ref_id',
    'ann_id',
    'sent_id',
    'expression',
    'no_target',
    'letterbox',
)


@TRANSFORMS.register_module()
class PackSegInputs(mmseg_transforms.PackSegInputs):
    """MMSeg's packing into a :class:`~mmetris.structures.RefDataSample`.

    Stands in for the transform of the same name in standard pipelines. ``tokens`` become a data field, ``gt_bboxes``
    the ``bboxes`` of ``gt_instances``; ids,
    expression and letterbox are always packed where present, as metric and prediction need them.

    Args:
        meta_keys: Keys to pack as meta information besides those. Defaults to MMSeg's.
    """

    def __init__(self, meta_keys: Sequence[str] = MMSEG_META_KEYS) -> None:
        super().__init__(meta_keys=(*meta_keys, *(key for key in REF_META_KEYS if key not in meta_keys)))

    def transform(self, results: dict) -> dict:
        """Pack ``inputs`` (3, H, W) and ``data_samples``."""
        packed = super().transform(results)
        sample = RefDataSample(metainfo=packed['data_samples'].metainfo)
        sample.set_data(dict(packed['data_samples'].items()))
        if 'tokens' in results:
            sample.tokens = results['tokens']
        if 'gt_bboxes' in results:
            sample.gt_instances = InstanceData(bboxes=torch.from_numpy(results['gt_bboxes']))
        packed['data_samples'] = sample
        return packed
