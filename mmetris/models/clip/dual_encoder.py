"""One description of a dual encoder: what its image side and its text side have to agree on.

The towers are open_clip's own modules as its own factory makes them, so that every field of a config counts and every
key of a published CLIP state dict has its place. ``visual.*`` belongs to the image tower; the rest is the text tower.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip

# By themselves: open_clip's public classes make towers in pairs only, and the other one would draw random numbers too.
from open_clip.model import _build_text_tower, _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor

from mmetris.utils.tokenizer import HuggingFaceTokenizer, Tokenizer

from ..layers.attention import fuse_attention
from ..layers.folded_norm import fold_norms
from ..layers.quick_gelu import fuse_quick_gelu
from .arch import CUSTOM, QUICK_GELU_SUFFIX, find_config, image_refusal, is_resnet, is_timm, text_refusal
from .weights import load_clip_weights, load_tower

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class DualEncoder:
    """An image and a text encoder that were trained together; made by :meth:`describe`.

    Args:
        name: open_clip's name (``'ViT-B-16-quickgelu'``), or ``'custom'`` for an architecture given by sizes.
        embed_dim: Width of the shared image-text space.
        vision: open_clip's ``vision_cfg``: layers (an int: ViT; four ints: ResNet), width, head_width, patch_size,
            image_size and so on; or ``timm_model_name`` and what is made of timm's tower.
        text: open_clip's ``text_cfg``: context_length, vocab_size, width, heads, layers and so on.
        quick_gelu: The activation of the transformers: ``x * sigmoid(1.702 x)`` of OpenAI's CLIP, else GELU.
        activation_is_given: Whether it was said, by the name's ``-quickgelu`` or an argument, or else assumed, as
            open_clip does. Weights of another activation come with a warning; where it was assumed, the towers
            follow them.
        checkpoint: The weights: a file or an open_clip tag, see :func:`load_clip_weights`; or None.
        mean: Mean of the images' channels R, G, B in pre-training; values from 0 to 1.
        std: Standard deviation of the same.
        tokenizer: What turns sentences into the text encoder's tokens.
    """

    name: str
    embed_dim: int
    vision: dict[str, Any]
    text: dict[str, Any]
    quick_gelu: bool
    activation_is_given: bool
    checkpoint: str | None
    mean: Triple
    std: Triple
    tokenizer: Tokenizer

    @classmethod
    def describe(
        cls,
        arch: ArchLike,
        checkpoint: str | None = None,
        quick_gelu: bool | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tokenizer: Tokenizer | str | None = None,
    ) -> DualEncoder:
        """Describe a dual encoder; no file is read.

        Args:
            arch: A name as open_clip or OpenAI write it, a dict of sizes, see :func:`find_config`, or a description,
                of which the other arguments change single things.
            checkpoint: CLIP weights: a file or an open_clip tag. Defaults to None: random weights.
            quick_gelu: Activation of the transformers. Defaults to None: True where the name ends with
                ``-quickgelu``; else that of the weights, if ``checkpoint`` is a tag; else what open_clip's config or
                the dict says. If they say nothing it is assumed, until weights say otherwise: the exact GELU of a
                name, as in open_clip, and of a dict with a tower of timm's; QuickGELU of other dicts, as in
                OpenAI's weights.
            mean: Mean of the images' channels, 0..1. Defaults to None: that of the tag, or the one that all tags of
                this name have in common, else OpenAI's.
            std: Standard deviation, likewise.
            tokenizer: A tokenizer; or the place of the files of the one that ``text_cfg`` names: their folder, or one
                of them. Defaults to None: the one that ``text_cfg`` names, else CLIP's.

        Raises:
            FileNotFoundError: If the tokenizer's files are not where ``tokenizer`` says.
            ValueError: If the architecture is unknown, or neither of its towers can be an encoder in stages; the
                message tells why. If it has CLIP's tokenizer and files for another are named.
        """
        if isinstance(arch, DualEncoder):
            return arch._changed(checkpoint, quick_gelu, mean, std, tokenizer)
        name, config = find_config(arch)
        vision, text = dict(config['vision_cfg']), dict(config['text_cfg'])
        if (no_image := image_refusal(vision)) and (no_text := text_refusal(text)):
            raise ValueError(f'arch {name!r} can be no encoder in stages: {no_image}, and {no_text}')
        tag = open_clip.get_pretrained_cfg(name, checkpoint) if checkpoint else {}
        quick_gelu, is_given = _activation(name, config, tag, quick_gelu)
        usual_mean, usual_std = _normalisation(name, vision, tag)
        return cls(
            name,
            config['embed_dim'],
            vision,
            text,
            quick_gelu,
            is_given,
            checkpoint,
            _triple('mean', mean) or usual_mean,
            _triple('std', std) or usual_std,
            _tokenizer(name, Tokenizer.of_text_cfg(text), tokenizer),
        )

    def _changed(
        self,
        checkpoint: str | None,
        quick_gelu: bool | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        tokenizer: Tokenizer | str | None,
    ) -> DualEncoder:
        changes: dict[str, Any] = dict(
            checkpoint=checkpoint,
            mean=_triple('mean', mean),
            std=_triple('std', std),
            tokenizer=_tokenizer(self.name, self.tokenizer, tokenizer),
        )
        if quick_gelu is not None:
            changes.update(quick_gelu=bool(quick_gelu), activation_is_given=True)
        return dataclasses.replace(self, **{key: value for key, value in changes.items() if value is not None})

    @property
    def is_resnet(self) -> bool:
        """Whether the image tower is a ResNet of CLIP's; else it is a ViT, or one of timm's (:attr:`is_timm`)."""
        return is_resnet(self.vision)

    @property
    def is_timm(self) -> bool:
        """Whether the image tower is one of timm's."""
        return is_timm(self.vision)

    def refuse_timm(self, encoder: str) -> None:
        """Refuse a tower of timm's.

        Args:
            encoder: Class of the encoder that knows none.

        Raises:
            ValueError: If the image tower is one.
        """
        if self.is_timm:
            raise ValueError(
                f"{encoder} cannot be built from arch {self.name!r}, whose image tower is timm's "
                f'{self.vision["timm_model_name"]}; use CLIPTimmViT, or CLIPTimmConvNet for ConvNeXt and FastViT'
            )

    def build_image_tower(self) -> VisionTransformer | ModifiedResNet | TimmModel:
        """Build open_clip's image tower with random weights.

        Raises:
            ValueError: If it can be no encoder in stages, ``vision`` has a key that open_clip does not know, or its
                width does not divide into heads.
        """
        if reason := image_refusal(self.vision):
            raise ValueError(f'arch {self.name!r} has no image encoder in stages: {reason}')
        cfg = self._checked('vision_cfg', open_clip.CLIPVisionCfg, self.vision)
        if self.is_timm:
            # Weights come with those of the text, and timm would download others.
            return _build_vision_tower(self.embed_dim, dataclasses.replace(cfg, timm_model_pretrained=False))
        if not self.is_resnet and cfg.width % cfg.head_width:
            raise ValueError(f'vision_cfg: width {cfg.width} is not a multiple of head_width {cfg.head_width}')
        tower = _build_vision_tower(self.embed_dim, cfg, self.quick_gelu)
        return fold_norms(tower) if self.is_resnet else fuse_attention(fuse_quick_gelu(tower))

    def build_text_tower(self) -> TextTransformer:
        """Build open_clip's text tower with random weights.

        Raises:
            ValueError: If it can be no encoder in stages, ``text`` has a key that open_clip does not know, or its
                width does not divide into heads.
        """
        if reason := text_refusal(self.text):
            raise ValueError(f'arch {self.name!r} has no text encoder in stages: {reason}')
        cfg = self._checked('text_cfg', open_clip.CLIPTextCfg, self.text)
        if cfg.width % cfg.heads:
            raise ValueError(f'text_cfg: width {cfg.width} is not a multiple of heads {cfg.heads}')
        tower = _build_text_tower(self.embed_dim, cfg, self.quick_gelu)
        return fuse_attention(fuse_quick_gelu(tower))

    def _checked(self, key: str, cfg_class: type, values: Mapping[str, Any]) -> Any:
        try:
            return cfg_class(**values)
        except TypeError as error:
            raise ValueError(f'{key} of arch {self.name!r}: {error}') from error

    def load(self, tensors: Mapping[str, Tensor], part: str) -> bool:
        """Read ``checkpoint`` and copy a tower's weights into it.

        Args:
            tensors: Parameters and buffers of a tower that was built from this description, by name.
            part: Which: ``'image'`` or ``'text'``.

        Returns:
            Whether the tower is to have QuickGELU: as ``quick_gelu`` says, unless it is assumed and the weights say
            otherwise.

        Raises:
            FileNotFoundError: If ``checkpoint`` is neither a file nor a tag of this architecture.
            ValueError: If there is none, or it does not fit.
        """
        if self.checkpoint is None:
            raise ValueError(f'the {part} encoder {self.name} has no checkpoint to load')
        weights = load_clip_weights(self.checkpoint, self)
        return load_tower(tensors, getattr(weights, part), weights, self, part)

    def available_tokenizer(self) -> Tokenizer:
        """The tokenizer, ready to be used.

        Raises:
            ValueError: If it is one of Hugging Face's that is not on this machine, or has more words than the text
                encoder; says what to do.
        """
        try:
            self.tokenizer.prepare(self.text.get('vocab_size'))
        except ValueError as error:
            raise ValueError(f'the text encoder of arch {self.name!r} cannot be asked: {error}') from error
        return self.tokenizer


