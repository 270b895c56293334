"""The visualizer of referring segmentation, in the place of MMSegmentation's."""

from __future__ import annotations

import os.path as osp
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.utils import mkdir_or_exist
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from mmetris.evaluation.functional import intersection_and_union, sample_iou
from mmetris.registry import VISUALIZERS
from mmetris.structures.found_boxes import boxes_of_head

from .referring_picture import draw_referring_picture


@VISUALIZERS.register_module()
class RefSegLocalVisualizer(SegLocalVisualizer):
    """Draw a sentence over the image, the predicted and the true mask side by side, with their IoU below; boxes, too,
    where the model predicts some and the data have them.

    Takes the place of MMSegmentation's ``SegLocalVisualizer`` and works with its hooks and tools. A data
    sample without an expression is drawn as MMSegmentation draws it.

    Args:
        name: Name of the instance.
        alpha: Strength of the masks' tint, 0 to 1. Defaults to 0.45: the texture below stays visible.
        ignore_index: Value of pixels in the ground truth that are not scored. Defaults to 255.
        save_dir: Folder of the visualization backends. Defaults to None.
        box_threshold: Score from which on predicted boxes are drawn. Defaults to None: the best one.
        **kwargs: The other arguments of ``SegLocalVisualizer`` (image, vis_backends, classes, palette...).
    """

    def __init__(
        self,
        name: str = 'visualizer',
        alpha: float = 0.45,
        ignore_index: int = 255,
        save_dir: str | None = None,
        box_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, alpha=alpha, save_dir=save_dir, **kwargs)
        self.ignore_index, self.box_threshold = ignore_index, box_threshold
        # The base class hands it to the backends and forgets it; the hook writes its pictures there.
        self.save_dir = save_dir

    def draw_datasample(
        self, image: np.ndarray, data_sample: SegDataSample, draw_gt: bool = True, draw_pred: bool = True
    ) -> np.ndarray:
        """Draw one sentence's picture, on any process, without storing it.

        Args:
            image: The image that the masks belong to, (H, W, 3) RGB in 0..255.
            data_sample: With ``expression`` and, where there are, ``pred_sem_seg`` and ``gt_sem_seg`` of the
                image's size, ``pred_instances`` and ``gt_instances`` with boxes in its pixels.
            draw_gt: Whether to draw the ground truth. Defaults to True.
            draw_pred: Whether to draw the prediction. Defaults to True.

        Returns:
            The picture, (H', W', 3) RGB.

        Raises:
            ValueError: If a mask does not have the image's size; the message names the image.
        """
        pred = _mask_of(data_sample, 'pred_sem_seg') if draw_pred else None
        target = _mask_of(data_sample, 'gt_sem_seg') if draw_gt else None
        img_path = data_sample.get('img_path') or ''
        iou = None
        try:
            if pred is not None and target is not None:
                overlap = torch.tensor(intersection_and_union(pred, target, self.ignore_index))
                iou = float(sample_iou(*overlap[:, None]))
            return draw_referring_picture(
                image,
                data_sample.get('expression') or '',
                None if pred is None else pred.numpy(),
                None if target is None else target.numpy(),
                iou,
                osp.basename(img_path),
                self.alpha,
                self.ignore_index,
                no_target_score=data_sample.get('no_target_score') if draw_pred else None,
                no_target_threshold=data_sample.get('no_target_threshold'),
                pred_boxes=self._pred_boxes(data_sample, image.shape[:2]) if draw_pred else None,
                target_boxes=_target_boxes(data_sample) if draw_gt else None,
            )
        except ValueError as error:
            raise ValueError(f'Cannot draw the masks of {img_path or "a sample"}: {error}') from error

    def _pred_boxes(self, data_sample: SegDataSample, image_hw: tuple[int, int]) -> np.ndarray | None:
        if 'bboxes' not in data_sample.get('pred_instances', ()):
            return None
        return boxes_of_head(data_sample.pred_instances, image_hw, self.box_threshold).boxes

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        **kwargs: Any,
    ) -> None:
        """Draw a data sample and show it, write it to a file or hand it to the backends; on the first process
        only.

        Args:
            name: Name of the picture.
            image: The image that the masks belong to, (H, W, 3) RGB in 0..255.
            data_sample: See :meth:`draw_datasample`. Defaults to None, the image alone.
            draw_gt: Whether to draw the ground truth. Defaults to True.
            draw_pred: Whether to draw the prediction. Defaults to True.
            show: Whether to open a window. Defaults to False.
            wait_time: Seconds a window stays, 0 until a key is pressed. Defaults to 0.
            out_file: File to write. Defaults to None: the picture goes to the backends instead.
            step: Step the backends record it under. Defaults to 0.
            **kwargs: ``with_labels`` and what else MMSegmentation's visualizer takes; they concern samples
                without an expression.
        """
        if data_sample is None or not data_sample.get('expression'):
            super().add_datasample(
                name, image, data_sample, draw_gt, draw_pred, show, wait_time, out_file, step, **kwargs
            )
            return
        picture = self.draw_datasample(image, data_sample, draw_gt, draw_pred)
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_picture(picture, out_file)
        else:
            self.add_image(name, picture, step)


def write_picture(picture: np.ndarray, out_file: str) -> None:
    """Write an RGB picture (H, W, 3) to a file in the format its ending says; missing folders are made."""
    mkdir_or_exist(osp.dirname(osp.abspath(out_file)))
    Image.fromarray(picture).save(out_file)


def _mask_of(data_sample: SegDataSample, field: str) -> torch.Tensor | None:
    if field not in data_sample:
        return None
    mask = torch.as_tensor(data_sample.get(field).data).cpu()
    return mask[0] if mask.ndim == 3 else mask


def _target_boxes(data_sample: SegDataSample) -> np.ndarray | None:
    if 'bboxes' not in data_sample.get('gt_instances', ()):
        return None
    return torch.as_tensor(data_sample.gt_instances.bboxes).float().cpu().numpy().reshape(-1, 4)


__all__ = ['RefSegLocalVisualizer', 'write_picture']
