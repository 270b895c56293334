"""All that comes before a head: two encoders, the Bridger between them, tokens, what sentences of an image share."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from torch import Tensor

from mmetris.registry import MODELS
from mmetris.structures import BridgedFeatures
from mmetris.utils.autocast import autocast_to, check_dtype
from mmetris.utils.config_types import class_of
from mmetris.utils.seeding import own_stream
from mmetris.utils.tokenizer import CLIP_TOKENIZER

from ..necks import ImagePrefix
from .prefix_cache import PrefixCache
from .sharing import distinct_images

# Tokens of a sentence in RefCOCO, padding included.
COUNTED_LENGTH = 17


class BridgedModel(BaseModel):
    """The trunk on which masks, class maps, boxes and classes can stand.

    ::

        images ---> backbone -------+
                     [neck: Bridger]+--> BridgedFeatures --> head --> losses, or predictions
        sentences -> text_encoder --+

    Frozen image and text encoders run stage by stage with the Bridger (neck) between them. Widths and strides that
    follow from the encoders need not be repeated in the configs of neck and head. A head owns what is made of the
    features: ``loss(features, data_samples, train_cfg)`` returns losses by name, and ``predict(features, data_samples,
    input_hw, test_cfg)`` the completed samples. A model with one head names it in ``head_name`` and builds it with
    :meth:`build_head`; one with several overrides :meth:`loss` and :meth:`predict`.

    Args:
        backbone: Config of the image encoder, e.g. :class:`CLIPViT`.
        text_encoder: Config of the text encoder, e.g. :class:`CLIPTextEncoder`. Without ``num_stages`` it is cut as the
            image encoder is told to be.
        neck: Config of the :class:`Bridger`, or of another neck (:class:`TextFirst`).
        dual_encoder: What both sides have in common, written once: ``arch``, ``clip_checkpoint``, ``quick_gelu``. A
            side that says otherwise, or takes no such argument (an encoder of another family), keeps its own. Defaults
            to None: each side says it.
        data_preprocessor: Config of the data preprocessor. Without ``mean`` and ``std`` it has those that the image
            encoder was trained with.
        context_length: Tokens, padding included, of sentences that arrive as text. It matters where padding is not
            masked, as in the released variant: there the length belongs to the model. Defaults to None: as long as the
            batch's longest sentence.
        prefix_cache: ``dir`` and ``max_gb`` of a :class:`PrefixCache`, which keeps on disk what the frozen image
            encoder computes before the first Bridger; training and evaluation read it from the second epoch on.
            Defaults to None: computed each time.
        train_cfg: Handed to the head's loss. ``share_images=True`` encodes an image that a training batch repeats once,
            as prediction always does: the same losses and gradients, unless BatchNorm statistics of the image encoder
            move (``norm_eval=False``), which then see each image once. Defaults to None: each row anew.
        test_cfg: Handed to the head's predictions. ``dtype`` is what predictions are computed in, by autocast:
            ``'bfloat16'``, ``'float16'`` (GPUs only) or ``'float32'``, the default. Logits are float32 in any case, and
            training does not heed it.
        init_seed: Seed of the initial weights, not negative: encoders, neck and head each draw theirs from (seed, their
            name), so that models that differ in one of them start with the same weights in the others, as a fair
            comparison needs. Defaults to None: all draw from PyTorch's generator in the order in which they are built,
            so that with another neck the head starts elsewhere.
        pretrained: Only None, which MMSeg's tools put into every model's config: encoders name their own weights.

    Raises:
        ValueError: If ``test_cfg`` asks for another type, ``context_length`` exceeds the text encoder's, encoders and
            Bridger do not fit together, or a key of ``train_cfg`` or ``test_cfg`` would be ignored.
    """

    head_name = 'decode_head'
    # Keys of train_cfg and test_cfg that are read. A head adds its own under the same names.
    train_options: frozenset[str] = frozenset({'share_images'})
    test_options: frozenset[str] = frozenset({'mode', 'dtype', 'corner_aligned'})

    def __init__(
        self,
        backbone: Mapping,
        text_encoder: Mapping,
        neck: Mapping,
        dual_encoder: Mapping | None = None,
        data_preprocessor: dict | None = None,
        context_length: int | None = None,
        prefix_cache: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_seed: int | None = None,
        pretrained: None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if init_seed is not None and init_seed < 0:
            raise ValueError(f'init_seed={init_seed} must not be negative')
        with own_stream(init_seed, 'backbone'):
            image_encoder = MODELS.build(_with_defaults(backbone, dual_encoder or {}))
        if data_preprocessor is not None:
            data_preprocessor = _with_defaults(data_preprocessor, getattr(image_encoder, 'normalisation', {}))
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if pretrained is not None:
            raise ValueError(
                f'pretrained={pretrained!r} has no place in a {type(self).__name__}: name the weights in '
                'clip_checkpoint of dual_encoder'
            )
        self.train_cfg, self.test_cfg = train_cfg, dict(test_cfg or {})
        check_dtype(self.test_cfg.get('dtype'), 'test_cfg.dtype')
        self.context_length = context_length
        self.init_seed = init_seed
        self.prefix_cache = None if prefix_cache is None else PrefixCache(**prefix_cache)
        self.backbone = image_encoder
        shared_stages = {} if 'num_stages' not in backbone else dict(num_stages=backbone['num_stages'])
        with own_stream(init_seed, 'text_encoder'):
            self.text_encoder = MODELS.build(_with_defaults(text_encoder, {**shared_stages, **(dual_encoder or {})}))
        if context_length is not None and context_length > self.text_encoder.context_length:
            raise ValueError(
                f'context_length={context_length} of the model exceeds the {self.text_encoder.context_length} tokens '
                'that a sentence can have in its text encoder, learnt ones not counted'
            )
        share_between(getattr(self.backbone, 'tuning', {}), getattr(self.text_encoder, 'tuning', {}))
        if len(self.backbone.out_stages) != len(self.text_encoder.out_stages):
            raise ValueError(
                f'backbone.out_stages={self.backbone.out_stages} and '
                f'text_encoder.out_stages={self.text_encoder.out_stages} '
                'must be equally many: the Bridger joins them one by one'
            )
        neck = dict(
            image_specs=[self.backbone.stage_specs[stage - 1] for stage in self.backbone.out_stages],
            word_channels=self.text_encoder.embed_dims,
            out_stages=self.backbone.out_stages,
        ) | dict(neck)
        with own_stream(init_seed, 'neck'):
            self.neck = MODELS.build(neck)

    def build_head(self, cfg: Mapping) -> Any:
        """Build a head, with the widths and strides of the encoders as its defaults.

        Args:
            cfg: Config of the head, which takes ``in_channels`` and ``in_strides`` (of the maps), ``word_channels`` and
                ``sentence_channels``. What it reads of ``train_cfg`` and ``test_cfg`` beyond the model it names in its
                ``train_options`` and ``test_options``.

        Raises:
            ValueError: If ``train_cfg`` or ``test_cfg`` has a key that neither reads.
        """
        cfg = dict(
            in_channels=[spec.channels for spec in self.backbone.out_specs],
            in_strides=[spec.stride for spec in self.backbone.out_specs],
            word_channels=self.text_encoder.embed_dims,
            sentence_channels=self.text_encoder.output_dims,
        ) | dict(cfg)
        with own_stream(self.init_seed, self.head_name):
            head = MODELS.build(cfg)
        for name in ('train', 'test'):
            known = getattr(self, f'{name}_options') | getattr(head, f'{name}_options', frozenset())
            _check_options(f'{name}_cfg', getattr(self, f'{name}_cfg') or {}, known)
        return head

    def init_weights(self) -> None:
        """Initial weights that configs ask for (``init_cfg``) and pretrained ones, once."""
        with ExitStack() as after:
            for name, part in self.named_children():
                if hasattr(part, 'init_weights'):
                    # On the part itself, for as long as MMEngine walks through the model.
                    part.init_weights = own_stream(self.init_seed, name)(part.init_weights)
                    after.callback(delattr, part, 'init_weights')
            super().init_weights()

    @property
    def head(self) -> Any:
        """The head that owns loss and prediction."""
        return getattr(self, self.head_name)

    def _dump_init_info(self) -> None:
        # MMEngine writes where each parameter's initial value came from to the log file; without one (a model built
        # outside of a runner) it would fill the screen instead.
        if any(isinstance(handler, logging.FileHandler) for handler in MMLogger.get_current_instance().handlers):
            super()._dump_init_info()

    def image_prefix(self, images: Tensor, keep: bool = True) -> ImagePrefix:
        """What can be computed of images before a sentence is known, in the type that surrounds the call.

        Args:
            images: (I, 3, H, W) normalised images.
            keep: Whether the cache, if there is one, is read and filled. Defaults to True.
        """
        if self.prefix_cache is None or not keep or torch.compiler.is_compiling():
            return self.neck.image_prefix(self.backbone, images)
        return self.prefix_cache.image_prefix(self.neck, self.backbone, images)

    def encode_images(self, images: Tensor) -> ImagePrefix:
        """:meth:`image_prefix` for predictions: in the type of ``test_cfg``, and not by the cache of data sets.

        :meth:`bridge` takes the result instead of the images.

        Args:
            images: (I, 3, H, W) normalised images.
        """
        with autocast_to(self.test_cfg.get('dtype'), images.device.type):
            return self.image_prefix(images, keep=False)

    def bridge(
        self, images: Tensor | ImagePrefix, tokens: Tensor, image_index: Tensor | None = None
    ) -> BridgedFeatures:
        """Bridged features of images and sentences.

        Args:
            images: (B, 3, H, W) normalised RGB images, or (I, 3, H, W) distinct ones with ``image_index``; or what
                :meth:`encode_images` made of them.
            tokens: (B, L) token ids.
            image_index: (B,) row of ``images`` that each sentence speaks of. Defaults to None: sentence b speaks of
                image b.
        """
        # On the neck's own door, not :meth:`image_prefix`: the walk is one graph where it is compiled.
        if self.prefix_cache is not None and isinstance(images, Tensor):
            images = self.image_prefix(images)
        return self.neck(self.backbone, self.text_encoder, images, tokens, image_index)

    def features_of(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None, share_images: bool = True
    ) -> BridgedFeatures:
        """Bridged features of a batch.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``tokens`` or ``expression``.
            share_images: Whether an image that the batch repeats is encoded once. Defaults to True.
        """
        tokens, image_index = self.tokens_of(data_samples, inputs.device), None
        if share_images:
            assert data_samples is not None  # Their tokens were just read.
            inputs, image_index = distinct_images(inputs, data_samples)
        return self.bridge(inputs, tokens, image_index)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``tokens`` or ``expression`` and what the head learns from.
        """
        share_images = (self.train_cfg or {}).get('share_images', False)
        return self.head.loss(self.features_of(inputs, data_samples, share_images), data_samples, self.train_cfg)

    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> list[SegDataSample]:
        """Predictions for the original images.

        Sentences of one image, which follow each other in evaluation, share what precedes the first Bridger.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image, with ``tokens`` or ``expression``, and the meta information of their
                resizing.

        Returns:
            The samples, completed by the head.
        """
        with autocast_to(self.test_cfg.get('dtype'), inputs.device.type):
            features = self.features_of(inputs, data_samples)
        return self.head.predict(features, data_samples, tuple(inputs.shape[-2:]), self.test_cfg)

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Any:
        with autocast_to(self.test_cfg.get('dtype'), inputs.device.type):
            if data_samples is None:
                return self.head(self.bridge(inputs, self.tokens_to_count(inputs)))
            return self.head(self.features_of(inputs, data_samples))

    def tokens_to_count(self, inputs: Tensor) -> Tensor:
        """Token ids (B, L) for tools that count operations, which pass images alone: a sentence costs what its length
        does, and these have the model's, or that of RefCOCO.

        Args:
            inputs: (B, 3, H, W) images.
        """
        length = self.context_length or COUNTED_LENGTH
        return self.text_encoder.tokenizer([''] * inputs.shape[0], length).to(inputs.device)

    def forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[SegDataSample] | Any:
        """What runner and tools call.

        Args:
            inputs: (B, 3, H, W) normalised images.
            data_samples: One for each image.
            mode: ``'loss'``, ``'predict'``, or ``'tensor'`` (default): what the head's ``forward`` returns.

        Raises:
            ValueError: If there is no such mode.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self._forward(inputs, data_samples)
        raise ValueError(f"mode={mode!r} must be 'loss', 'predict' or 'tensor'")

    def tokenize(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        """Token ids (B, L) of sentences, on the CPU, by the text encoder's tokenizer.

        Args:
            texts: The sentences.
            context_length: L, for CLIP's tokens; a text encoder with others has a length of its own. Defaults to None:
                the model's own; where it has none, that of the longest sentence.
        """
        length = (context_length if self.reads_clip_tokens else None) or self.context_length
        if length is not None:
            return self.text_encoder.tokenizer(texts, length)
        tokens = self.text_encoder.tokenizer(texts, self.text_encoder.context_length)
        return self.text_encoder.trim(tokens)

    @property
    def reads_clip_tokens(self) -> bool:
        """Whether the tokens that pipelines make (``TokenizeExpression``), CLIP's, are the text encoder's own."""
        return self.text_encoder.tokenizer == CLIP_TOKENIZER

    def tokens_of(self, data_samples: Sequence[SegDataSample] | None, device: torch.device) -> Tensor:
        """Token ids (B, L) of the samples: their ``tokens``, or those of their ``expression`` where a pipeline did
        not tokenize, or did so for another text encoder.

        Raises:
            ValueError: If a sample has neither.
        """
        if data_samples is None:
            raise ValueError(f'a {type(self).__name__} needs data samples: they carry the sentences')
        if self.reads_clip_tokens and all('tokens' in sample for sample in data_samples):
            return torch.stack([sample.tokens for sample in data_samples]).to(device)
        missing = [sample for sample in data_samples if 'expression' not in sample.metainfo]
        if missing:
            raise ValueError(
                f'no sentence for {missing[0].metainfo.get("img_path", "an image")}: the pipeline must pack '
                '"expression" or '
                '"tokens" (mmetris.PackSegInputs does; MMSeg\'s own needs "expression" in its meta_keys)'
            )
        return self.tokenize([sample.expression for sample in data_samples]).to(device)


def share_between(image_tuning: Mapping[str, Any], text_tuning: Mapping[str, Any]) -> None:
    """Have tuning methods of one name on both sides share what is one for the whole model.

    Args:
        image_tuning: Those of the image encoder, by name.
        text_tuning: Those of the text encoder.
    """
    for name, method in text_tuning.items():
        if name in image_tuning:
            method.share_with(image_tuning[name])


def _check_options(name: str, options: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise ValueError for a key that nothing reads."""
    for key in options:
        if key not in known:
            close = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = f'did you mean {close[0]}?' if close else f'read are {", ".join(sorted(known))}'
            raise ValueError(f'{name}.{key} would be ignored: {hint}')


def _with_defaults(cfg: Mapping, defaults: Mapping) -> dict:
    """A config with those of the defaults that its class takes and it does not give."""
    taken = getattr(class_of(cfg, MODELS), 'shared_arguments', ())
    return {key: value for key, value in defaults.items() if key in taken} | dict(cfg)
