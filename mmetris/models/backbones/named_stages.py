"""Stages of any backbone, named by module path: where they end, and how their output reads as a map.

A stage ends where a named module ends, and the next stage starts from that module's output. The output is a map
(B, C, H, W), as in a ResNet, or tokens (B, P + H * W, C), as in a Transformer, after P tokens that belong to no
place (a class token). A block that needs the grid of its tokens is called with it; the others' follows from the size
of the image.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from mmseg.models import backbones as mmseg_backbones
from torch import Tensor, nn

from ..encoders import StageSpec
from ..encoders.staged import split_evenly
from .clip_vit import map_to_tokens, tokens_to_map

# Side in pixels of the image a backbone is tried on, where it does not ask for one size.
TRIAL_SIZE = 256
# Transformers of one resolution are cut evenly, as CLIP's ViT is.
NUM_EVEN_STAGES = 4


def _resnet(backbone: Any) -> list[str]:
    return list(backbone.res_layers)


def _swin(backbone: Any) -> list[str]:
    # The last block, not the stage, which returns the next one's smaller tokens as well.
    return [f'stages.{index}.blocks.{len(stage.blocks) - 1}' for index, stage in enumerate(backbone.stages)]


def _mix_transformer(backbone: Any) -> list[str]:
    return [f'layers.{index}.1.{len(blocks) - 1}' for index, (_, blocks, _) in enumerate(backbone.layers)]


def _mscan(backbone: Any) -> list[str]:
    return [f'block{stage + 1}.{depth - 1}' for stage, depth in enumerate(backbone.depths)]


def _plain_transformer(backbone: Any) -> list[str]:
    return [f'layers.{blocks[-1]}' for blocks in split_evenly(len(backbone.layers), NUM_EVEN_STAGES)]


# Class in MMSegmentation, subclasses included -> where its stages end.
FAMILIES: dict[str, Callable[[nn.Module], list[str]]] = dict(
    ResNet=_resnet,
    SwinTransformer=_swin,
    MixVisionTransformer=_mix_transformer,
    MSCAN=_mscan,
    BEiT=_plain_transformer,
    VisionTransformer=_plain_transformer,
)


def family_paths(backbone: nn.Module) -> list[str]:
    """Module paths at which the stages of a backbone of a known family end, stage 1 first.

    Raises:
        ValueError: If it belongs to no family in :data:`FAMILIES`.
    """
    for name, paths in FAMILIES.items():
        if isinstance(backbone, getattr(mmseg_backbones, name)):
            return paths(backbone)
    raise ValueError(
        f'stages of {type(backbone).__name__} are not known by number, only those of {", ".join(FAMILIES)}; name '
        "them by module path, e.g. stages=('blocks.5', 'blocks.11')"
    )


def stage_paths(backbone: nn.Module, stages: Sequence[int | str]) -> list[str]:
    """Module paths of stages that are given as numbers of a known family, or as paths already.

    Args:
        backbone: Any backbone.
        stages: 1-based numbers, or paths such as ``'layer3'`` or ``'stages.2.blocks.5'``.

    Raises:
        ValueError: If there is none, both forms are mixed, the family is unknown or has no such number, or a path leads
            to no module.
    """
    stages = list(stages)
    if not stages:
        raise ValueError('stages is empty: name at least one stage to put a Bridger after, or leave the backbone as is')
    numbers = [stage for stage in stages if isinstance(stage, int)]
    if len(numbers) == len(stages):
        paths = family_paths(backbone)
        if numbers != sorted(set(numbers)) or numbers[0] < 1 or numbers[-1] > len(paths):
            raise ValueError(
                f'stages={tuple(stages)} of {type(backbone).__name__} must increase within 1..{len(paths)}'
            )
        return [paths[number - 1] for number in numbers]
    paths = [stage for stage in stages if isinstance(stage, str)]
    if len(paths) < len(stages):
        raise ValueError(f'stages={tuple(stages)} must all be numbers, or all be module paths')
    known = [path for path, _ in backbone.named_modules() if path]
    for path in paths:
        if path not in known:
            close = difflib.get_close_matches(path, known, n=3) or [name for name, _ in backbone.named_children()]
            raise ValueError(
                f'stage path {path!r} leads to no module of {type(backbone).__name__}; near it are {", ".join(close)}'
            )
    return paths


def told_grid(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[int, int] | None:
    """Grid (H, W) among the arguments of a block's call after the features: a pair of integers, or two of them."""
    values = [*args[1:], *kwargs.values()]
    for pair in [*values, [value for value in values if type(value) is int]]:
        if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(size) is int for size in pair):
            return tuple(pair)
    return None


