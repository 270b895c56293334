"""One picture at a time, asked many times: for notebooks, web pages and annotation tools."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from mmengine.config import Config

from mmetris.models.decode_heads import NoTargetRule
from mmetris.utils.autocast import check_dtype, set_test_dtype
from mmetris.utils.image_io import MAX_PIXELS, ImageSource, image_name, read_image

from .asking import (
    Asker,
    Classes,
    EncodedImages,
    check_threshold,
    set_no_target,
)
from .model import init_model
from .model_zoo import find_model
from .shapes_only import notes_for


class RefSegPredictor:
    """Set a picture once, ask about it as often as you like.

    :meth:`set_image` runs the image encoder up to the first Bridger; :meth:`predict` does only what depends on the
    sentence. Results are those of :class:`RefSegInferencer`.

    Args:
        model: Config file, name in the model index, folder of a training, config, or an inferencer whose model is
            shared. Defaults to None: the demo model that ships with mmetris.
        weights: Checkpoint. Defaults to None: those that belong to ``model``.
        device: ``'cpu'``, ``'cuda:0'``... Defaults to None: the first GPU if there is one, else the CPU.
        threshold: Pixels of a higher probability belong to the mask. Defaults to None: the model's own, 0.35.
        max_pixels: Largest picture that is read, height times width. The default is 8192 x 8192.
        dtype: See :class:`RefSegInferencer`. Defaults to None: what the config says, or that of the inferencer.
        no_target: See there. Defaults to None: what the config says, or that of the inferencer.

    Raises:
        FileNotFoundError: If model or weights are missing.
        ValueError: If the weights do not belong to the model, ``dtype`` or ``no_target`` is none for this model, or one
            of them is given beside an inferencer.

    Example:
        >>> predictor = RefSegPredictor()
        >>> predictor.set_image('shapes.jpg')
        >>> predictor.predict('the red circle')['masks'][0].shape
        (128, 128)
    """

    def __init__(
        self,
        model: str | os.PathLike | Config | Any | None = None,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        threshold: float | None = None,
        max_pixels: int = MAX_PIXELS,
        dtype: str | None = None,
        no_target: float | Mapping | bool | None = None,
    ) -> None:
        check_dtype(dtype, 'dtype')
        asker = getattr(model, 'asker', None)
        if asker is None:
            files = find_model(model, weights, classifies=False)
            set_test_dtype(files.config, dtype)
            set_no_target(files.config, no_target)
            asker = Asker(init_model(files.config, files.weights, device), files.config)
            asker.notes = notes_for(files.weights)
        else:
            for name, value in (('dtype', dtype), ('no_target', no_target)):
                if value is not None:
                    raise ValueError(f'{name}={value!r}: the model is shared with an inferencer, so give it to that')
        self.asker = asker
        self.own_threshold = self.asker.own_threshold
        # Of a model that gives boxes alone, None: nobody compares it.
        self.threshold: float = cast(float, self.asker.check_threshold(threshold))
        self.max_pixels = max_pixels
        self._encoded: EncodedImages | None = None
        self._note: str | None = None

    @property
    def model(self) -> Any:
        """The model."""
        return self.asker.model

    @property
    def no_target_rule(self) -> NoTargetRule | None:
        """How the model decides that a sentence means nothing in the picture; None if it does not."""
        return self.asker.no_target_rule

    @property
    def image_hw(self) -> tuple[int, int] | None:
        """Size of the picture that is set, upright, which is that of the masks; None if there is none."""
        return None if self._encoded is None else tuple(self._encoded.samples[0].ori_shape)

    @property
    def note(self) -> str | None:
        """What is to be said of answers on the picture that is set, by the demo model; None of any other model."""
        return None if self._encoded is None else self._note

    def set_image(self, image: ImageSource) -> None:
        """Read a picture and encode it as far as that goes without a sentence. If that fails, none is set.

        Args:
            image: File name, address, bytes, array (BGR, as MMCV has them) or PIL image.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read as a picture.
        """
        self._encoded = None
        pixels = read_image(image, self.max_pixels)
        self._encoded = self.asker.encode([pixels], [image_name(image)])
        self._note = None if self.asker.notes is None else self.asker.notes.of(pixels, image_name(image))

    def reset_image(self) -> None:
        """Forget the picture and free its memory."""
        self._encoded = None

    def label_map(
        self, classes: Classes | None = None, threshold: float | None = None, batch_size: int = 8
    ) -> np.ndarray:
        """The class of each pixel of the picture, of classes given by name.

        Args:
            classes: Names, see :meth:`RefSegInferencer.label_maps`. Defaults to None: those of a model of class names.
            threshold: Defaults to None: the predictor's.
            batch_size: Names that go through the model together. Defaults to 8.

        Returns:
            (H, W) uint8: index of the class, 255 where there is none.

        Raises:
            RuntimeError: If no picture is set.
            ValueError: If the names are no vocabulary.
        """
        if self._encoded is None:
            raise RuntimeError('no image: call set_image first')
        vocabulary = self.asker.vocabulary_of(classes)
        least = self.threshold if threshold is None else check_threshold(threshold)
        return self.asker.label_maps(self._encoded, vocabulary, least, batch_size)[0]

    def predict(
        self,
        texts: str | Sequence[str],
        threshold: float | None = None,
        batch_size: int = 8,
        return_datasamples: bool = False,
        out_hw: tuple[int, int] | None = None,
        boxes: bool = False,
        box_threshold: float | None = None,
    ) -> dict[str, list]:
        """Ask about the picture.

        Args:
            texts: One sentence or several.
            threshold: Defaults to None: the predictor's.
            batch_size: Sentences that go through the model together. Defaults to 8.
            return_datasamples: Whether the result has ``data_samples``, MMSeg's form. Defaults to False.
            out_hw: Size of masks and probabilities, and of the boxes' pixels: of a photograph of 12 million pixels a
                smaller one takes a fraction of time and memory. Its ratio should be the picture's. Defaults to None:
                the picture's size.
            boxes: See :class:`RefSegInferencer`. Defaults to False.
            box_threshold: See there. Defaults to None: the model's own.

        Returns:
            Lists with one entry for each sentence: ``texts``, ``masks`` (H, W) bool, ``probabilities`` (H, W) float32,
            ``boxes`` (left, top, right, bottom in pixels; right and bottom exclusive), ``scores`` (mean probability
            inside the mask), ``is_empty`` (whether no pixel is above the threshold); and of a model that decides "not
            in the picture" ``no_target_scores`` and ``no_target``, see :class:`RefSegInferencer`; with ``boxes``
            ``pred_boxes``, ``pred_box_scores`` and ``box_source``, see there. Of the demo model ``notes`` has one
            entry, for the picture, see there.

        Raises:
            RuntimeError: If no picture is set.
            ValueError: If a sentence is empty.
        """
        if self._encoded is None:
            raise RuntimeError('no image: call set_image first')
        least = self.threshold if threshold is None else self.asker.check_threshold(threshold)
        least_score = self.asker.check_box_threshold(box_threshold)
        texts = self.asker.check_texts(texts)
        result: dict[str, list] = dict(texts=texts, **{name: [] for name in self.asker.lists(boxes)})
        samples = []
        for start in range(0, len(texts), batch_size):
            chunk = texts[start : start + batch_size]
            for sample in self.asker.ask(self._encoded, chunk, [0] * len(chunk), out_hw):
                self.asker.append(result, sample, least, least_score)
                samples.append(sample)
        if self.note is not None:
            result['notes'] = [self.note]
        if return_datasamples:
            result['data_samples'] = samples
        return result
