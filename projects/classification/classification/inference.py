"""Ask about single pictures, by any names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from mmetris.apis import init_model
from mmetris.datasets import RefCocoDataset
from mmetris.registry import TRANSFORMS
from mmetris.utils.image_io import image_name, read_image

from .model import BridgedClassifier


@dataclass(frozen=True)
class Classification:
    """What was found in a picture.

    Attributes:
        image: Name of the picture.
        name: The class with the highest probability.
        probabilities: Of all classes by their first names, highest first.
        zero_shot: The same of zero-shot CLIP; None where the model has it switched off.
    """

    image: str
    name: str
    probabilities: dict[str, float]
    zero_shot: dict[str, float] | None


class ImageClassifier:
    """A :class:`BridgedClassifier` for pictures and names at hand.

    Args:
        config: Config of the model, see :func:`~mmetris.apis.init_model`.
        checkpoint: Its weights. Defaults to None: the answers are those of zero-shot CLIP.
        device: See :func:`~mmetris.apis.init_model`. Defaults to None.
        cfg_options: See there. Defaults to None.

    Raises:
        ValueError: If the config is that of another model, or there is neither a checkpoint nor zero-shot CLIP.

    Example:
        >>> classifier = ImageClassifier('projects/classification/configs/bridged_vitb16_folders.py', 'epoch_10.pth')
        >>> classifier('photo.jpg', ['cat', 'dog'])[0].name
        'cat'
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        import projects.classification.classification  # noqa: F401  The config's names, where it did not import them.

        model = init_model(config, checkpoint, device, cfg_options)
        if not isinstance(model, BridgedClassifier):
            raise ValueError(f'{config} is the config of a {type(model).__name__}, not of a BridgedClassifier')
        self.model, self.is_trained = model, checkpoint is not None
        if not self.is_trained and model.zero_shot is None:
            raise ValueError('a checkpoint is needed: with_zero_shot=False leaves nothing that is not trained')
        classes = tuple(model.dataset_meta.get('classes', ())) if self.is_trained else ()
        # Of weights that do not tell, init_model assumes a referring data set.
        self.trained_classes = () if classes == tuple(RefCocoDataset.METAINFO['classes']) else classes
        steps = [step for step in model.cfg.test_pipeline if step['type'].split('.')[-1] != 'LoadImageFromFile']
        self._pipeline = Compose([TRANSFORMS.build(step) for step in steps])

    @torch.no_grad()
    def __call__(
        self,
        images: Any,
        names: Sequence[str | Sequence[str]] | str | None = None,
        templates: Sequence[str] | str | None = None,
        batch_size: int = 16,
    ) -> list[Classification]:
        """Classify.

        Args:
            images: A picture or a list of them: what :func:`~mmetris.utils.image_io.read_image` takes.
            names: The classes, see :meth:`~mmetris.structures.Vocabulary.build`. Defaults to None: those it was trained
                on.
            templates: See there. Defaults to None: the config's.
            batch_size: Pictures at once. Defaults to 16.

        Returns:
            One answer for each picture.

        Raises:
            ValueError: If names are missing, fewer than two, empty or repeated, or a picture cannot be read.
        """
        pictures = images if isinstance(images, (list, tuple)) else [images]
        names = self.trained_classes if names is None else names
        if not names:
            raise ValueError(
                'names of the classes are needed: there is no checkpoint that tells what it was trained on'
            )
        vocabulary = dict(classes=names if isinstance(names, str) else list(names))
        self.model.set_vocabulary(vocabulary if templates is None else dict(vocabulary, templates=templates))
        found = []
        for start in range(0, len(pictures), batch_size):
            batch = [self._prepared(picture) for picture in pictures[start : start + batch_size]]
            found += self.model.test_step(pseudo_collate(batch))
        classes = self.model.vocabulary.class_names
        answers = []
        for picture, sample in zip(pictures, found):
            zero_shot = None
            if 'zero_shot_logits' in sample:
                zero_shot = _sorted(classes, sample.zero_shot_logits.softmax(dim=0))
            own = _sorted(classes, sample.pred_score)
            probabilities = own if self.is_trained or zero_shot is None else zero_shot
            answers.append(Classification(image_name(picture), next(iter(probabilities)), probabilities, zero_shot))
        return answers

    def _prepared(self, picture: Any) -> dict:
        pixels = read_image(picture)
        size_hw = pixels.shape[:2]
        return self._pipeline(dict(img=pixels, img_path=image_name(picture), img_shape=size_hw, ori_shape=size_hw))


def _sorted(names: Sequence[str], probabilities: torch.Tensor) -> dict[str, float]:
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return {names[index]: float(probabilities[index]) for index in order}
