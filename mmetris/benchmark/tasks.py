"""Tasks: one repetition of what a user waits for, on random weights and random pixels, which cost what real ones do.

Axes: B images, K sentences for each, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import Tensor

from mmetris.benchmark.plain_path import plain_path
from mmetris.engine.activation_checkpointing import checkpoint_activations
from mmetris.engine.compiling import eager
from mmetris.models.segmentors import ClassNameSegmentor
from mmetris.models.trunk.prefix_cache import PrefixCache
from mmetris.registry import MODELS
from mmetris.structures import RefDataSample
from mmetris.utils.config_types import is_kind_of, type_name
from mmetris.utils.quiet import quieted
from mmetris.utils.tokenizer import tokenize

TASKS = ('infer', 'multi', 'train', 'data', 'semseg')
PATHS = ('fast', 'plain', 'unshared', 'cached', 'compiled')
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
SENTENCES = ('the man in the red coat', 'left person', 'the second dog from the right', 'a blue cup on the table')


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        task: One of ``TASKS``: ``'infer'``: mask logits of B images, one sentence each; ``'multi'``: of B images with K
            sentences each; ``'train'``: a whole optimizer step on B images with K sentences each; ``'data'``: B samples
            from JPEG file to packed sample, in this process; ``'semseg'``: a class for each pixel of B images.
        batch: B. Defaults to 1.
        expressions: K. Defaults to 1.
        hw: Height and width of the input. Defaults to ``(416, 416)``.
        dtype: Name of a type in ``DTYPES``; other than float32, autocast to it surrounds the call. Defaults to
            ``'float32'``.
        device: Defaults to ``'cpu'``.
        plain_dtype: Type of the literal computation. Defaults to None: ``dtype``.
        channels_last: Whether convolutions work on that layout. Defaults to False.
        graph_from_stem: See :func:`plain_path`. Defaults to True.
        own_data: Task ``'data'``: read the config's own data set, not drawn photographs. Defaults to False.
        matmul_side: Side of the square matrix product. Defaults to None: 8192 on a GPU, 2048 elsewhere.
    """

    task: str
    batch: int = 1
    expressions: int = 1
    hw: tuple[int, int] = (416, 416)
    dtype: str = 'float32'
    plain_dtype: str | None = None
    device: str = 'cpu'
    channels_last: bool = False
    graph_from_stem: bool = True
    own_data: bool = False
    matmul_side: int | None = None

    @property
    def sentences(self) -> int:
        """Sentences of one repetition."""
        return self.batch * self.expressions

    def autocast(self, path: str = 'fast') -> torch.autocast:
        """The context of a call on one of ``PATHS``."""
        dtype = self.plain_dtype or self.dtype if path == 'plain' else self.dtype
        return torch.autocast(self.device.split(':')[0], DTYPES[dtype], enabled=dtype != 'float32')


class Task(NamedTuple):
    """One thing to time.

    Args:
        call: One repetition.
        model: The model it runs.
        unshared: The same with each sentence's image encoded by itself, None where there is one sentence for each.
        optim_wrapper: Of a training step, else None.
    """

    call: Callable[[], Any]
    model: Any
    unshared: Callable[[], Any] | None = None
    optim_wrapper: OptimWrapper | None = None


def on_path(path: str, task: Task, setting: Setting, folder: str | None = None) -> Callable[[], Any]:
    """One repetition of a task on one of ``PATHS``.

    Args:
        path: Which; for ``'compiled'`` the task's model has been compiled.
        task: What is repeated.
        setting: It gives the types.
        folder: Of the prefix cache, for ``'cached'``. Defaults to None.

    Raises:
        ValueError: If ``'cached'`` has no folder, or ``'unshared'`` one sentence for each image.
    """
    if path == 'cached' and folder is None:
        raise ValueError("path 'cached' needs a folder")
    if path == 'unshared' and task.unshared is None:
        raise ValueError(f"path 'unshared' needs several sentences for each image, and there is {setting.expressions}")
    repeat = task.unshared if path == 'unshared' and task.unshared is not None else task.call
    cache = PrefixCache(folder, max_gb=100) if path == 'cached' and folder is not None else None

    def call() -> Any:
        plain = plain_path(task.model, setting.graph_from_stem) if path == 'plain' else nullcontext()
        task.model.prefix_cache = cache
        with nullcontext() if path == 'compiled' else eager(task.model), plain, setting.autocast(path):
            return repeat()

    return call


