"""Training on several referring data sets at once, without the images that any of them tests on."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log

from ..registry import DATASETS
from .refcoco import RefCocoDataset


@DATASETS.register_module()
class MixedRefDataset(ConcatDataset):
    """Several :class:`RefCocoDataset` in a row, without leaked images.

    RefCOCO, RefCOCO+ and RefCOCOg share COCO's images, and one's training image is another's test image.
    Every object whose image is in any split to test on (names that start with 'val' or 'test') of
    ``datasets`` or ``leave_out`` is dropped, and the log says how many. Images are recognised by COCO's
    number, others by their path.

    Args:
        datasets: Configs or instances of the training sets.
        leave_out: Configs of further data sets to be tested on, whose val and test splits count too; only
            ``type``, ``data_root``, ``ann_file``, ``split_file`` and ``data_prefix`` of them matter.
        lazy_init: Whether to read the annotations at first use. Defaults to False.
        ignore_keys: Keys of ``metainfo`` that may differ.

    Raises:
        TypeError: If a data set is no :class:`RefCocoDataset`.
        ValueError: If nothing is left of one.
    """

    def __init__(
        self,
        datasets: Sequence[RefCocoDataset | dict],
        leave_out: Sequence[dict] = (),
        lazy_init: bool = False,
        ignore_keys: str | list[str] | None = None,
    ) -> None:
        self._is_complete = False
        # Nothing is read before full_init.
        built = [_build_lazily(dataset) for dataset in datasets]
        self._leave_out = [_build_lazily(config) for config in leave_out]
        super().__init__(built, lazy_init=lazy_init, ignore_keys=ignore_keys)

    def full_init(self) -> None:
        """Read all data sets and drop the objects on held-out images."""
        if self._is_complete:
            return
        for dataset in self.datasets:
            dataset.full_init()
        held_out = set().union(*(dataset.held_out_images() for dataset in (*self.datasets, *self._leave_out)))
        offset = 0
        for dataset in self.datasets:
            keep = [idx for idx, key in enumerate(dataset.image_keys()) if key not in held_out]
            num_samples = len(dataset)
            if not keep:
                raise ValueError(
                    f'Every image of split {dataset.split!r} of {dataset.split_file} is also in a val or test split'
                )
            dataset.get_subset_(keep)
            dataset.sample_idx_offset = offset
            offset += len(keep)
            print_log(
                f'{num_samples - len(keep)} of {num_samples} samples of split {dataset.split!r} of '
                f'{dataset.split_file} are left out, because their images are in a val or test split',
                logger='current',
            )
        super().full_init()
        self._is_complete = True

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on, see :meth:`RefCocoDataset.set_epoch`."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)


def _build_lazily(dataset: RefCocoDataset | dict) -> RefCocoDataset:
    if isinstance(dataset, dict):
        dataset = DATASETS.build(dict(dataset, lazy_init=True))
    if not isinstance(dataset, RefCocoDataset):
        raise TypeError(f'MixedRefDataset mixes RefCocoDataset, but got {type(dataset).__name__}')
    return dataset
