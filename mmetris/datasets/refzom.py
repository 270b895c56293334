"""Ref-ZOM: sentences that mean no object, one, or many (Hu et al., "Beyond One-to-One: Rethinking the Referring Image
Segmentation", 2023)."""

from __future__ import annotations

from typing import Any

from mmengine.fileio import join_path

from ..registry import DATASETS
from .grefcoco import GRefCocoDataset

VAL_FOLDER = 'val2014'
NOTHING = 'zero'


@DATASETS.register_module()
class RefZomDataset(GRefCocoDataset):
    """Referring segmentation from Ref-ZOM's own files, ``refs(final).p`` beside COCO's ``instances.json``.

    An item's ``source`` says what its sentences mean: with 'zero' nothing in the image, whatever annotations it names;
    with any other, the union of them, of which there must be one at least. Items without ``source`` are read as
    gRefCOCO's. The images are those of COCO's train2014 and val2014, each in its own folder, which the file names tell.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: COCO annotations of the images. Defaults to ``'ref-zom/instances.json'``.
        split_file: Ref-ZOM's list of sentences. Defaults to ``'ref-zom/refs(final).p'``, under which name its authors
            have ``Ref-ZOM(final).p`` saved.
        data_prefix: Folders of the images: ``val_img_path`` of those with 'val2014' in their names, ``img_path`` of
            all others. Defaults to ``'train2014/'`` and ``'val2014/'``; both may be the same folder.
        **kwargs: The other arguments of :class:`GRefCocoDataset`.

    Raises:
        ValueError: If an item means something but names no annotation; see :class:`GRefCocoDataset` also.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'ref-zom/instances.json',
        split_file: str = 'ref-zom/refs(final).p',
        data_prefix: dict = dict(img_path='train2014/', val_img_path='val2014/'),  # noqa: B006  BaseDataset copies it
        **kwargs: Any,
    ) -> None:
        super().__init__(data_root, ann_file=ann_file, split_file=split_file, data_prefix=data_prefix, **kwargs)

    def _load_refs(self) -> list[dict]:
        refs = super()._load_refs()
        for index, ref in enumerate(refs):
            if ref.get('source') == NOTHING:
                ref['ann_ids'] = []
            elif ref.get('source') is not None and not ref['ann_ids']:
                raise ValueError(
                    f'{self.split_file}: item {index} (ref_id {ref["ref_id"]}) has the source {ref["source"]!r}, but '
                    'names no annotation'
                )
        return refs

    def _image_path(self, image: dict) -> str:
        if VAL_FOLDER in image['file_name'] and 'val_img_path' in self.data_prefix:
            return join_path(self.data_prefix['val_img_path'], image['file_name'])
        return super()._image_path(image)
