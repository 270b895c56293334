"""How a model is spread over processes: MMEngine's strategies for its ``FlexibleRunner``, where they need our help."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.runner._flexible_runner import FlexibleRunner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmetris.models.encoders import FrozenEncoder
from mmetris.registry import RUNNERS, STRATEGIES
from mmetris.utils.param_count import remember_whole_sizes, whole_size
from mmetris.utils.work_folder import find_resumable

# Blocks of CLIP's transformers and ResNets, its table of words, Bridger stages, parts of the decoder.
SHARDED_CLASSES = (
    'ResidualAttentionBlock',
    'FoldedBottleneck',
    'Embedding',
    'BridgerStage',
    'HierarchicalAlignment',
    'GlobalAlignmentLayer',
    'Projector',
)


@RUNNERS.register_module()
class RefSegFlexibleRunner(FlexibleRunner):
    """MMEngine's ``FlexibleRunner``, which reads ``strategy``, with the right epoch in its checkpoints.

    After a validation with a new best score MMEngine saves the epoch's checkpoint anew and says which epoch it is. The
    base class writes the next one instead, so that a resumed run would leave an epoch out.
    """

    _said: Mapping[str, int] = {}
    _load_from: str | None

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self._said.get('epoch', super().epoch)

    @property
    def iter(self) -> int:
        """Iterations that are done."""
        return self._said.get('iter', super().iter)

    def load_or_resume(self) -> None:
        """Load or resume; of a work folder the newest whole checkpoint, as tools/train.py does."""
        if self._resume is True and self._load_from is None and (found := find_resumable(self.work_dir)):
            self._load_from = str(found)
        super().load_or_resume()

    def save_checkpoint(self, *args: Any, meta: dict | None = None, by_epoch: bool = True, **kwargs: Any) -> None:
        """Save a checkpoint; see the base class.

        Args:
            *args: Folder and name, as in the base class.
            meta: What is saved beside the weights; ``epoch`` and ``iter`` count where they are given.
            by_epoch: Whether the training counts epochs. Defaults to True.
            **kwargs: As in the base class.
        """
        # The base class saves `epoch + 1` and `iter`, or, without `by_epoch`, `epoch` and `iter + 1`.
        saved_as = dict(epoch=int(by_epoch), iter=int(not by_epoch))
        said = meta or {}
        self._said = {name: said[name] - more for name, more in saved_as.items() if name in said}
        try:
            super().save_checkpoint(*args, meta=meta, by_epoch=by_epoch, **kwargs)
        finally:
            self._said = {}


def is_one_of(
    module: nn.Module, recurse: bool, nonwrapped_numel: int, class_names: Collection[str] = SHARDED_CLASSES
) -> bool:
    """An ``auto_wrap_policy`` of FSDP: gather and free the parameters of a module together if its class is named.

    Args:
        module: The module in question.
        recurse: Whether FSDP asks to look inside the module (always) or to wrap it.
        nonwrapped_numel: Parameters in it that are not wrapped yet.
        class_names: Names of classes whose parameters are only read in their ``forward``.
    """
    return recurse or (nonwrapped_numel > 0 and type(module).__name__ in class_names)


@STRATEGIES.register_module()
class RefSegFSDPStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy`` for a frozen CLIP with tunable parts.

    Every process keeps a share of all parameters, gradients and optimizer states, and gathers the parameters of a block
    for as long as that computes. What is different from the base class:

    - frozen and tunable parameters may stand side by side, and blocks are gathered one by one without further settings;
    - checkpoints are whole files (``state_dict_cfg='full'``), slim ones with :class:`SlimCheckpointHook`, which load on
      one process and everywhere else;
    - a slim checkpoint loads into sharded encoders, and what is missing in or foreign to the model is logged;
    - gradients are clipped by the norm of the whole model, not by that of a process's share;
    - an optimizer's state is saved as the ordinary runner does, and loads with PyTorch from 2.1 on, which changed the
      order of the arguments;
    - processes without a GPU (gloo) work.

    What is not wrapped with a class in ``shard_classes`` is gathered for the whole step.

    Args:
        model_wrapper: Arguments of MMEngine's ``MMFullyShardedDataParallel``. Defaults to None: those above.
        shard_classes: Names of the classes whose parameters are gathered together. Their parameters must be read
            nowhere but in their ``forward``. Defaults to ``SHARDED_CLASSES``.
        state_dict_cfg: See the base class. Defaults to ``'full'``.
        **kwargs: Further arguments of the base class.
    """

    def __init__(
        self,
        *,
        model_wrapper: dict | None = None,
        shard_classes: Collection[str] = SHARDED_CLASSES,
        state_dict_cfg: str | dict = 'full',
        **kwargs: Any,
    ) -> None:
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        self.shard_classes = tuple(shard_classes)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        wrapper = dict(
            type='MMFullyShardedDataParallel',
            use_orig_params=True,  # frozen and tunable parameters in one shard
            auto_wrap_policy=partial(is_one_of, class_names=self.shard_classes),
        )
        if not get_device().startswith(('cuda', 'npu', 'mlu', 'musa')):
            wrapper['device_id'] = torch.device('cpu')  # MMEngine would name a CUDA device.
            # "To the CPU" copies nothing there, and Adam's two moments would share the memory they were gathered in.
            self.optim_state_dict_config.offload_to_cpu = False
        self.model_wrapper: dict[str, Any] = wrapper | dict(self.model_wrapper or {})
        # From here on this process sees shares only.
        remember_whole_sizes(model)
        for encoder in _encoders(model).values():
            encoder.remember()
        model = super()._wrap_model(model)
        kept, whole = (sum(map(size, model.parameters())) for size in (nn.Parameter.numel, whole_size))
        print_log(
            f'this process keeps {kept:,} of {whole:,} parameters, and gathers the others by {_num_units(model)} '
            'groups',
            logger='current',
        )
        return model

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> BaseOptimWrapper:
        built = super().build_optim_wrapper(optim_wrapper, model)
        if isinstance(built, OptimWrapper) and built.clip_grad_kwargs and built.grad_name == 'grad_norm':
            # In place of the method and not of `clip_func`: a process without gradients of its own takes part too.
            built._clip_grad = partial(_clip_by_whole_norm, model, built)
        return built

    def load_model_state_dict(
        self, state_dict: dict[str, Tensor], *, strict: bool = False, revise_keys: Sequence = ()
    ) -> None:
        """Load a full or slim state dict.

        Args:
            state_dict: Keys of the model without any wrapper.
            strict: Whether missing and unknown keys are an error. Defaults to False: they are logged.
            revise_keys: Not used, as in the base class.

        Raises:
            ValueError: If it is a slim one that was tuned on another CLIP.
        """
        frozen: set[str] = set()
        for start, encoder in _encoders(self.model.module).items():
            keys = encoder.frozen_keys()
            frozen.update(start + key for key in keys)
            encoder.remember_loaded({key: state_dict[start + key] for key in keys if start + key in state_dict})
        problems = self.model.load_state_dict(state_dict, strict=False)
        problems = dict(
            missing=sorted(set(problems.missing_keys) - frozen if frozen - set(state_dict) else problems.missing_keys),
            unexpected=sorted(problems.unexpected_keys),
        )
        for kind, keys in problems.items():
            if keys and strict:
                raise RuntimeError(f'{kind} keys in the checkpoint: {", ".join(keys)}')
            if keys:
                print_log(f'{kind} keys in the checkpoint: {", ".join(keys)}', 'current', logging.WARNING)

    def optim_state_dict(self) -> dict:
        """State of the optimizer as MMEngine's ordinary runner saves it, so that either resumes the other's checkpoint.

        Whole on the first process and empty on the others, with ``state_dict_cfg='full'``.
        """
        state_dict = FullyShardedDataParallel.optim_state_dict(self.model, self.optim_wrapper.optimizer)
        of_wrapper = getattr(self.optim_wrapper, 'base_param_settings', None)
        if of_wrapper is not None:
            state_dict['base_param_settings'] = of_wrapper
        return _renamed(state_dict, {name: index for index, name in enumerate(self._optimized_names())})

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`optim_state_dict` or MMEngine's ordinary runner saved.

        Args:
            state_dict: The whole state.
        """
        state_dict = dict(state_dict)
        of_wrapper = {key: state_dict.pop(key) for key in list(state_dict) if key not in ('state', 'param_groups')}
        state_dict = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model,
            optim=self.optim_wrapper.optimizer,
            optim_state_dict=_renamed(state_dict, dict(enumerate(self._optimized_names()))),
        )
        self.optim_wrapper.load_state_dict(state_dict | of_wrapper)

    def _optimized_names(self) -> list[str]:
        """Names of the optimizer's parameters in the order in which a state dict numbers them."""
        names = {id(parameter): clean_name(name) for name, parameter in self.model.named_parameters()}
        return [
            names[id(parameter)] for group in self.optim_wrapper.optimizer.param_groups for parameter in group['params']
        ]