def _grids_of_image(image_hw: Iterable[int], stride: int) -> list[tuple[int, int]]:
    """Grids a backbone may make of an image: where the stride does not divide it, some pad and some cut."""
    height, width = image_hw
    return [(math.ceil(height / stride), math.ceil(width / stride)), (height // stride, width // stride)]


class NamedStage(NamedTuple):
    """One stage's end, and how to read and change what comes out there.

    Args:
        path: Module path.
        spec: Width and stride of the map.
        num_prefix: Number P of tokens before those of the grid; None where the output is a map itself.
    """

    path: str
    spec: StageSpec
    num_prefix: int | None

    def read(self, output: Tensor, grid_hw: tuple[int, int] | None, image_hw: tuple[int, int]) -> Tensor:
        """Output of the module as a map.

        Args:
            output: (B, C, H, W) or (B, P + H * W, C).
            grid_hw: What :func:`told_grid` found in the call.
            image_hw: Size of the image, which tells the grid where the call does not.

        Returns:
            (B, C, H, W)

        Raises:
            ValueError: If the tokens fill no such grid.
        """
        if self.num_prefix is None:
            return output
        tokens = output[:, self.num_prefix :]
        grids = [grid_hw] if grid_hw is not None else _grids_of_image(image_hw, self.spec.stride)
        for grid in grids:
            if math.prod(grid) == tokens.shape[1]:
                return tokens_to_map(tokens, grid)
        raise ValueError(
            f'{tokens.shape[1]} tokens of stage {self.path!r} fill none of the grids {grids} of an image of '
            f'{image_hw[0]} x {image_hw[1]}; resize or pad images to multiples of {self.spec.stride}'
        )

    def add(self, output: Tensor, update: Tensor) -> Tensor:
        """Add a map (B, C, H, W) to the output of the module, whose precision stays (AMP may mix two)."""
        update = update.to(output.dtype)
        if self.num_prefix is None:
            return output + update
        prefix, tokens = output[:, : self.num_prefix], output[:, self.num_prefix :] + map_to_tokens(update)
        return torch.cat([prefix, tokens], dim=1) if self.num_prefix else tokens


class _Call(NamedTuple):
    path: str
    grid_hw: tuple[int, int] | None
    output: Any


def find_stages(backbone: nn.Module, paths: Sequence[str], input_hw: tuple[int, int] | None = None) -> list[NamedStage]:
    """Try a backbone to see what comes out at the named modules. It stays untouched: a copy is tried.

    Args:
        backbone: Any backbone.
        paths: Module paths, in the order in which they run.
        input_hw: Size of the image in pixels. Defaults to None: the backbone's own ``img_size``, if it has one, else
            256 x 256.

    Raises:
        ValueError: If the backbone does not run on that size, or one of the modules does not run exactly once, in this
            order, or gives no map.
    """
    if input_hw is None:
        size = getattr(backbone, 'img_size', TRIAL_SIZE)
        input_hw = (size, size) if isinstance(size, int) else tuple(size)
    calls = _try(backbone, paths, input_hw)
    order = [call.path for call in calls]
    for path in paths:
        if order.count(path) != 1:
            raise ValueError(f'stage path {path!r} must run once for an image, but runs {order.count(path)} times')
    if order != list(paths):
        raise ValueError(f'stage paths must be in the order in which they run: {tuple(order)}, not {tuple(paths)}')
    return [_stage_of(call, input_hw) for call in calls]


def _try(backbone: nn.Module, paths: Sequence[str], input_hw: tuple[int, int]) -> list[_Call]:
    # On the meta device there are only shapes: no time, no memory. A backbone that computes with values (`.item()`)
    # does not run there, so it runs for real.
    try:
        return _run(copy.deepcopy(backbone).to('meta'), paths, input_hw)
    except Exception:
        pass
    try:
        return _run(copy.deepcopy(backbone), paths, input_hw)
    except Exception as error:
        raise ValueError(
            f'{type(backbone).__name__} does not run on an image of {input_hw[0]} x {input_hw[1]} ({error}); give '
            'input_hw, the size in pixels that it takes'
        ) from error


def _run(backbone: nn.Module, paths: Sequence[str], input_hw: tuple[int, int]) -> list[_Call]:
    """Run a copy of the backbone and note the calls of the named modules."""
    backbone.eval()
    calls = []

    def note(path: str) -> Callable:
        return lambda module, args, kwargs, output: calls.append(_Call(path, told_grid(args, kwargs), output))

    for path in paths:
        backbone.get_submodule(path).register_forward_hook(note(path), with_kwargs=True)
    in_channels = next((module.in_channels for module in backbone.modules() if isinstance(module, nn.Conv2d)), 3)
    weight = next(backbone.parameters())
    with torch.no_grad():
        backbone(torch.zeros(1, in_channels, *input_hw, device=weight.device, dtype=weight.dtype))
    return calls


def _stage_of(call: _Call, input_hw: tuple[int, int]) -> NamedStage:
    """Make out channels, stride and leading tokens of what a module returned."""
    output, channels, grid_hw, num_prefix = call.output, 0, (0, 0), None
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if len(shape) == 4:
        channels, grid_hw = shape[1], shape[2:]
    elif len(shape) == 3:
        channels, grid_hw = shape[2], call.grid_hw or _largest_grid(shape[1], input_hw)
        num_prefix = shape[1] - math.prod(grid_hw)
    strides = {round(size / cells) if cells else 0 for size, cells in zip(input_hw, grid_hw)}
    # A map whose channels come last would have another stride along each side.
    if len(strides) != 1 or min(strides) < 1 or (num_prefix or 0) < 0:
        got = f'a tensor of shape {shape}' if isinstance(output, Tensor) else f'a {type(output).__name__}'
        raise ValueError(
            f'stage path {call.path!r} gives no map but {got}, for an image of {input_hw[0]} x {input_hw[1]}; name a '
            'module that returns (B, C, H, W), or tokens (B, N, C), such as the last block of the stage'
        )
    return NamedStage(call.path, StageSpec(channels, strides.pop()), num_prefix)


def _largest_grid(num_tokens: int, image_hw: tuple[int, int]) -> tuple[int, int]:
    """Largest grid of an image that so many tokens fill; the tokens left over come before it."""
    for stride in range(1, min(image_hw) + 1):
        grid_hw = _grids_of_image(image_hw, stride)[-1]
        if math.prod(grid_hw) <= num_tokens:
            return grid_hw
    return (0, 0)
