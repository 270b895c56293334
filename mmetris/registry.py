"""mmetris's registries: one child of each of MMSegmentation's, with scope ``mmetris``.

A config with ``default_scope = 'mmetris'`` finds our names first and then MMSeg's and MMEngine's, all without a prefix.
From another scope ours are written ``mmetris.Bridger``.

Two facts of MMEngine shape this file. A child does not trigger the lazy import of its parent, so each location below
imports MMSeg's counterpart before its own modules. And a scope without a child in some registry tree falls back to
MMEngine's root with a warning, so that MMSeg's names would be lost there: the kinds that mmetris adds nothing to are
therefore declared as well.
"""

from collections.abc import Callable
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from mmseg import registry as mmseg_registry

from mmetris.utils.checkpoint_io import declare_safe_globals, read_checkpoint

# Here, because every run imports this module before it loads a checkpoint, whoever's tools it is started with.
declare_safe_globals()


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    # Without any location MMEngine would import the whole package at the first lookup.
    return Registry(name, parent=parent, scope='mmetris', locations=list(locations) or ['mmetris'])


# Encoders, Bridger, decode heads, losses, segmentors and data preprocessors.
MODELS = _child('model', mmseg_registry.MODELS, 'mmetris.models')
# Referring data sets, what mixes them, and the transforms of their pipelines.
DATASETS = _child('dataset', mmseg_registry.DATASETS, 'mmetris.datasets')
TRANSFORMS = _child('transform', mmseg_registry.TRANSFORMS, 'mmetris.datasets.transforms')
# Samples of training by iterations.
DATA_SAMPLERS = _child('data sampler', mmseg_registry.DATA_SAMPLERS, 'mmetris.datasets.samplers')
# oIoU, mIoU and Pr@X.
METRICS = _child('metric', mmseg_registry.METRICS, 'mmetris.evaluation')
# The tunable-parameter report and resumable seeding.
HOOKS = _child('hook', mmseg_registry.HOOKS, 'mmetris.engine.hooks')
# Training in bfloat16.
OPTIM_WRAPPERS = _child('optim_wrapper', mmseg_registry.OPTIM_WRAPPERS, 'mmetris.engine.optim_wrappers')
# Pictures of image, sentence, predicted and true mask.
VISUALIZERS = _child('visualizer', mmseg_registry.VISUALIZERS, 'mmetris.visualization')

# The test loop over several splits.
LOOPS = _child('loop', mmseg_registry.LOOPS, 'mmetris.engine.loops')

# How a model is spread over processes, and the runner that reads it. MMSeg has no strategies of its own.
STRATEGIES = _child('strategy', mmengine_registry.STRATEGIES, 'mmetris.engine.strategies')
RUNNERS = _child('runner', mmseg_registry.RUNNERS, 'mmetris.engine.strategies')

# Nothing of ours in these; they carry MMSeg's and MMEngine's names into the scope.
RUNNER_CONSTRUCTORS = _child('runner constructor', mmseg_registry.RUNNER_CONSTRUCTORS)
MODEL_WRAPPERS = _child('model_wrapper', mmseg_registry.MODEL_WRAPPERS, 'mmetris.models')
WEIGHT_INITIALIZERS = _child('weight initializer', mmseg_registry.WEIGHT_INITIALIZERS, 'mmetris.models')
OPTIMIZERS = _child('optimizer', mmseg_registry.OPTIMIZERS, 'mmseg.engine.optimizers')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', mmseg_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'mmseg.engine.optimizers'
)
PARAM_SCHEDULERS = _child('parameter scheduler', mmseg_registry.PARAM_SCHEDULERS, 'mmseg.engine.schedulers')
EVALUATOR = _child('evaluator', mmseg_registry.EVALUATOR)
TASK_UTILS = _child('task util', mmseg_registry.TASK_UTILS, 'mmetris.models')
VISBACKENDS = _child('vis_backend', mmseg_registry.VISBACKENDS, 'mmetris.visualization')
LOG_PROCESSORS = _child('log processor', mmseg_registry.LOG_PROCESSORS)
FUNCTIONS = _child('function', mmengine_registry.FUNCTIONS)
INFERENCERS = _child('inferencer', mmseg_registry.INFERENCERS)

# Packages whose configs and models MMEngine finds by name: `mmetris::etris/etris_r50_refcoco.py` as a `_base_`, and
# names of the model index in MMSegInferencer(..., scope='mmetris').
MODULE2PACKAGE.setdefault('mmetris', 'mmetris')


# Every kind of address that MMEngine's loaders know ('' is any other name, a file's), in its own words.
_ADDRESSES = (
    *('', 'http://', 'https://', 'torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://'),
    *('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'mmetris://', 'hf://', 'file://'),
)


@CheckpointLoader.register_scheme(prefixes=_ADDRESSES, force=True)
def load_from_restricted_reader(filename: str, map_location: Any = None) -> Any:
    """What MMEngine loads (``load_from``, ``resume``, ``init_cfg=dict(type='Pretrained')``, its inferencers) is read as
    our tools read it: MMEngine's own readers run the pickled code of a file that the restricted one refuses.

    Args:
        filename: A file or an address, see :func:`mmetris.utils.downloads.weights_path`; a name after
            ``torchvision://``, ``open-mmlab://`` or ``mmcls://`` is looked up as MMEngine does.
        map_location: As in :func:`torch.load`. Defaults to None: the CPU.

    Raises:
        FileNotFoundError: If it is not there, or cannot be fetched.
        ValueError: If it cannot be read, holds code, or is an address of another kind.
    """
    from .utils.downloads import weights_path

    scheme, _, name = filename.partition('://')
    zoo = _ZOOS.get(scheme)
    path = weights_path(zoo()[name] if zoo is not None else filename)
    content = read_checkpoint(path, 'cpu' if map_location is None else map_location)
    if scheme == 'mmcls':  # A classifier, of which the backbone is meant.
        state, prefix = content['state_dict'], 'backbone.'
        return dict(state_dict={key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    return content


_ZOOS: dict[str, Callable[[], dict[str, str]]] = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
    'mmcls': get_mmcls_models,
}