def clean_name(name: str) -> str:
    """Name of a module or parameter without what FSDP's wrappers put into it."""
    return name.replace('_fsdp_wrapped_module.', '')


def _renamed(state_dict: Mapping[str, Any], names: Mapping[Hashable, Hashable]) -> dict[str, Any]:
    """An optimizer's state dict under other names of the parameters."""
    renamed = dict(state_dict)
    if 'state' in renamed:
        renamed['state'] = {names.get(name, name): value for name, value in renamed['state'].items()}
    if 'param_groups' in renamed:
        renamed['param_groups'] = [
            dict(group, params=[names.get(name, name) for name in group['params']]) for group in renamed['param_groups']
        ]
    return renamed


def _encoders(model: nn.Module) -> Mapping[str, FrozenEncoder]:
    """CLIP encoders by the start of their keys, which is free of wrappers' names."""
    return {
        f'{clean_name(name)}.': module for name, module in model.named_modules() if isinstance(module, FrozenEncoder)
    }


def _num_units(model: nn.Module) -> int:
    return sum(isinstance(module, FullyShardedDataParallel) for module in model.modules())


def _clip_by_whole_norm(model: Any, optim_wrapper: OptimWrapper) -> None:
    norm = model.clip_grad_norm_(**optim_wrapper.clip_grad_kwargs)
    optim_wrapper.message_hub.update_scalar('train/grad_norm', float(norm))


__all__ = ['RefSegFSDPStrategy', 'RefSegFlexibleRunner', 'SHARDED_CLASSES', 'is_one_of']
