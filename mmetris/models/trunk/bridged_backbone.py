"""The Bridger in any backbone: MMSegmentation's models, told the names of their classes.

    images --- stem ---- stage 2 ------- stage 3 ------- stage 4 -----> what the backbone returns
                            |     ^         |     ^         |     ^
                         [Bridger stage]->[Bridger stage]->[Bridger stage]
                            |     v         |     v         |
    class names --------- stage 2 ------- stage 3 ------- stage 4

The backbone walks by itself. Where a named stage ends, a hook reads its output, lets text encoder and Bridger take
their step, and puts the updated output in its place: the next stage and the head see nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmetris.registry import MODELS
from mmetris.utils.shapes import hw_of

from ..backbones.named_stages import find_stages, stage_paths, told_grid
from ..encoders import FrozenWeights
from ..necks.bridger import Bridger
from ..text_encoders.class_text import ClassText

# Text stages where class_text does not say how many.
NUM_TEXT_STAGES = 4


class _Walk:
    """What belongs to one forward pass: the size of its images, and how far its text has come."""

    def __init__(self, owner: BridgedBackbone, images: Tensor) -> None:
        self.owner = owner
        self.image_hw = hw_of(images)
        self.names = owner.class_text.for_names()
        self.text = owner.bridger.start_text(self.names, self.names.ids(len(images)))


# The forward pass that is under way. Kept here and not in the module, which several threads may run at once.
_current_walk: ContextVar[_Walk | None] = ContextVar('current_walk', default=None)


@MODELS.register_module()
class BridgedBackbone(BaseModule):
    """A backbone of MMSegmentation, with a Bridger between its stages and CLIP's features of class names.

    It takes the place of the backbone that it wraps: it takes the same images and returns the same features, for the
    same neck and heads. Before the first training step it returns exactly what the wrapped backbone would, since the
    Bridger starts with updates of zero.

    Checkpoints have the keys ``backbone.*`` (the wrapped backbone), ``class_text.*`` (CLIP's text encoder, which
    :class:`SlimCheckpointHook` leaves out) and ``bridger.*``. One of the model without Bridger can be loaded as it
    is: its keys find their place.

    Args:
        backbone: Config of the backbone to wrap. Any one will do whose stages can be named.
        class_text: Config of :class:`ClassText`: the vocabulary, and the CLIP that reads it. ``out_stages`` default to
            the last ones, one for each of ``stages``.
        bridger: Arguments of :class:`Bridger` that shall differ, e.g. ``dict(embed_dims=32)``. Widths and strides are
            found by a trial run; ``zero_init`` is True here. Defaults to None.
        stages: Stages after which there is a Bridger: numbers of a known family (:data:`FAMILIES`: ResNet, Swin, MiT,
            MSCAN; BEiT and ViT, cut in four), or module paths of any backbone, each leading to a module that returns
            a map or tokens: ``('layer2', 'layer3')``, ``('stages.2.blocks.5', ...)``. Defaults to ``(2, 3, 4)``.
        freeze_backbone: Whether the wrapped backbone stays as it is: no gradients, and evaluation mode through
            :meth:`train`. Defaults to False.
        input_hw: Height and width in pixels for the trial run, for a backbone that takes images of one size only.
            Defaults to None: the backbone's own ``img_size``, if it has one, else 256 x 256.
        pretrained: Checkpoint of the wrapped backbone, in the place where MMSegmentation's segmentors put it. Defaults
            to None.

    Raises:
        ValueError: If a stage path leads to no module or to one that gives no map, numbers do not suit the family,
            there are more stages than text stages, or the strides are too far apart for the Bridger.
    """

    def __init__(
        self,
        backbone: dict,
        class_text: dict,
        bridger: dict | None = None,
        stages: Sequence[int | str] = (2, 3, 4),
        freeze_backbone: bool = False,
        input_hw: tuple[int, int] | None = None,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        backbone = dict(backbone)
        if pretrained is not None:
            backbone['pretrained'] = pretrained
        self.backbone = MODELS.build(backbone)
        self.stages = find_stages(self.backbone, stage_paths(self.backbone, stages), input_hw)
        self.class_text = MODELS.build(_with_out_stages(class_text, len(self.stages)))
        if len(self.class_text.out_stages) != len(self.stages):
            raise ValueError(
                f'the stages {[stage.path for stage in self.stages]} need as many out_stages of class_text, not '
                f'{self.class_text.out_stages}'
            )
        # Nothing reads what follows the last text stage: where the text is tuned, these would stay without gradients.
        self.class_text.pretrained.untune(('ln_final', 'text_projection'))
        defaults = dict(
            type=Bridger,
            image_specs=[stage.spec for stage in self.stages],
            word_channels=self.class_text.embed_dims,
            out_stages=range(1, len(self.stages) + 1),
            zero_init=True,
            update_last_words=False,
        )
        self.bridger = MODELS.build({**defaults, **(bridger or {})})
        for index, stage in enumerate(self.stages):
            module = self.backbone.get_submodule(stage.path)
            module.register_forward_hook(partial(self._after_stage, index), with_kwargs=True)
        self.freeze_backbone = freeze_backbone
        self._frozen = FrozenWeights(self.backbone) if freeze_backbone else None
        self.train()

    def train(self, mode: bool = True) -> BridgedBackbone:
        super().train(mode)
        if self._frozen is not None:
            self._frozen.train(mode)
        return self

    def forward(self, images: Tensor) -> Any:
        """What the wrapped backbone returns.

        Args:
            images: (B, 3, H, W) normalised images, as the wrapped backbone takes them.

        Raises:
            ValueError: If a Transformer's tokens do not fill the grid of images of this size.
        """
        token = _current_walk.set(_Walk(self, images))
        try:
            return self.backbone(images)
        finally:
            _current_walk.reset(token)

    def _after_stage(self, index: int, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor:
        """Hook at the end of stage ``index``: text and Bridger take their step; returns the updated output."""
        walk, stage = _current_walk.get(), self.stages[index]
        if walk is None or walk.owner is not self:
            raise RuntimeError(
                f'stage {stage.path!r} ran outside of BridgedBackbone.forward, without text. Call the '
                'BridgedBackbone; and if activation checkpointing ran the stage again, checkpoint the whole '
                'BridgedBackbone or, with with_cp, single blocks'
            )
        if index + 1 not in self.bridger.stages:
            return output
        text = self.bridger.run_text(walk.names, walk.text, walk.names.out_stages[index])
        feature_map = stage.read(output, told_grid(args, kwargs), walk.image_hw)
        update, walk.text = self.bridger.step(index + 1, feature_map, text)
        return stage.add(output, update)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A checkpoint of the model without Bridger.
        for key in self.backbone.state_dict():
            if prefix + key in state_dict and f'{prefix}backbone.{key}' not in state_dict:
                state_dict[f'{prefix}backbone.{key}'] = state_dict.pop(prefix + key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _with_out_stages(class_text: dict, num_stages: int) -> dict:
    """Config of the text encoder, whose last stages take part unless it says otherwise."""
    num_text_stages = class_text.get('num_stages', NUM_TEXT_STAGES)
    if num_stages > num_text_stages:
        raise ValueError(
            f'{num_stages} stages have a Bridger, but the text encoder is cut into {num_text_stages}; set num_stages '
            f'of class_text to {num_stages} or more'
        )
    last = range(num_text_stages - num_stages + 1, num_text_stages + 1)
    return {'type': ClassText, 'num_stages': num_text_stages, 'out_stages': last, **class_text}
