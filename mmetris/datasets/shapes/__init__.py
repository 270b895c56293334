"""Shapes: a small referring data set drawn on the spot, in RefCOCO's layout.

It needs no download and stands in for RefCOCO in tests, demos and quick experiments. ``write_shapes`` puts it on disk;
``random_scene``, ``render`` and ``scene_caption`` give scenes in memory, for contrastive pre-training.
"""

from .captions import Caption, Clause, near_miss, sample_caption, scene_caption, truth_table
from .expressions import KINDS, MAX_TOKENS, num_tokens, refer
from .groups import GroupExpression, refer_to_groups
from .logic import FALSE, TRUE, UNCLEAR, Description, Expression
from .render import contours, render
from .scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene, SceneObject, random_scene
from .semseg import SEMSEG_CLASSES, label_map, semseg_palette
from .writer import LAYOUTS, SPLITS, VERSION, ShapesSpec, draw_groups, draw_sample, is_written, write_shapes

__all__ = [
    'COLOURS',
    'Caption',
    'Clause',
    'Description',
    'Expression',
    'FALSE',
    'GroupExpression',
    'KINDS',
    'LAYOUTS',
    'MAX_TOKENS',
    'SEMSEG_CLASSES',
    'SHAPES',
    'SIZES',
    'SPLITS',
    'Scene',
    'SceneObject',
    'ShapesSpec',
    'TEXTURES',
    'TRUE',
    'UNCLEAR',
    'VERSION',
    'contours',
    'draw_groups',
    'draw_sample',
    'is_written',
    'label_map',
    'near_miss',
    'num_tokens',
    'random_scene',
    'refer',
    'refer_to_groups',
    'render',
    'sample_caption',
    'scene_caption',
    'semseg_palette',
    'truth_table',
    'write_shapes',
]
