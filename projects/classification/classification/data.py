"""Pictures in folders, one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from mmetris.registry import DATASETS
from mmetris.utils.checkpoint_io import listed
from mmetris.utils.image_io import IMAGE_SUFFIXES
from mmetris.utils.text_files import read_text

Classes = str | Sequence[str] | Mapping[str, str]


@DATASETS.register_module()
class ClassFolderDataset(BaseDataset):
    """Any folder of folders of pictures; MMPretrain's ``CustomDataset`` has the same arguments.

    ::

        <data_root>/<data_prefix>/red_circle/1.jpg, 2.png, more/3.jpg
                                  blue_square/...

    Labels count the classes in their order. A folder's class is ``classes``' entry of its name, upper and lower case,
    underscores and spaces being alike; nothing is matched by position.

    Args:
        data_root: Folder of the data. Defaults to ''.
        data_prefix: Folder of the split in it, by itself or as ``img_path`` of a dict. Defaults to ''.
        classes: Names in their order, or what they stand for: a list of the folders; a dict ``{folder: name}``; or a
            text file with a line ``folder`` or ``folder: name`` for each. Defaults to None: ``classes`` of
            ``metainfo``, else the folders in alphabetical order, underscores read as spaces.
        metainfo: MMEngine's; ``classes`` in it is the same. Defaults to None.
        with_label: Whether folders are classes. Defaults to True; False takes every picture below the folder.
        allow_empty: Whether classes may be without pictures, as where a split has not all of them. Defaults to False.
        extensions: Endings of pictures. Defaults to those that mmetris reads.
        **kwargs: ``pipeline``, ``test_mode``, ``indices`` and others of MMEngine's :class:`BaseDataset`.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If there is no picture, only one class, a class without folder or pictures, a folder without class,
            or a name is empty or stands twice.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str | Mapping[str, str] = '',
        classes: Classes | None = None,
        metainfo: Mapping[str, Any] | None = None,
        with_label: bool = True,
        allow_empty: bool = False,
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        **kwargs: Any,
    ) -> None:
        if kwargs.get('ann_file'):
            raise ValueError(f'ann_file={kwargs["ann_file"]!r}: a ClassFolderDataset reads folders; leave it out')
        metainfo = dict(metainfo or {})
        self._asked = metainfo.pop('classes', None) if classes is None else classes
        self.with_label, self.allow_empty = with_label, allow_empty
        self.extensions = tuple(ending.lower() for ending in extensions)
        prefix = data_prefix if isinstance(data_prefix, str) else data_prefix['img_path']
        super().__init__(data_root=data_root, data_prefix=dict(img_path=prefix), metainfo=metainfo, **kwargs)

    def _find_classes(self) -> list[Path | None]:
        """The folder of each class; ``classes`` go into the meta information."""
        found = sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
        if not self.with_label:
            if self._asked is not None:
                self._metainfo['classes'] = tuple(name for _, name in _read(self._asked))
            return []
        if not found:
            raise ValueError(
                f'{self.folder} has no folders, which would be its classes; with_label=False reads pictures without'
            )
        by_name: dict[str, Path] = {}
        for path in found:
            if (other := by_name.setdefault(_alike(path.name), path)) is not path:
                raise ValueError(f'{other} and {path} are folders of one class: rename one, or put them together')
        asked = [(path.name, path.name.replace('_', ' ')) for path in found]
        if self._asked is not None:
            asked = _read(self._asked)
        self._check_names([name for _, name in asked])
        folders = [by_name.pop(_alike(folder), None) for folder, _ in asked]
        if by_name:
            raise ValueError(
                f'{self.folder} has folders that are in no line of classes: {_some(by_name.values())}. Remove them, or '
                'name their class: {folder: name}, in a file "folder: name"'
            )
        missing = [folder for (folder, _), path in zip(asked, folders) if path is None]
        if missing and not self.allow_empty:
            raise ValueError(
                f'{self.folder} has no folder for the classes {_some(missing)}; where that is right, allow_empty=True'
            )
        self._metainfo['classes'] = tuple(name for _, name in asked)
        return folders

    def _check_names(self, names: Sequence[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if not name.strip():
                raise ValueError(f'a class of {self.folder} has an empty name: {list(names)[:5]}')
            if _alike(name) in seen:
                raise ValueError(f'the name {name!r} stands for two classes of {self.folder}')
            seen.add(_alike(name))
        if len(names) < 2:
            raise ValueError(
                f'{self.folder} has one class, {names[0]!r}: whatever the picture, the answer would be that. '
                'Classification needs two'
            )

    def _pictures(self, folder: Path) -> list[Path]:
        return sorted(
            Path(root) / name
            for root, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(self.extensions) and not name.startswith('.')
        )

    def load_data_list(self) -> list[dict]:
        """A record for each picture: ``img_path``, ``img_id`` and ``gt_label``."""
        self.folder = Path(self.data_prefix['img_path'] or '.')
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f'no folder {self.folder}: data_root and data_prefix lead to the folder whose folders are classes'
            )
        folders = self._find_classes()
        records: list[dict] = []
        empty = []
        for label, folder in enumerate(folders):
            pictures = [] if folder is None else self._pictures(folder)
            if folder is not None and not pictures:
                empty.append(folder)
            records += [dict(img_path=str(path), gt_label=label) for path in pictures]
        if not self.with_label:
            records = [dict(img_path=str(path)) for path in self._pictures(self.folder)]
        if not records:
            raise ValueError(f'no images below {self.folder}: looked for {", ".join(self.extensions)}')
        if empty and not self.allow_empty:
            raise ValueError(
                f'no images in {_some(empty)}: remove the class, or give it pictures; where that is right, '
                'allow_empty=True'
            )
        return [dict(record, img_id=index) for index, record in enumerate(records)]


def _alike(name: str) -> str:
    return ' '.join(name.replace('_', ' ').lower().split())


def _some(values: Any) -> str:
    return listed([str(value) for value in values], limit=5)


def _read(classes: Classes) -> list[tuple[str, str]]:
    """Folder and name of each class."""
    if isinstance(classes, Mapping):
        pairs = [(str(folder), str(name)) for folder, name in classes.items()]
    elif isinstance(classes, str):
        if not Path(classes).is_file():
            raise FileNotFoundError(f'classes={classes!r} is no file; several names go in a list')
        lines = [line.strip() for line in read_text(classes).split('\n')]
        parts = [line.partition(':') for line in lines if line]
        pairs = [(folder.strip(), name.strip() if colon else folder.strip()) for folder, colon, name in parts]
    else:
        pairs = [(str(name), str(name)) for name in classes]
    return [(folder, name.replace('_', ' ') if name == folder else name) for folder, name in pairs]
