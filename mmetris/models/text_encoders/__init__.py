from .class_text import ClassText, NameStages
from .class_vectors import ClassVectors
from .clip_text import CLIPTextEncoder

__all__ = ['CLIPTextEncoder', 'ClassText', 'ClassVectors', 'NameStages']
