"""A referring model as plain functions of tensors, whole or cut where the sentence comes in.

    whole:   images, tokens --------------------------------> probabilities, logits
    image:   images -------------------> features                                      (once for each image)
    text:    tokens, image_index, features -----------------> probabilities, logits    (as often as you ask)

Where the model decides "not in the picture", ``no_target_scores`` come third. Of a model with a box head
(``gives_boxes``) ``boxes`` and ``box_scores`` come last; of one that gives boxes alone there is nothing before them.

The cut is where :meth:`BridgedModel.encode_images` makes it: right before the sentence comes in. Axes: I images, B
sentences, L tokens, H W the network's input, h w the grid of the logits, Q boxes of a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmetris.models import BridgedModel
from mmetris.models.decode_heads.mask_prediction import at_input_size
from mmetris.models.necks import ImagePrefix
from mmetris.structures import TreeForm, tensors_of


class ImageInput(nn.Module):
    """From RGB to what the model takes, by the numbers of its data preprocessor.

    Args:
        model: The model.

    Shape:
        (I, 3, H, W) RGB, 0..255 -> the same, normalised
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: BridgedModel) -> None:
        super().__init__()
        preprocessor = model.data_preprocessor
        self.swap = not preprocessor.swaps_channels  # A model that was trained on BGR.
        self.normalise = preprocessor.normalises
        if self.normalise:
            self.register_buffer('mean', preprocessor.mean.detach().clone())
            self.register_buffer('std', preprocessor.std.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """(I, 3, H, W) -> (I, 3, H, W)."""
        if self.swap:
            images = images.flip(1)
        return (images - self.mean) / self.std if self.normalise else images


class AnswerOutput(nn.Module):
    """From what the model answers to what a runtime takes: probabilities and boxes at the size of the network's input.

    Args:
        model: The model.
        input_hw: Size of the network's input.
    """

    corners: Tensor

    def __init__(self, model: BridgedModel, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.corner_aligned = model.test_cfg.get('corner_aligned', False)
        self.input_hw = input_hw
        # (centre x, centre y, width, height) as shares, times this: left, top, right, bottom in pixels.
        corners = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
        scale = torch.tensor([input_hw[1], input_hw[0]] * 2, dtype=torch.float32)
        self.register_buffer('corners', corners * scale, persistent=False)

    def forward(
        self,
        logits: Tensor | None,
        no_target_scores: Tensor | None = None,
        boxes: Tensor | None = None,
        box_scores: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Those that there are.

        Args:
            logits: (B, 1, h, w), which become probabilities (B, 1, H, W) before them, by bicubic interpolation and so a
                little outside of 0..1 in places.
            no_target_scores: (B,), as they came.
            boxes: (B, Q, 4), (centre x, centre y, width, height) as shares of the input, which become left, top, right
                and bottom in its pixels.
            box_scores: (B, Q), as they came.
        """
        outputs: list[Tensor | None] = [None, logits, no_target_scores, None, box_scores]
        if logits is not None:
            outputs[0] = at_input_size(logits.sigmoid(), self.input_hw, self.corner_aligned)
        if boxes is not None:
            outputs[3] = boxes @ self.corners
        return tuple(output for output in outputs if output is not None)


class WholeModel(nn.Module):
    """Images and as many sentences, row by row.

    Args:
        model: The model, in evaluation mode.
        input_hw: Size of the network's input.
    """

    def __init__(self, model: BridgedModel, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.image_input, self.answer_output = ImageInput(model), AnswerOutput(model, input_hw)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Masks and boxes.

        Args:
            images: (B, 3, H, W) RGB, 0..255.
            tokens: (B, L) int64.

        Returns:
            Probabilities (B, 1, H, W) and logits (B, 1, h, w) of a model that gives masks; no-target scores (B,), if it
            decides that; boxes (B, Q, 4) and their scores (B, Q) of a model with a box head.
        """
        return self.answer_output(*_answers_of(self.model)(self.image_input(images), _ids(tokens)))


class ImagePart(nn.Module):
    """What can be computed of an image before a sentence is known.

    Args:
        model: The model, in evaluation mode.
    """

    def __init__(self, model: BridgedModel) -> None:
        super().__init__()
        self.model, self.image_input = model, ImageInput(model)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(I, 3, H, W) RGB, 0..255 -> features, each (I, ...)."""
        return tuple(tensors_of(_needed(self.model, self.model.encode_images(self.image_input(images)))))


class TextPart(nn.Module):
    """What depends on the sentence.

    Args:
        model: The model, in evaluation mode.
        input_hw: Size of the network's input.
    """

    def __init__(self, model: BridgedModel, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.answer_output = model, AnswerOutput(model, input_hw)
        with torch.no_grad():
            prefix = model.encode_images(torch.zeros(1, 3, *input_hw))
        self._form = TreeForm(_needed(model, prefix))

    def forward(self, tokens: Tensor, image_index: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        """Masks and boxes.

        Args:
            tokens: (B, L) int64.
            image_index: (B,) int64, the image that each sentence speaks of, 0..I - 1.
            *features: What :class:`ImagePart` made of I images.

        Returns:
            As of :class:`WholeModel`.
        """
        prefix = self._form.fill(features)._replace(num_images=features[0].shape[0])
        return self.answer_output(*_answers_of(self.model)(prefix, _ids(tokens), image_index))


def _answers_of(model: BridgedModel) -> Callable[..., tuple[Tensor | None, ...]]:
    """``forward_answers``, which models of sentences have."""
    return cast(Any, model).forward_answers


def _ids(tokens: Tensor) -> Tensor:
    """Token ids as int32: ONNX Runtime finds the largest of a row only of these."""
    return tokens.to(torch.int32)


def _needed(model: BridgedModel, prefix: ImagePrefix) -> ImagePrefix:
    """Where the sentence never reaches the image encoder, its maps are all that counts."""
    return prefix if model.neck.reads_text(model.backbone) else prefix._replace(state=None)
