"""Where a model fails: mIoU and oIoU of parts of a test set, by sentence length, mask size and kind of words."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mmetris.utils.text_files import read_text

from .functional import mean_iou, overall_iou

WORD_TYPES_FILE = Path(__file__).with_name('word_types.json')
# Words of a sentence: RefCOCO's mean is 3.6, RefCOCOg's 8.4, that of Shapes 7.
LENGTH_EDGES = (2, 4, 7, 11)
# Percent of the picture.
SIZE_EDGES = (2, 5, 10, 25)


class SentenceScore(NamedTuple):
    """How one sentence fared.

    Attributes:
        name: Picture and sentence, as :func:`sample_name` writes them.
        expression: The sentence.
        intersection: Pixels.
        union: Pixels.
        target_share: Part of the picture that the true mask covers, 0..1; None if unknown.
        image: File name of the picture; '' if unknown.
    """

    name: str
    expression: str
    intersection: int
    union: int
    target_share: float | None = None
    image: str = ''

    @property
    def iou(self) -> float:
        """0..1; 0 where both masks are empty, as in :class:`RefSegMetric`."""
        return self.intersection / max(self.union, 1)


class Part(NamedTuple):
    """A row of the breakdown.

    Attributes:
        by: What the sentences are told apart by: 'all', 'length', 'mask size' or 'words'.
        part: Which of them, say '3-4 words'.
        sentences: How many.
        mean_iou: mIoU in percent.
        overall_iou: oIoU in percent.
    """

    by: str
    part: str
    sentences: int
    mean_iou: float
    overall_iou: float


@functools.lru_cache
def load_word_types(path: str | Path = WORD_TYPES_FILE) -> dict[str, tuple[str, ...]]:
    """Words and phrases of each type.

    Args:
        path: JSON file: a list of words or phrases under the name of each type. Defaults to that of the package:
            number, position, colour, relation.

    Raises:
        ValueError: If the file is something else, or a phrase stands in two lists.
    """
    try:
        lists = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is no JSON: {error}') from error
    if not isinstance(lists, dict) or not lists:
        raise ValueError(f'{path} must be {{"name of a type": ["word", "a phrase", ...], ...}}')
    seen: dict[str, str] = {}
    for kind, phrases in lists.items():
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
            raise ValueError(f'{path}: the words of {kind!r} must be a list of strings')
        for phrase in phrases:
            if seen.setdefault(phrase, kind) != kind:
                raise ValueError(f'{path}: {phrase!r} stands under {seen[phrase]!r} and under {kind!r}')
    return {kind: tuple(phrases) for kind, phrases in lists.items()}


def word_types(expression: str, lists: Mapping[str, Sequence[str]] | None = None) -> set[str]:
    """The types of words that a sentence has.

    Longer phrases count first and use up their words: "left of the car" is a relation and no position. Digits are
    numbers.

    Args:
        expression: The sentence.
        lists: Words and phrases of each type. Defaults to None: :func:`load_word_types`.

    Example:
        >>> sorted(word_types('the two red cups left of the plate'))
        ['colour', 'number', 'relation']
    """
    types: Mapping[str, Sequence[str]] = load_word_types() if lists is None else lists
    owners = {phrase: kind for kind, phrases in types.items() for phrase in phrases}
    text = ' '.join(re.findall(r'[^\W_]+', expression.lower()))
    found = {owners[match] for match in _pattern_of(tuple(owners)).findall(text)}
    if 'number' in types and re.search(r'\d', text):
        found.add('number')
    return found


@functools.lru_cache(maxsize=8)
def _pattern_of(phrases: tuple[str, ...]) -> re.Pattern:
    longest_first = sorted(phrases, key=lambda phrase: (-len(phrase.split()), -len(phrase)))
    return re.compile(rf'\b(?:{"|".join(map(re.escape, longest_first))})\b')


def break_down(
    scores: Sequence[SentenceScore],
    length_edges: Sequence[int] = LENGTH_EDGES,
    size_edges: Sequence[float] = SIZE_EDGES,
    lists: Mapping[str, Sequence[str]] | None = None,
) -> list[Part]:
    """mIoU and oIoU of parts of a test set.

    The parts by length and by mask size are disjoint. Those by words are not, since a sentence may have words of
    several types; 'none of these' has the rest.

    Args:
        scores: All sentences.
        length_edges: Most words of each class of length but the last. Defaults to (2, 4, 7, 11).
        size_edges: Largest share of the picture, in percent, of each class of mask size but the last. Defaults to
            (2, 5, 10, 25).
        lists: See :func:`word_types`. Defaults to None.

    Returns:
        The rows, 'all' first; parts without sentences are left out.

    Raises:
        ValueError: If there is no sentence, or edges do not rise.
    """
    if not scores:
        raise ValueError('there is no sentence to break down')
    for name, edges in (('length_edges', length_edges), ('size_edges', size_edges)):
        if not edges or list(edges) != sorted(set(edges)) or edges[0] <= 0:
            raise ValueError(f'{name} must be positive numbers that rise, but are {list(edges)}')
    all_types: Mapping[str, Sequence[str]] = load_word_types() if lists is None else lists
    parts = [_score('all', 'all', scores)]
    by_length = _grouped(scores, lambda score: _bin_of(len(score.expression.split()), length_edges))
    for index, label in enumerate(_length_labels(length_edges)):
        parts.append(_score('length', label, by_length.get(index, [])))
    known = [score for score in scores if score.target_share is not None]
    by_size = _grouped(known, lambda score: _bin_of(100 * (score.target_share or 0), size_edges))
    for index, label in enumerate(_size_labels(size_edges)):
        parts.append(_score('mask size', label, by_size.get(index, [])))
    types = [word_types(score.expression, all_types) for score in scores]
    for kind in all_types:
        parts.append(_score('words', kind, [score for score, kinds in zip(scores, types) if kind in kinds]))
    parts.append(_score('words', 'none of these', [score for score, kinds in zip(scores, types) if not kinds]))
    return [part for part in parts if part.sentences]


def _score(by: str, label: str, scores: Sequence[SentenceScore]) -> Part:
    if not scores:
        return Part(by, label, 0, 0.0, 0.0)
    intersections = torch.tensor([score.intersection for score in scores])
    unions = torch.tensor([score.union for score in scores])
    return Part(by, label, len(scores), 100 * mean_iou(intersections, unions), 100 * overall_iou(intersections, unions))


def _grouped(scores: Iterable[SentenceScore], key: Callable[[SentenceScore], int]) -> dict[int, list[SentenceScore]]:
    groups: dict[int, list[SentenceScore]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return groups


def _bin_of(value: float, edges: Sequence[float]) -> int:
    return sum(value > edge for edge in edges)


def _length_labels(edges: Sequence[int]) -> list[str]:
    starts = [1, *(edge + 1 for edge in edges)]
    labels = [f'{start}' if start == end else f'{start}-{end}' for start, end in zip(starts, edges)]
    return [f'{label} words' for label in [*labels, f'{starts[-1]} or more']]


def _size_labels(edges: Sequence[float]) -> list[str]:
    middle = [f'{low:g} to {high:g} %' for low, high in zip(edges, edges[1:])]
    return [f'up to {edges[0]:g} %', *middle, f'over {edges[-1]:g} %']


__all__ = ['Part', 'SentenceScore', 'break_down', 'load_word_types', 'word_types']
