"""RefSegRS: aerial images with phrases (Yuan et al., "RRSIS: Referring Remote Sensing Image Segmentation", 2024)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import mmengine.fileio as fileio
from mmengine.fileio import join_path

from ..registry import DATASETS
from ..utils.files import read_bytes
from ..utils.text_files import decode_text
from .listed import ListedRefDataset
from .refer import image_key
from .table import TableRefDataset


@DATASETS.register_module()
class RefSegRSDataset(TableRefDataset):
    """Referring segmentation from RefSegRS's own files: ``images/``, ``masks/`` and ``output_phrase_train.txt``.

    A line of the text file is a number and a phrase; image and mask are called by the number. Every pixel of a mask but
    0 is inside. RISBench has the same layout.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: The phrases, with ``{split}`` for the name of the split. Defaults to ``'output_phrase_{split}.txt'``.
        data_prefix: Folders of images and masks. Defaults to ``'images/'`` and ``'masks/'``.
        split: 'train', 'val' or 'test'. Defaults to 'train'.
        img_suffix: Ending of the images' names. Defaults to ``'.tif'``.
        seg_map_suffix: Ending of the masks' names. Defaults to ``'.tif'``.
        **kwargs: The other arguments of :class:`RefCocoDataset` but ``split_file`` and ``text_field``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line or a mask is not as it should be; the message names file and line.
    """

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = 'output_phrase_{split}.txt',
        data_prefix: dict = dict(img_path='images/', seg_map_path='masks/'),  # noqa: B006  BaseDataset copies it
        split: str = 'train',
        img_suffix: str = '.tif',
        seg_map_suffix: str = '.tif',
        **kwargs: Any,
    ) -> None:
        self.img_suffix = img_suffix
        self.seg_map_suffix = seg_map_suffix
        super().__init__(data_root, ann_file, data_prefix, split, **kwargs)

    def split_names(self) -> list[str]:
        """Of 'train', 'val' and 'test' those whose file is there."""
        return [name for name in ('train', 'val', 'test') if os.path.isfile(self._file_of(name))]

    def _where(self, row: dict) -> str:
        return f'{self._file_of(row["split"])}, line {row["row"]}'

    def _rows_of_split(self, split: str) -> list[dict]:
        path = self._file_of(split)
        if not fileio.exists(path, backend_args=self.backend_args):
            present = ', '.join(self.split_names())
            raise FileNotFoundError(f'{path} does not exist: it has the phrases of split {split!r}. Present: {present}')
        rows = []
        for number, line in enumerate(decode_text(read_bytes(path, self.backend_args), path).split('\n'), 1):
            if not line.strip():
                continue
            name, _, phrase = line.strip().partition(' ')
            files = dict(image=name + self.img_suffix, mask=name + self.seg_map_suffix)
            rows.append(dict(files, sentence=phrase.strip(), split=split, row=number))
        if not rows:
            raise ValueError(f'{path} has no line')
        return rows

    def held_out_images(self) -> frozenset[str]:
        """See :meth:`ListedRefDataset.held_out_images`; each split has a file of its own."""
        return ListedRefDataset.held_out_images(self)

    def _images_of_split(self, split: str) -> Iterable[str]:
        return (image_key(join_path(self.data_prefix['img_path'], row['image'])) for row in self._rows_of_split(split))
