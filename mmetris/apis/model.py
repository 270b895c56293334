"""From a config and a checkpoint to a model that predicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmetris.datasets import RefCocoDataset
from mmetris.models.converters.shared_keys import PUBLISHED_PARTS
from mmetris.models.encoders.slim_checkpoint import is_slim, read_pretrained
from mmetris.registry import MODELS
from mmetris.utils.checkpoint_io import check_finite, read_checkpoint
from mmetris.utils.config_options import merge_options, read_config
from mmetris.utils.downloads import weights_path
from mmetris.utils.quiet import quieted

from .model_zoo import config_path


def init_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model in evaluation mode.

    Args:
        config: Config file, name of one that comes with mmetris, or what was read from one. A config is a Python
            program: use those you trust.
        checkpoint: Full or slim checkpoint (``.pth``, ``.safetensors``), a file or an address (``https://``,
            ``hf://owner/name/file``, ``mmetris://`` for one that ships); a slim one takes the frozen CLIP from the
            ``clip_checkpoint`` that the config names. Pickled code in it is refused, not run. Defaults to None: CLIP's
            weights, the rest random.
        device: Where the model goes. Defaults to None: ``'cuda:0'`` if there is one, else ``'cpu'``.
        cfg_options: Settings to override, with dotted keys: ``{'model.backbone.clip_checkpoint': 'ViT-B-16.pt'}``. What
            would have no effect is refused, see :func:`~mmetris.utils.config_options.merge_options`.

    Returns:
        The model, with ``cfg`` and ``dataset_meta`` (class names and colours) as attributes.

    Raises:
        FileNotFoundError: If the config, the checkpoint or CLIP's weights are missing.
        TypeError: If ``config`` is neither a file nor a :class:`mmengine.config.Config`.
        ValueError: If the checkpoint cannot be read or belongs to another model (the message names keys and shapes), if
            the config cannot be read, or if an option would have no effect.

    Example:
        >>> model = init_model('configs/etris/etris_vitb16_refcoco.py', 'work_dirs/etris_vitb16_refcoco/best_mIoU.pth')
        >>> logits = model.forward_logits(images, mmetris.tokenize('the dog on the left', 17))
    """
    if isinstance(config, (str, os.PathLike)):
        config = read_config(config_path(config))
    elif not isinstance(config, Config):
        raise TypeError(f'config must be a file name or a mmengine Config, not {type(config).__name__}')
    else:
        config = config.copy()
    if cfg_options:
        merge_options(config, cfg_options)
    if 'model' not in config:
        raise ValueError(f'{config.filename or "the config"} has no "model"')
    if device is None:
        device = 'cuda:0' if torch.cuda.is_available() else 'cpu'
    init_default_scope('mmetris')
    model = MODELS.build(config.model)
    dataset_meta = dict(RefCocoDataset.METAINFO)
    content: Mapping[str, Any] = {} if checkpoint is None else read_checkpoint(weights_path(checkpoint))
    with quieted(MMLogger.get_current_instance()):  # MMEngine tells of each parameter where its value comes from.
        if checkpoint is None:
            model.init_weights()
        else:
            load_weights(model, content, source=str(checkpoint))
    meta = content.get('meta')
    if isinstance(meta, Mapping) and isinstance(meta.get('dataset_meta'), Mapping):
        dataset_meta = dict(meta['dataset_meta'])
    model.cfg, model.dataset_meta = config, dataset_meta
    return model.to(device).eval()


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], source: str = 'the checkpoint') -> None:
    """Load a checkpoint, full or slim, that fits the model exactly.

    Args:
        model: The model to fill.
        checkpoint: Content of a checkpoint file: ``dict(state_dict=...)``, or a state dict itself.
        source: Name of the file, for messages.

    Raises:
        ValueError: If there are no weights in it, if they are not finite, or if keys or shapes are not the model's.
    """
    state = checkpoint.get('state_dict', checkpoint)
    is_mapping = isinstance(state, Mapping) and len(state) > 0
    if not is_mapping or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f'{source} has no "state_dict" of weights')
    for part, (code, converter) in PUBLISHED_PARTS.items():
        if any(key.removeprefix('module.').startswith(part) for key in state):
            raise ValueError(f'{source} is a checkpoint of {code}: convert it by {converter} first')
    if all(key.startswith('module.') for key in state):  # Saved inside a wrapper for several GPUs.
        state = {key.removeprefix('module.'): value for key, value in state.items()}
    check_finite(state, source)
    if is_slim(state):
        read_pretrained(model)
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:  # PyTorch lists missing and unexpected keys and shapes.
        raise ValueError(f'{source} does not fit the model of the config. {_shorten(str(error))}') from error


def _shorten(message: str, limit: int = 2000) -> str:
    return message if len(message) <= limit else message[:limit] + f'... ({len(message) - limit} more characters)'
