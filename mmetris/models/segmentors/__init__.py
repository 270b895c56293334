from .class_name_segmentor import ClassNameSegmentor
from .referring_segmentor import ReferringSegmentor
from .test_time_augmentation import RefSegTTAModel

__all__ = ['ClassNameSegmentor', 'RefSegTTAModel', 'ReferringSegmentor']
