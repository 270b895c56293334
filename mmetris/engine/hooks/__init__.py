import mmseg.engine  # noqa: F401  registers MMSegmentation's hooks

from .activation_checkpoint_hook import ActivationCheckpointHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .compile_hook import CompileHook
from .epoch_seed_hook import EpochSeedHook
from .finite_loss_hook import FiniteLossHook
from .main_process_logger_hook import MainProcessLoggerHook
from .slim_checkpoint_hook import SlimCheckpointHook
from .strict_load_hook import StrictLoadHook
from .tunable_report_hook import TunableReportHook
from .visualization_hook import RefSegVisualizationHook
from .vocabulary_check_hook import VocabularyCheckHook

__all__ = [
    'ActivationCheckpointHook',
    'AtomicCheckpointHook',
    'CompileHook',
    'EpochSeedHook',
    'FiniteLossHook',
    'MainProcessLoggerHook',
    'RefSegVisualizationHook',
    'SlimCheckpointHook',
    'StrictLoadHook',
    'TunableReportHook',
    'VocabularyCheckHook',
]
