"""A model for runtimes: ONNX and torch.export files that need no mmetris."""

from .export import DeviationError, export_model
from .parts import ImagePart, TextPart, WholeModel

__all__ = ['DeviationError', 'ImagePart', 'TextPart', 'WholeModel', 'export_model']
