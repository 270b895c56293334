from .class_name_segmentor import ClassNameSegmentor
from .referring_segmentor import ReferringSegmentor

__all__ = ['ClassNameSegmentor', 'ReferringSegmentor']
