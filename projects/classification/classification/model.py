"""The model: mmetris's trunk, told the names of classes, and a head that answers with one of them.

Axes: B images, K classes, M names (a class may have several).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmetris.models import BridgedModel, ClassText, StagedImageEncoder
from mmetris.models.necks import ImagePrefix
from mmetris.registry import MODELS
from mmetris.structures import Vocabulary
from mmetris.utils.autocast import autocast_to
from mmetris.utils.config_types import is_kind_of, type_name

from .head import NamePoolingHead
from .transforms import ClassDataSample
from .zero_shot import ZeroShotCLIP

# Stand in until the data or the caller have said the names.
_UNSAID = ('this', 'that')


class PooledImage(StagedImageEncoder):
    """An image encoder for one walk past the Bridger, which keeps what CLIP's own pool makes of its end.

    Args:
        encoder: The encoder, with a method ``pool``.

    Attributes:
        pooled: (B, C') after the walk, None before.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.num_stages, self.out_stages, self.stage_specs = encoder.num_stages, encoder.out_stages, encoder.stage_specs
        self.tail_spec, self.size_divisor = encoder.tail_spec, encoder.size_divisor
        self.pooled: Tensor | None = None

    def stem(self, images: Tensor) -> Any:
        return self.encoder.stem(images)

    def stage(self, index: int, state: Any) -> Any:
        return self.encoder.stage(index, state)

    def feature_map(self, state: Any) -> Tensor:
        return self.encoder.feature_map(state)

    def inject(self, state: Any, update: Tensor) -> Any:
        return self.encoder.inject(state, update)

    def tail(self, state: Any) -> Tensor:
        self.pooled = self.encoder.pool(state)
        return self.encoder.tail(state)


@MODELS.register_module()
class BridgedClassifier(BridgedModel):
    """An image, a list of class names, a class.

    ::

        images ---> backbone ----+-------------------------> ZeroShotCLIP: logits of CLIP itself (in evaluation)
                     [Bridger]   +--> pooled, map, names --> NamePoolingHead: logits
        names ----> text_encoder +

    All names go past the Bridger at once, a row each, as in mode ``'joint'`` of a
    :class:`~mmetris.models.ClassNameSegmentor`; what precedes the first Bridger serves zero-shot CLIP too.

    Args:
        backbone: Config of a :class:`CLIPViT` or :class:`CLIPResNet`.
        text_encoder: Config of a :class:`ClassText`, which gets the vocabulary.
        neck: Config of the :class:`Bridger`. With ``zero_init=True`` the training starts from CLIP's own answers, and
            ``stages=()`` is the model without Bridger.
        cls_head: What differs from a :class:`NamePoolingHead` as it is. Defaults to None.
        vocabulary: Arguments of :meth:`Vocabulary.build`. Without ``classes`` the names are those of the data, see
            :class:`ClassNamesHook`, or those that :meth:`set_vocabulary` says, in the ``templates`` given here.
            Defaults to None: the same, by themselves.
        max_train_classes: In training, classes that the batch does not contain are drawn at random up to so many in
            all, for long lists. Defaults to None: all take part.
        with_zero_shot: Whether evaluation computes what CLIP itself says, too. Defaults to True.
        **kwargs: The other arguments of :class:`~mmetris.models.BridgedModel`.

    Raises:
        ValueError: If an encoder is none of these, is tuned although CLIP itself is asked for, or a class has no name.
    """

    gives_classes = True  # What mmetris.apis.ImageClassificationInferencer asks for.
    head_name = 'cls_head'
    cls_head: NamePoolingHead
    text_encoder: ClassText

    def __init__(
        self,
        backbone: Mapping,
        text_encoder: Mapping,
        neck: Mapping,
        cls_head: Mapping | None = None,
        vocabulary: Mapping | None = None,
        max_train_classes: int | None = None,
        with_zero_shot: bool = True,
        **kwargs: Any,
    ) -> None:
        if not is_kind_of(text_encoder, ClassText, MODELS):
            raise ValueError(f'text_encoder.type={type_name(text_encoder)!r}: class names need a ClassText')
        if kwargs.get('prefix_cache') is not None:
            raise ValueError('prefix_cache is for a ReferringSegmentor: images with classes are cropped at random')
        if max_train_classes is not None and max_train_classes < 2:
            raise ValueError(f'max_train_classes={max_train_classes} must be at least 2, or None')
        said = dict(vocabulary or {})
        if said.get('background') is not None:
            raise ValueError(f'background={said["background"]}: a class of pictures needs a name; give it one')
        self.names_follow_data = 'classes' not in said
        self._templates = said.get('templates')
        names = Vocabulary.build(**dict(dict(classes=_UNSAID), **said))
        super().__init__(backbone, dict(text_encoder, vocabulary=names), neck, **kwargs)
        self._names_are_said = not self.names_follow_data
        if not hasattr(self.backbone, 'pool'):
            raise ValueError(
                f'backbone.type={type(self.backbone).__name__} has no image feature of its own in the space of '
                'sentences: use CLIPViT or CLIPResNet'
            )
        self.cls_head = self.build_head(dict(type=NamePoolingHead) | dict(cls_head or {}))
        self.max_train_classes = max_train_classes
        self.zero_shot = ZeroShotCLIP() if with_zero_shot else None
        if with_zero_shot:
            ZeroShotCLIP.check_frozen(self.backbone, self.text_encoder)

    def init_weights(self) -> None:
        super().init_weights()
        if self.zero_shot is not None:
            self.zero_shot.read_logit_scale(self.text_encoder)

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that it chooses from.

        Raises:
            RuntimeError: If nobody has said them.
        """
        if not self._names_are_said:
            raise RuntimeError(
                "the classes are not known: add ClassNamesHook to custom_hooks, which takes the data set's, name them "
                'in model.vocabulary.classes, or call set_vocabulary'
            )
        return self.text_encoder.vocabulary

    def set_vocabulary(self, vocabulary: Mapping | Vocabulary) -> None:
        """Choose from other classes from now on, without training.

        Args:
            vocabulary: Arguments of :meth:`Vocabulary.build`; without ``templates`` they are those of the config.

        Raises:
            ValueError: If there are fewer than two classes, or a name is empty or stands twice.
        """
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.build(**(dict(templates=self._templates) | dict(vocabulary)))
        if vocabulary.background is not None:
            raise ValueError(f'background={vocabulary.background}: a class of pictures needs a name; give it one')
        self.text_encoder.set_vocabulary(vocabulary)
        self._names_are_said = True

    def class_logits(
        self, images: Tensor, classes: Sequence[int] | None = None, with_zero_shot: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of classes.

        Args:
            images: (B, 3, H, W) normalised RGB images.
            classes: Which classes of the vocabulary, in ascending order. Defaults to None: all K.
            with_zero_shot: Whether those of zero-shot CLIP are computed, for all K classes. Defaults to False.

        Returns:
            (B, K), and those of zero-shot CLIP or None. A class is the best of its names.
        """
        vocabulary = self.vocabulary
        chosen, rows = vocabulary.subset(range(len(vocabulary)) if classes is None else classes)
        device = next(self.parameters()).device
        text = self.text_encoder.for_names(torch.tensor(rows, device=device))
        image_encoder = PooledImage(self.backbone)
        prefix: ImagePrefix = self.neck.image_prefix(image_encoder, images)
        features = self.neck(image_encoder, text, prefix, text.ids(prefix.num_images))
        assert image_encoder.pooled is not None  # Every walk ends with the tail.
        logits = best_names(self.cls_head(features, image_encoder.pooled), chosen)
        if not with_zero_shot or self.zero_shot is None:
            return logits, None
        return logits, best_names(self.zero_shot(self.backbone, self.text_encoder, prefix), vocabulary)

    def loss(self, inputs: Tensor, data_samples: Sequence[ClassDataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each, with ``gt_label``.

        Raises:
            ValueError: If a label is no class of the vocabulary.
        """
        num_classes = len(self.vocabulary)
        labels = torch.stack([sample.gt_label for sample in data_samples]).flatten().to(inputs.device)
        if wrong := [label for label in labels.tolist() if label not in range(num_classes)]:
            raise ValueError(
                f'label {wrong[0]} in the data, but the vocabulary has {num_classes} classes: compare the '
                "data set's classes with model.vocabulary"
            )
        classes = self._train_classes(set(labels.tolist()))
        logits, _ = self.class_logits(inputs, classes)
        return self.cls_head.loss(logits, torch.searchsorted(torch.tensor(classes, device=labels.device), labels))

    def _train_classes(self, present: set[int]) -> list[int]:
        """Ascending classes that take part in a step: those of the batch, and absent ones drawn."""
        absent = [index for index in range(len(self.vocabulary)) if index not in present]
        if self.max_train_classes is not None:
            drawn = torch.randperm(len(absent))[: max(0, self.max_train_classes - len(present))].tolist()
            absent = [absent[index] for index in drawn]
        return sorted([*present, *absent])

    def predict(self, inputs: Tensor, data_samples: Sequence[ClassDataSample] | None = None) -> list[ClassDataSample]:
        """Classes of images.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each, completed in place. Defaults to None: new ones.

        Returns:
            The samples, with ``pred_logits``, ``pred_score`` (K,) probabilities and ``pred_label``; and
            ``zero_shot_logits`` unless it was switched off.
        """
        with autocast_to(self.test_cfg.get('dtype'), inputs.device.type):
            logits, zero_shot = self.class_logits(inputs, with_zero_shot=self.zero_shot is not None)
        samples = [ClassDataSample() for _ in inputs] if data_samples is None else list(data_samples)
        for index, sample in enumerate(samples):
            sample.pred_logits = logits[index].float()
            sample.pred_score = sample.pred_logits.softmax(dim=0)
            sample.pred_label = sample.pred_logits.argmax(dim=0, keepdim=True)
            if zero_shot is not None:
                sample.zero_shot_logits = zero_shot[index].float()
        return samples

    def _forward(self, inputs: Tensor, data_samples: Sequence[ClassDataSample] | None = None) -> Tensor:
        with autocast_to(self.test_cfg.get('dtype'), inputs.device.type):
            return self.class_logits(inputs)[0]


def best_names(logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Logits (B, M) of names -> (B, K) of classes, each that of its best name."""
    num_names = [len(names) for names in vocabulary.classes]
    if max(num_names) == 1:
        return logits
    return torch.stack([names.amax(dim=1) for names in logits.split(num_names, dim=1)], dim=1)
