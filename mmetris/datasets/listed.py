"""What data sets share that list their objects in a form of their own, without REFER's two files."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import mmengine.fileio as fileio

from ..utils.files import check_ordinary, read_bytes
from ..utils.image_io import is_address, upright_hw
from .refcoco import RefCocoDataset
from .refer import collector_paused, is_held_out


class ListedRefDataset(RefCocoDataset):
    """Base of data sets whose files list objects with their sentences and masks.

    A subclass reads them in ``_objects_of_split`` and names its splits in ``split_names``; sentences, samples, epochs
    and what is done with empty masks are :class:`RefCocoDataset`'s. ``{split}`` in ``ann_file`` stands for the name of
    a split.

    Args:
        data_root: Folder that the other paths are relative to.
        ann_file: The list.
        data_prefix: Folders of images and masks.
        split: Which objects.
        **kwargs: The other arguments of :class:`RefCocoDataset` but ``split_file`` and ``text_field``.

    Raises:
        FileNotFoundError: If the root, the list, an image or a mask is missing.
        ValueError: If one of its items is not as it should be; the message names file and item.
    """

    def __init__(self, data_root: str, ann_file: str, data_prefix: dict, split: str = 'train', **kwargs: Any) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        super().__init__(data_root, ann_file, split_file=ann_file, data_prefix=data_prefix, split=split, **kwargs)

    @abstractmethod
    def _objects_of_split(self, split: str) -> Iterable[dict]:
        """Objects as :meth:`RefCocoDataset._parse_object` gives them, with ``segmentation`` as one RLE."""

    @abstractmethod
    def _images_of_split(self, split: str) -> Iterable[str]:
        """Keys of the images of a split, whether or not they are there."""

    def load_data_list(self) -> list[dict]:
        """Read the list, check it, and make the records of the split in its order."""
        self._check_root()
        with collector_paused():
            objects = list(self._objects_of_split(self.split))
        self._sizes.clear()
        return self._samples_of(objects)

    def published_differences(self) -> list[str] | None:
        """See :meth:`RefCocoDataset.published_differences`; here no counts are known."""
        return None

    def held_out_images(self) -> frozenset[str]:
        """Keys of the images in every split that is there to test on ('val...', 'test...')."""
        if self._held_out_images is None:
            names = [name for name in self.split_names() if is_held_out(name)]
            self._held_out_images = frozenset(key for name in names for key in self._images_of_split(name))
        return self._held_out_images

    def _file_of(self, split: str) -> str:
        return str(self.ann_file).replace('{split}', split)

    def _check_root(self) -> None:
        if self.data_root and not fileio.exists(self.data_root, backend_args=self.backend_args):
            raise FileNotFoundError(f'data_root {self.data_root} does not exist. Expected there: {self.ann_file}')

    def _size_of(self, img_path: str, what: str) -> tuple[int, int]:
        """Height and width of an image, whose header alone is read where it is a local file."""
        if img_path not in self._sizes:
            if self._is_local(img_path):
                self._check_there(img_path, what)
            source = img_path if self._is_local(img_path) else self._get(img_path, what)
            self._sizes[img_path] = upright_hw(source, f'{what} {img_path}')
        return self._sizes[img_path]

    def _get(self, path: str, what: str) -> bytes:
        self._check_there(path, what)
        return read_bytes(path, self.backend_args)

    def _check_there(self, path: str, what: str) -> None:
        if self._is_local(path):
            check_ordinary(path)
            is_there = os.path.isfile(path)
        else:
            is_there = fileio.exists(path, backend_args=self.backend_args)
        if not is_there:
            raise FileNotFoundError(f'{what} {path} does not exist')

    def _is_local(self, path: str) -> bool:
        return not self.backend_args and not is_address(path)
