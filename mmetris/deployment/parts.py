"""A referring model as plain functions of tensors, whole or cut where the sentence comes in.

    whole:   images, tokens --------------------------------> probabilities, logits
    image:   images -------------------> features                                      (once for each image)
    text:    tokens, image_index, features -----------------> probabilities, logits    (as often as you ask)

Where the model decides "not in the picture", ``no_target_scores`` come third.

The cut is where :meth:`ReferringSegmentor.encode_images` makes it: right before the sentence comes in. Axes: I
images, B sentences, L tokens, H W the network's input, h w the grid of the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmetris.models import ReferringSegmentor
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

    def __init__(self, model: ReferringSegmentor) -> None:
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


class MaskOutput(nn.Module):
    """From the logits to probabilities at the size of the network's input.

    Args:
        model: The model.
        input_hw: Size of the network's input.
    """

    def __init__(self, model: ReferringSegmentor, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.corner_aligned = model.test_cfg.get('corner_aligned', False)
        self.input_hw = input_hw

    def forward(self, logits: Tensor, no_target_scores: Tensor | None = None) -> tuple[Tensor, ...]:
        """Logits (B, 1, h, w) -> probabilities (B, 1, H, W), by bicubic interpolation and so a little outside of 0..1
        in places, and the logits; behind them no-target scores (B,) as they came, if any."""
        probabilities = at_input_size(logits.sigmoid(), self.input_hw, self.corner_aligned)
        return (probabilities, logits) if no_target_scores is None else (probabilities, logits, no_target_scores)


class WholeModel(nn.Module):
    """Images and as many sentences, row by row.

    Args:
        model: The model, in evaluation mode.
        input_hw: Size of the network's input.
    """

    def __init__(self, model: ReferringSegmentor, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.image_input, self.mask_output = ImageInput(model), MaskOutput(model, input_hw)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Masks.

        Args:
            images: (B, 3, H, W) RGB, 0..255.
            tokens: (B, L) int64.

        Returns:
            Probabilities (B, 1, H, W) and logits (B, 1, h, w); and no-target scores (B,), if the model decides that.
        """
        return self.mask_output(*self.model.forward_answers(self.image_input(images), _ids(tokens)))


class ImagePart(nn.Module):
    """What can be computed of an image before a sentence is known.

    Args:
        model: The model, in evaluation mode.
    """

    def __init__(self, model: ReferringSegmentor) -> None:
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

    def __init__(self, model: ReferringSegmentor, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.mask_output = model, MaskOutput(model, input_hw)
        with torch.no_grad():
            prefix = model.encode_images(torch.zeros(1, 3, *input_hw))
        self._form = TreeForm(_needed(model, prefix))

    def forward(self, tokens: Tensor, image_index: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        """Masks.

        Args:
            tokens: (B, L) int64.
            image_index: (B,) int64, the image that each sentence speaks of, 0..I - 1.
            *features: What :class:`ImagePart` made of I images.

        Returns:
            As of :class:`WholeModel`.
        """
        prefix = self._form.fill(features)._replace(num_images=features[0].shape[0])
        return self.mask_output(*self.model.forward_answers(prefix, _ids(tokens), image_index))


def _ids(tokens: Tensor) -> Tensor:
    """Token ids as int32: ONNX Runtime finds the largest of a row only of these."""
    return tokens.to(torch.int32)


def _needed(model: ReferringSegmentor, prefix: ImagePrefix) -> ImagePrefix:
    """Where the sentence never reaches the image encoder, its maps are all that counts."""
    return prefix if model.neck.reads_text(model.backbone) else prefix._replace(state=None)
