"""gRefCOCO: sentences that mean no object, one, or several (Liu et al., "GRES: Generalized Referring Expression
Segmentation", 2023)."""

from __future__ import annotations

from typing import Any

from ..registry import DATASETS
from .refcoco import RefCocoDataset
from .refer import load_refs


@DATASETS.register_module()
class GRefCocoDataset(RefCocoDataset):
    """Referring segmentation from gRefCOCO's own files, ``grefs(unc).json`` beside COCO's ``instances.json``.

    An item's ``ann_id`` is an id or a list of ids, whose masks are united; -1, ``[-1]`` or an empty list means that
    nothing in the image is meant. Such a record has ``no_target=True`` and a mask without pixels; it is kept, in
    training too. Every sentence is a sample by itself. What is read otherwise, and what is checked, is as in
    :class:`RefCocoDataset`. Published counts are not compared: no source of them was at hand.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: COCO annotations of the images. Defaults to ``'grefcoco/instances.json'``.
        split_file: gRefCOCO's list of sentences, as JSON or (``.p``) pickled. Defaults to
            ``'grefcoco/grefs(unc).json'``; its splits are 'train', 'val', 'testA', 'testB'.
        text_mode: See :class:`RefCocoDataset`. Defaults to 'original': a sample for each sentence.
        text_field: Defaults to 'raw'.
        **kwargs: The other arguments of :class:`RefCocoDataset`.

    Raises:
        ValueError: If an item mixes -1 with ids, or its ``no_target`` says otherwise than its ids; see
            :class:`RefCocoDataset` also.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'grefcoco/instances.json',
        split_file: str = 'grefcoco/grefs(unc).json',
        text_mode: str | None = 'original',
        text_field: str = 'raw',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            data_root, ann_file=ann_file, split_file=split_file, text_mode=text_mode, text_field=text_field, **kwargs
        )

    def _load_refs(self) -> list[dict]:
        return load_refs(self.split_file, self.backend_args, several=True)

    def _annotation_ids(self, ref: dict) -> list:
        return ref['ann_ids']

    def _parse_object(self, ref: dict, instances: Any) -> dict:
        record = super()._parse_object(ref, instances)
        record.update(ann_id=ref['ann_ids'], no_target=not ref['ann_ids'])
        return record
