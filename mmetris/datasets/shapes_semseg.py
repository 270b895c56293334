"""Shapes with a label for each pixel, read as MMSegmentation reads its own data sets."""

from mmseg.datasets import BaseSegDataset

from ..registry import DATASETS
from .shapes import SEMSEG_CLASSES, semseg_palette


@DATASETS.register_module()
class ShapesSegDataset(BaseSegDataset):
    """Semantic segmentation of Shapes: background, and a class for each colour and shape ("red circle"), 57 in all.

    ``make_shapes.py --layout semseg`` draws it. Arguments are those of MMSeg's BaseSegDataset.
    """

    METAINFO = dict(classes=SEMSEG_CLASSES, palette=semseg_palette())
