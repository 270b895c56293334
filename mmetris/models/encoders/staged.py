"""What the Bridger asks of an encoder: the same network, cut into stages.

    images -> stem  -> stage 1 -> stage 2 -> ... -> stage N -> tail -> map
                                  ^ here the Bridger reads `feature_map` and adds to it with `inject`
    tokens -> embed -> stage 1 -> stage 2 -> ... -> stage N -> tail -> words, sentence
                                  ^ here it reads the words and adds to them

A stage's *state* is whatever the encoder needs to go on (a map for a ResNet, tokens and their grid for a ViT): a tree
of tensors (:mod:`mmetris.structures.tensor_tree`), whose first axis is the batch. Only the encoder looks inside;
whoever selects rows of it, keeps it in a file or exports it, treats all trees alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class StageSpec(NamedTuple):
    """Width and resolution of one stage's feature map.

    Args:
        channels: Number of channels C.
        stride: Input pixels per map cell, along each side.
    """

    channels: int
    stride: int


def split_evenly(num_blocks: int, num_stages: int) -> list[range]:
    """Cut a stack of blocks into stages (Sec. 3.1: "evenly split").

    Args:
        num_blocks: Length of the stack, e.g. 12.
        num_stages: Number of stages N, e.g. 4 -> blocks 0-2, 3-5, 6-8, 9-11. Where it does not divide, sizes differ
            by at most one.

    Raises:
        ValueError: If there are more stages than blocks.
    """
    if not 1 <= num_stages <= num_blocks:
        raise ValueError(f'num_stages={num_stages} must lie between 1 and the number of blocks, {num_blocks}')
    ends = [round(num_blocks * stage / num_stages) for stage in range(num_stages + 1)]
    return [range(start, end) for start, end in zip(ends[:-1], ends[1:])]


def check_out_stages(out_stages: Sequence[int] | None, num_stages: int) -> tuple[int, ...]:
    """Check the stages that take part: increasing, 1-based, ending with the last.

    Args:
        out_stages: The stages. None: the last three, or as many as there are.
        num_stages: Number of stages N.

    Raises:
        ValueError: If they do not; the message repeats the value.
    """
    if out_stages is None:
        return tuple(range(max(1, num_stages - 2), num_stages + 1))
    stages = tuple(out_stages)
    if not stages or list(stages) != sorted(set(stages)) or stages[0] < 1 or stages[-1] != num_stages:
        raise ValueError(
            f'out_stages={stages} must increase within 1..{num_stages} and end with the last stage, {num_stages}'
        )
    return stages


class StagedImageEncoder(ABC):
    """An image encoder in stages; mixed into a module.

    Attributes:
        num_stages: Number of stages N.
        stage_specs: :class:`StageSpec` of each stage, the first at index 0.
        out_stages: Stages (1-based) that take part in Bridger and decoder; the last one always does.
        tail_spec: :class:`StageSpec` of what :meth:`tail` returns.
        size_divisor: Height and width of the input must be multiples of this.
        hands_words: Whether tuning methods in its stages can read words (:meth:`hand_words`). Defaults to False.
    """

    hands_words = False
    num_stages: int
    stage_specs: tuple[StageSpec, ...]
    out_stages: tuple[int, ...]
    tail_spec: StageSpec
    size_divisor: int

    @property
    def out_specs(self) -> tuple[StageSpec, ...]:
        """Specs of the maps that the decoder receives: those of ``out_stages``, the last one after the tail."""
        return tuple(self.stage_specs[stage - 1] for stage in self.out_stages[:-1]) + (self.tail_spec,)

    @abstractmethod
    def stem(self, images: Tensor) -> Any:
        """Images (B, 3, H, W) -> the state before stage 1.

        Raises:
            ValueError: If H or W is not a multiple of ``size_divisor``.
        """

    @abstractmethod
    def stage(self, index: int, state: Any) -> Any:
        """Run stage ``index`` (1-based)."""

    @abstractmethod
    def feature_map(self, state: Any) -> Tensor:
        """The state as a map (B, C, H / stride, W / stride)."""

    @abstractmethod
    def inject(self, state: Any, update: Tensor) -> Any:
        """Add a map (B, C, H / stride, W / stride) to the state."""

    @abstractmethod
    def tail(self, state: Any) -> Tensor:
        """What follows the last stage, kept as a map (B, C', H / stride, W / stride)."""

    @property
    def reading_stages(self) -> tuple[int, ...]:
        """Stages (1-based) in which something tuned reads words: they run after :meth:`hand_words`. By default none."""
        return ()

    def hand_words(self, state: Any, words: Tensor) -> Any:
        """The state with the words that its :attr:`reading_stages` read.

        Args:
            state: The state after any stage before the first of them.
            words: (B, L, C) word features.

        Raises:
            NotImplementedError: If no stage of such an encoder can read any.
        """
        raise NotImplementedError(f'no stage of {type(self).__name__} reads words')

    def parts(self, index: int) -> Sequence[Any]:
        """Modules and parameters that a stage computes with, so that what is tuned can be told stage by stage.

        Args:
            index: The stage (1-based); 0 is the stem, ``num_stages + 1`` the tail.

        Returns:
            By default the encoder itself: a tuned parameter anywhere in it may change any stage.
        """
        return (self,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of the encoder alone, without a Bridger: one map for each of ``out_stages``, as MMSeg's backbones
        return them."""
        state, maps = self.stem(images), []
        for index in range(1, self.num_stages + 1):
            state = self.stage(index, state)
            if index in self.out_stages[:-1]:
                maps.append(self.feature_map(state))
        return (*maps, self.tail(state))

    def check_size(self, images: Tensor) -> None:
        """Check height and width of images (B, 3, H, W).

        Raises:
            ValueError: If one is not a multiple of ``size_divisor``; the message names the next size that is.
        """
        height, width = images.shape[-2:]
        divisor = self.size_divisor
        if height % divisor or width % divisor:
            padded = tuple(-(-size // divisor) * divisor for size in (height, width))
            raise ValueError(
                f'{type(self).__name__} takes images whose height and width are multiples of {divisor}, got '
                f'{height} x {width}. '
                f'Pad or letterbox them to {padded[0]} x {padded[1]} (data_preprocessor: size_divisor={divisor}).'
            )


class StagedTextEncoder(ABC):
    """A text encoder in stages; mixed into a module, or by itself where there is nothing to tune.

    Attributes:
        num_stages: Number of stages N.
        out_stages: Stages (1-based) that take part in the Bridger, as many as the image encoder has.
        embed_dims: Width C of the word features.
        output_dims: Width C' of the sentence feature.
        tokenizer: Turns sentences and a length L into tokens (B, L).
        context_length: Most tokens that a sentence can have.
    """

    num_stages: int
    out_stages: tuple[int, ...]
    embed_dims: int
    output_dims: int
    tokenizer: Callable[..., Tensor]
    context_length: int

    @abstractmethod
    def padding_mask(self, tokens: Tensor) -> Tensor:
        """Which of the words that :meth:`embed` makes of tokens (B, L) are padding: (B, L'), True for padding."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) -> word features before stage 1 (B, L', C). L' is L, or more where prompts are added."""

    @abstractmethod
    def stage(self, index: int, words: Tensor) -> Tensor:
        """Run stage ``index`` (1-based) on word features (B, L', C)."""

    @abstractmethod
    def tail(self, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the last stage: (B, L', C) and tokens (B, L) -> words (B, L', C), sentence (B, C')."""

    def trim(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) without the padding that all of them have."""
        return tokens[:, : int((~self.padding_mask(tokens)).sum(dim=1).max())]

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L) -> word features (B, L', C) and sentence feature (B, C'), without a Bridger."""
        words = self.embed(tokens)
        for index in range(1, self.num_stages + 1):
            words = self.stage(index, words)
        return self.tail(words, tokens)
