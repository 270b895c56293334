"""Parameter-efficient tuning: methods that stand beside a frozen encoder's tower, bound to named places in it."""

from .base import TuningMethod
from .bitfit import BitFit
from .lora import LoRA
from .prompt_tokens import PromptTokens

__all__ = ['BitFit', 'LoRA', 'PromptTokens', 'TuningMethod']