def _triple(key: str, values: Sequence[float] | None) -> Triple | None:
    if values is None:
        return None
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise ValueError(f'{key}={values} must be three values from 0 to 1, for R, G and B')
    red, green, blue = values
    return red, green, blue


def _activation(name: str, config: Mapping[str, Any], tag: Mapping[str, Any], given: bool | None) -> tuple[bool, bool]:
    """Whether QuickGELU, and whether somebody said so."""
    if given is not None:
        return bool(given), True
    if name.endswith(QUICK_GELU_SUFFIX):
        return True, True
    if tag:
        return bool(tag.get('quick_gelu', False)), True
    # OpenAI's weights, whose sizes a dict may be, have no tower of timm's.
    assumed = name == CUSTOM and not is_timm(config['vision_cfg'])
    return bool(config.get('quick_gelu', assumed)), name == CUSTOM and 'quick_gelu' in config


def _tokenizer(name: str, own: Tokenizer, given: Tokenizer | str | None) -> Tokenizer:
    """The tokenizer of an architecture, with its files where a path says they are."""
    if not isinstance(given, str):
        return given or own
    if not isinstance(own, HuggingFaceTokenizer):
        raise ValueError(
            f"tokenizer={given!r}: sentences of arch {name!r} are CLIP's tokens, whose vocabulary comes with "
            'open_clip; leave tokenizer out'
        )
    return own.in_folder(given)


