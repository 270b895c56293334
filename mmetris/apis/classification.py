"""Which of some names a picture shows, for models that say ``gives_classes = True`` (``projects/classification``)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope

from mmetris.datasets import RefCocoDataset
from mmetris.registry import TRANSFORMS
from mmetris.structures import Vocabulary
from mmetris.utils.autocast import check_dtype, set_test_dtype
from mmetris.utils.config_types import type_name
from mmetris.utils.image_io import MAX_PIXELS, ImageSource, expand_folders, read_images

from .asking import Classes, test_pipeline
from .model import init_model
from .model_zoo import find_model


@dataclass(frozen=True)
class Classification:
    """What was found in a picture.

    Attributes:
        index: Place of the picture among those that were given; the pictures of a folder count each.
        image: Name of the picture.
        name: The class with the highest probability.
        probabilities: Of all classes by their first names, 0..1, highest first.
        zero_shot: The same of zero-shot CLIP; None where the model has it switched off.
    """

    index: int
    image: str
    name: str
    probabilities: dict[str, float]
    zero_shot: dict[str, float] | None


class ImageClassificationInferencer:
    """Classify pictures by names at hand.

    It asks a model whose class says ``gives_classes = True``, by ``set_vocabulary``, ``vocabulary`` and ``test_step``,
    whose samples have ``pred_score`` (K,) and, unless ``zero_shot`` of the model is None, ``zero_shot_logits`` (K,).

    Args:
        model: Config file, folder of a training, config, see :class:`RefSegInferencer`.
        weights: Checkpoint. Defaults to None: that of a training's folder; of a config there is none, and the answers
            are those of zero-shot CLIP.
        device: See :class:`RefSegInferencer`. Defaults to None.
        max_pixels: Largest picture that is read, height times width. The default is 8192 x 8192.
        dtype: See :class:`RefSegInferencer`. Defaults to None: what the config says.

    Attributes:
        model: The model.
        is_trained: Whether there is a checkpoint.
        trained_classes: Names that it was trained on; empty where nothing tells them.

    Raises:
        FileNotFoundError: If model or weights are missing.
        ValueError: If the model does not classify, the weights are not its own, or there are none although it has
            zero-shot CLIP switched off.

    Example:
        >>> classifier = ImageClassificationInferencer('work_dirs/bridged_vitb16_folders')
        >>> classifier('photo.jpg', ['cat', 'dog'])[0].name
        'cat'
    """

    def __init__(
        self,
        model: str | os.PathLike | Config,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        max_pixels: int = MAX_PIXELS,
        dtype: str | None = None,
    ) -> None:
        check_dtype(dtype, 'dtype')
        files = find_model(model, weights, classifies=True)
        set_test_dtype(files.config, dtype)
        self.is_trained, self.max_pixels = files.weights is not None, max_pixels
        # Told apart by what it can do.
        self.model = cast(Any, init_model(files.config, files.weights, device))
        if not self.is_trained and self.model.zero_shot is None:
            raise ValueError(
                'a checkpoint is needed (--weights on the command line): with_zero_shot=False leaves nothing that is '
                'not trained'
            )
        classes = tuple(self.model.dataset_meta.get('classes', ())) if self.is_trained else ()
        # Of weights that do not tell, init_model assumes a referring data set.
        self.trained_classes = () if classes == tuple(RefCocoDataset.METAINFO['classes']) else classes
        init_default_scope('mmetris')
        steps = [step for step in test_pipeline(files.config) if type_name(step) != 'LoadImageFromFile']
        self._pipeline = Compose([TRANSFORMS.build(step) for step in steps])

    def __call__(
        self,
        inputs: ImageSource | Sequence[ImageSource],
        names: Classes | None = None,
        templates: Sequence[str] | str | None = None,
        batch_size: int = 16,
        skip_unreadable: bool = False,
    ) -> list[Classification]:
        """Classify.

        Args:
            inputs: A picture or several: file name, address, folder, bytes, array (BGR, as MMCV has them), PIL image.
            names: The classes, see :meth:`~mmetris.structures.Vocabulary.build`. Defaults to None: those it was trained
                on.
            templates: See there. Defaults to None: the config's.
            batch_size: Pictures at once. Defaults to 16.
            skip_unreadable: Leave out pictures that cannot be read, with a warning, instead of stopping. Defaults to
                False.

        Returns:
            One answer for each picture that was read, in order.

        Raises:
            FileNotFoundError: If a file is missing, or a folder has no pictures.
            ValueError: If names are missing, fewer than two, empty or repeated, or a picture cannot be read.
        """
        return list(self.stream(inputs, names, templates, batch_size, skip_unreadable))

    def stream(
        self,
        inputs: ImageSource | Sequence[ImageSource],
        names: Classes | None = None,
        templates: Sequence[str] | str | None = None,
        batch_size: int = 16,
        skip_unreadable: bool = False,
    ) -> Iterator[Classification]:
        """Classify pictures batch by batch, for inputs that are too many to wait for; arguments as of
        :meth:`__call__`. The names are the model's until another call sets others.

        Yields:
            The answers, in order of the pictures.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size must be a positive number, but is {batch_size!r}')
        sources = expand_folders(inputs)
        self.set_names(names, templates)
        batch = []
        for index, image, name in read_images(sources, self.max_pixels, skip_unreadable):
            size_hw = image.shape[:2]
            packed = self._pipeline(dict(img=image, img_path=name, img_shape=size_hw, ori_shape=size_hw))
            batch.append((index, name, packed))
            if len(batch) == batch_size:
                yield from self._classified(batch)
                batch = []
        if batch:
            yield from self._classified(batch)

    def set_names(self, names: Classes | None = None, templates: Sequence[str] | str | None = None) -> None:
        """Choose from other classes from now on; arguments and errors as of :meth:`__call__`."""
        names = self.trained_classes if names is None else names
        if names in ((), []):
            raise ValueError(
                'names of the classes are needed (--names on the command line): there is no checkpoint that tells what '
                'it was trained on'
            )
        if isinstance(names, Vocabulary):
            if templates is not None:
                raise ValueError(f'templates={templates!r}: the vocabulary has its own')
            self.model.set_vocabulary(names)
            return
        classes = os.fspath(names) if isinstance(names, os.PathLike) else names
        self.model.set_vocabulary(
            dict(classes=classes) if templates is None else dict(classes=classes, templates=templates)
        )

    @torch.no_grad()
    def _classified(self, batch: Sequence[tuple[int, str, dict]]) -> Iterator[Classification]:
        """The answers to prepared pictures."""
        samples = self.model.test_step(pseudo_collate([packed for _, _, packed in batch]))
        classes = self.model.vocabulary.class_names
        for (index, name, _), sample in zip(batch, samples, strict=True):
            zero_shot = None
            if 'zero_shot_logits' in sample:
                zero_shot = _sorted(classes, sample.zero_shot_logits.softmax(dim=0))
            own = _sorted(classes, sample.pred_score)
            probabilities = own if self.is_trained or zero_shot is None else zero_shot
            yield Classification(index, name, next(iter(probabilities)), probabilities, zero_shot)


def _sorted(names: Sequence[str], probabilities: torch.Tensor) -> dict[str, float]:
    """Probabilities (K,) by their names, highest first."""
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return {names[index]: float(probabilities[index]) for index in order}
