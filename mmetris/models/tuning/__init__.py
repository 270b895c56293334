"""Parameter-efficient tuning: methods that stand beside a frozen encoder's tower, bound to named places in it."""

from .adapter import Adapter, Compacter, ConvAdapter
from .base import TuningMethod
from .bitfit import BitFit
from .dense import DenseAligner, DenseTextAdapter
from .lora import LoRA
from .merging import merge_tuning
from .prompt_tokens import PromptTokens

__all__ = [
    'Adapter',
    'BitFit',
    'Compacter',
    'ConvAdapter',
    'DenseAligner',
    'DenseTextAdapter',
    'LoRA',
    'PromptTokens',
    'TuningMethod',
    'merge_tuning',
]
