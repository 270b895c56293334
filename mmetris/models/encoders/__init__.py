"""The ground that encoders, Bridger and heads stand on: stages, frozen weights and their identity."""

from .fingerprint import Fingerprint
from .frozen_encoder import FrozenEncoder
from .frozen_weights import FrozenWeights
from .staged import StagedImageEncoder, StagedTextEncoder, StageSpec

__all__ = ['Fingerprint', 'FrozenEncoder', 'FrozenWeights', 'StageSpec', 'StagedImageEncoder', 'StagedTextEncoder']
