from .class_text import ClassText, NameStages
from .clip_text import CLIPTextEncoder

__all__ = ['CLIPTextEncoder', 'ClassText', 'NameStages']