def _normalisation(name: str, vision: Mapping[str, Any], tag: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Mean and standard deviation of the images that the weights of a name or a tag were trained on; of sizes with a
    tower of timm's, those of all names with that tower."""
    names = [name]
    if name == CUSTOM and is_timm(vision):
        names = _names_with(vision['timm_model_name'])
    tags = (
        [tag]
        if tag
        else [
            open_clip.get_pretrained_cfg(name, tag)
            for name in names
            for tag in open_clip.list_pretrained_tags_by_model(name)
        ]
    )
    found = {(tuple(cfg['mean']), tuple(cfg['std'])) for cfg in tags if 'mean' in cfg and 'std' in cfg}
    return found.pop() if len(found) == 1 else (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


@functools.lru_cache(maxsize=8)
def _names_with(timm_model: str) -> list[str]:
    """open_clip's names whose image tower is this one of timm's."""
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    return [name for name, cfg in configs.items() if cfg['vision_cfg'].get('timm_model_name') == timm_model]


ArchLike = str | Mapping | DualEncoder


def resolve_arch(arch: ArchLike, quick_gelu: bool | None = None) -> DualEncoder:
    """Short for :meth:`DualEncoder.describe` without weights."""
    return DualEncoder.describe(arch, quick_gelu=quick_gelu)


def build_image_tower(arch: DualEncoder) -> VisionTransformer | ModifiedResNet | TimmModel:
    """Short for :meth:`DualEncoder.build_image_tower`."""
    return arch.build_image_tower()


def build_text_tower(arch: DualEncoder) -> TextTransformer:
    """Short for :meth:`DualEncoder.build_text_tower`."""
    return arch.build_text_tower()