def build_task(cfg: Config, setting: Setting) -> Task:
    """Model with random weights, and one repetition of the task on random images.

    Args:
        cfg: Config of the model; for ``'train'`` also ``optim_wrapper``. Its ``activation_checkpointing`` is followed.
        setting: What is measured.

    Raises:
        ValueError: If the config's model does not suit the task.
    """
    model = build_model(cfg, setting)
    images = torch.randn(setting.batch, 3, *setting.hw, device=setting.device)
    if setting.channels_last:
        images = images.to(memory_format=torch.channels_last)
    if setting.task == 'semseg':
        return Task(_without_gradients(lambda: model.predict(images)), model)
    tokens = _sentences(setting, cfg.get('context_length', 17))
    if setting.task == 'train':
        optim_wrapper = _optim_wrapper(cfg, setting, model)
        step = _training_step(setting, model, images, tokens, optim_wrapper)
        return Task(step, model, _without_sharing(model, step) if setting.expressions > 1 else None, optim_wrapper)
    if setting.expressions == 1:
        return Task(_without_gradients(lambda: model.forward_logits(images, tokens)), model)
    index = torch.arange(setting.batch, device=setting.device).repeat_interleave(setting.expressions)
    return Task(
        _without_gradients(lambda: model.forward_logits(images, tokens, index)),
        model,
        _without_gradients(lambda: model.forward_logits(images[index], tokens)),
    )


def build_model(cfg: Config, setting: Setting) -> Any:
    """The config's model with random weights, in the mode of the task.

    Raises:
        ValueError: If it is no model for the task.
    """
    init_default_scope(cfg.get('default_scope', 'mmetris'))
    if is_kind_of(cfg.model, ClassNameSegmentor, MODELS) != (setting.task == 'semseg'):
        raise ValueError(
            f'task {setting.task!r} cannot be measured on a {type_name(cfg.model)}: '
            '"semseg" takes a ClassNameSegmentor, the other tasks a ReferringSegmentor'
        )
    model_cfg = cfg.model.copy()
    model_cfg.pop('prefix_cache', None)
    model_cfg.train_cfg = dict(model_cfg.get('train_cfg') or {}, share_images=setting.expressions > 1)
    model = MODELS.build(model_cfg)  # Constructors read no weights.
    model = model.to(setting.device).train(setting.task == 'train')
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if setting.task == 'train' and cfg.get('activation_checkpointing'):
        checkpoint_activations(model, cfg.activation_checkpointing)
    return model


def _sentences(setting: Setting, context_length: int) -> Tensor:
    count = setting.sentences
    expressions = (SENTENCES * (count // len(SENTENCES) + 1))[:count]
    return tokenize(list(expressions), context_length).to(setting.device)


def _without_gradients(call: Callable) -> Callable:
    return torch.no_grad()(call)


def _without_sharing(model: Any, step: Callable) -> Callable:
    def call() -> None:
        model.train_cfg['share_images'] = False
        try:
            step()
        finally:
            model.train_cfg['share_images'] = True

    return call


def _optim_wrapper(cfg: Config, setting: Setting, model: Any) -> OptimWrapper:
    """The config's, in the setting's type."""
    wrapper_cfg = cfg.optim_wrapper.copy()
    if setting.dtype == 'float16':  # bfloat16 has float32's range and needs no scaling of the loss
        wrapper_cfg.update(type='AmpOptimWrapper', dtype='float16')
    if setting.device == 'meta':  # Fused optimizers refuse it, and clipping reads a number, of which there are none.
        wrapper_cfg.optimizer = {key: value for key, value in wrapper_cfg.optimizer.items() if key != 'fused'}
        wrapper_cfg.clip_grad = None
    with quieted(MMLogger.get_current_instance()):
        return build_optim_wrapper(model, wrapper_cfg)


def _training_step(
    setting: Setting, model: Any, images: Tensor, tokens: Tensor, optim_wrapper: OptimWrapper
) -> Callable:
    """Losses, gradients and an optimizer step, as the runner does them."""
    samples = []
    for row, ids in enumerate(tokens):
        sample = RefDataSample(metainfo=dict(img_path=f'{row // setting.expressions}.jpg', img_shape=setting.hw))
        sample.tokens = ids
        mask = torch.zeros(1, *setting.hw, dtype=torch.long, device=setting.device)
        mask[:, : setting.hw[0] // 2] = 1
        sample.gt_sem_seg = PixelData(data=mask)
        samples.append(sample)
    images = images.repeat_interleave(setting.expressions, dim=0)

    def step() -> None:
        loss, _ = model.parse_losses(model.loss(images, samples))
        # As the runner does, outside of autocast, which there is none of on device 'meta'.
        with nullcontext() if setting.device == 'meta' else torch.autocast(setting.device.split(':')[0], enabled=False):
            optim_wrapper.update_params(loss)

    return step
