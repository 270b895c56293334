from .class_name_segmentor import ClassNameSegmentor
from .referring_segmentor import ReferringSegmentor
from .test_time_augmentation import RefSegTTAModel
from .training_free_segmentor import TrainingFreeSegmentor

__all__ = ['ClassNameSegmentor', 'RefSegTTAModel', 'ReferringSegmentor', 'TrainingFreeSegmentor']
