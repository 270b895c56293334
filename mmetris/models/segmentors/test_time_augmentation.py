"""Test-time augmentation of referring models."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample

from mmetris.registry import MODELS

from ..decode_heads.mask_prediction import empty_without_target


@MODELS.register_module()
class RefSegTTAModel(SegTTAModel):
    """MMSeg's mean over the augmented pictures, of no-target scores too where the model gives them."""

    def merge_preds(self, data_samples_list: Sequence[Sequence[SegDataSample]]) -> list[SegDataSample]:
        """One prediction of those of the augmented pictures.

        Args:
            data_samples_list: For each picture the samples of its augmentations, completed by the model.
        """
        scores = [
            [sample.no_target_score for sample in samples if 'no_target_score' in sample]
            for samples in data_samples_list
        ]
        merged = super().merge_preds(data_samples_list)
        for sample, own in zip(merged, scores):
            if own:
                empty_without_target(sample, sum(own) / len(own), sample.no_target_threshold)
        return merged
