"""One sample of referring segmentation: what SegDataSample holds, a sentence and its tokens."""

from __future__ import annotations

from mmseg.structures import SegDataSample
from torch import Tensor


class RefDataSample(SegDataSample):
    """MMSeg's data sample for an image and one expression.

    Fields besides :class:`mmseg.structures.SegDataSample`'s:

    - ``expression``: the sentence, a piece of meta information.
    - ``tokens``: its int64 ids (L,), a data field that moves to devices with the sample; absent if the
      pipeline does not tokenize.
    - ``sample_idx``, ``img_id``, ``ref_id``, ``ann_id``, ``sent_id``: where the sample comes from (meta
      information).
    - ``sample_name``: name of files that are written for it, where image and ``sent_id`` alone would repeat (meta
      information).
    - ``letterbox``: (scale, left, top) if the image was letterboxed (meta information).

    - ``no_target_score``, ``pred_no_target``: score in 0..1 that the sentence means nothing in the picture, and whether
      it is at or above ``no_target_threshold`` (meta information), so that the predicted mask is empty; absent from
      predictions of models that do not decide it.

    - ``gt_instances``, ``pred_instances``: of data and models with boxes; ``bboxes`` (K, 4) are left, top, right,
      bottom in pixels, predictions also have ``scores`` (K,) and are those of the original image.

    ``gt_sem_seg.data`` is (1, H, W) with 1 on the object, 0 elsewhere and 255 where the truth is not known;
    ``pred_sem_seg.data`` (1, H, W) has 0 and 1, ``seg_logits.data`` (1, H, W) the values before the sigmoid.

    Example:
        >>> sample = RefDataSample(metainfo=dict(expression='the left dog'))
        >>> sample.expression
        'the left dog'
    """

    expression: str
    tokens: Tensor
    no_target_score: float
    pred_no_target: bool
    no_target_threshold: float

    @property
    def gt_mask(self) -> Tensor:
        """True mask, (H, W) bool; pixels to ignore are False.

        Raises:
            AttributeError: If the sample has no ``gt_sem_seg``.
        """
        return self.gt_sem_seg.data.squeeze(0) == 1

    @property
    def pred_mask(self) -> Tensor:
        """Predicted mask, (H, W) bool.

        Raises:
            AttributeError: If the sample has no ``pred_sem_seg``.
        """
        return self.pred_sem_seg.data.squeeze(0) == 1
