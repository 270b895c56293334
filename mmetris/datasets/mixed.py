"""Training on several referring data sets at once, without the images that any of them tests on."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dataset import ConcatDataset
from mmengine.fileio import join_path
from mmengine.logging import print_log

from ..registry import DATASETS
from .refcoco import RefCocoDataset
from .refer import held_out_splits, image_key, load_instances, load_refs


@DATASETS.register_module()
class MixedRefDataset(ConcatDataset):
    """Several :class:`RefCocoDataset` in a row, without leaked images.

    RefCOCO, RefCOCO+ and RefCOCOg share COCO's images, and one's training image is another's test image. Every object whose image is in
    any split to test on (names that start with 'val' or 'test') of ``datasets`` or ``leave_out`` is dropped, and the log says how many.
    Images are recognised by COCO's number, others by their path.

    Args:
        datasets: Configs or instances of the training sets.
        leave_out: Configs of further data sets to be tested on, whose val and test splits count too; only ``type``, ``data_root``,
            ``ann_file``, ``split_file`` and ``data_prefix`` of them matter.
        lazy_init: Whether to read the annotations at first use. Defaults to False.
        ignore_keys: Keys of ``metainfo`` that may differ.

    Raises:
        TypeError: If a data set is no :class:`RefCocoDataset`.
        ValueError: If nothing is left of one.
    """

    def __init__(self,
                 datasets: Sequence[RefCocoDataset | dict],
                 leave_out: Sequence[dict] = (),
                 lazy_init: bool = False,
                 ignore_keys: str | list[str] | None = None) -> None:
        # Reading waits for full_init in every case: held-out images are to be found first.
        lazy = [dict(dataset, lazy_init=True) if isinstance(dataset, dict) else dataset for dataset in datasets]
        self._leave_out = [DATASETS.build(dict(config, lazy_init=True)) for config in leave_out]
        built = [DATASETS.build(dataset) if isinstance(dataset, dict) else dataset for dataset in lazy]
        for dataset in (*built, *self._leave_out):
            if not isinstance(dataset, RefCocoDataset):
                raise TypeError(f'MixedRefDataset mixes RefCocoDataset, but got {type(dataset).__name__}')
        super().__init__(built, lazy_init=lazy_init, ignore_keys=ignore_keys)

    def full_init(self) -> None:
        """Read all data sets and drop the objects on held-out images."""
        if self._fully_initialized:
            return
        held_out = set().union(*(_held_out_images(dataset) for dataset in (*self.datasets, *self._leave_out)))
        offset = 0
        for dataset in self.datasets:
            dataset.full_init()
            keep = [idx for idx, key in enumerate(dataset.image_keys()) if key not in held_out]
            num_samples = len(dataset)
            if not keep:
                raise ValueError(f'Every image of split {dataset.split!r} of {dataset.split_file} is also in a val or test split')
            dataset.get_subset_(keep)
            dataset.sample_idx_offset = offset
            offset += len(keep)
            print_log(f'{num_samples - len(keep)} of {num_samples} samples of split {dataset.split!r} of {dataset.split_file} are left out, '
                      'because their images are in a val or test split', logger='current')
        super().full_init()

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on, see :meth:`RefCocoDataset.set_epoch`."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)


def _held_out_images(dataset: RefCocoDataset) -> set[str]:
    """Keys of the images in all val and test splits of a data set's split file."""
    refs = load_refs(dataset.split_file, dataset.backend_args)
    splits = set(held_out_splits(refs))
    images = load_instances(dataset.ann_file, dataset.backend_args).images
    missing = {ref['image_id'] for ref in refs if ref['split'] in splits} - images.keys()
    if missing:
        raise ValueError(f'{dataset.split_file} refers to image_id {min(missing)}, which is not in {dataset.ann_file}')
    return {image_key(join_path(dataset.data_prefix['img_path'], images[ref['image_id']]['file_name']))
            for ref in refs if ref['split'] in splits}
