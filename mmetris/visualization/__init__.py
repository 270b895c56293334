"""Pictures of referring segmentation: image, sentence, predicted and true mask."""

import mmseg.visualization  # noqa: F401  registers MMSegmentation's visualizer

from .contact_sheet import make_contact_sheet
from .expression_overlay import draw_expressions, draw_labels
from .local_visualizer import RefSegLocalVisualizer
from .referring_picture import draw_referring_picture

__all__ = ['RefSegLocalVisualizer', 'draw_expressions', 'draw_labels', 'draw_referring_picture', 'make_contact_sheet']
