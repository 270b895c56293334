"""What a user typed, checked before it reaches the tokenizer: empty, very long or not English."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence

from .text_files import writable
from .tokenizer import count_tokens

# More than CLIP's 77 tokens can hold; what lies beyond is not even looked at.
MAX_CHARACTERS = 2000
EXAMPLE = 'say in words what to segment, for example "the dog on the left"'


def check_expressions(texts: str | Sequence[str], max_tokens: int = 77) -> list[str]:
    """Sentences with single spaces and none at the ends, refused where empty.

    A sentence that the model reads only in part, and one that is not English (CLIP's vocabulary is), are used all the
    same; one warning of each kind says so.

    Args:
        texts: One sentence or several.
        max_tokens: What the model reads of a sentence, [SOS] and [EOS] included. Defaults to 77, CLIP's length.

    Returns:
        The sentences, at least one.

    Raises:
        TypeError: If a sentence is no string.
        ValueError: If there is no sentence, or an empty one.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, (list, tuple)):
        raise TypeError(f'texts must be a sentence or a list of sentences, not {type(texts).__name__}')
    if not texts:
        raise ValueError(f'no sentence given: {EXAMPLE}')
    cleaned, cut, foreign = [], [], []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f'a sentence must be a string, but sentence {index + 1} is {text!r}')
        words = writable(' '.join(text.split()))
        if not words:
            raise ValueError(f'sentence {index + 1} is empty: {EXAMPLE}')
        if len(words) > MAX_CHARACTERS:
            words = words[:MAX_CHARACTERS]
            cut.append(words)
        elif count_tokens(words) > max_tokens:
            cut.append(words)
        if not _looks_english(words):
            foreign.append(words)
        cleaned.append(words)
    if cut:
        warnings.warn(
            f'{_quote(cut)} too long: the model reads the first {max_tokens - 2} tokens (words or parts of '
            'words) and leaves out the rest',
            stacklevel=3,
        )
    if foreign:
        warnings.warn(
            f"{_quote(foreign)} not English, as far as one can tell by its letters: CLIP's vocabulary is "
            'English, so do not expect much',
            stacklevel=3,
        )
    return cleaned


def _looks_english(text: str) -> bool:
    """By its letters only: none of another script, and few with marks ('the café' passes)."""
    letters = [letter for letter in text if letter.isalpha()]
    marked = [letter for letter in letters if not letter.isascii()]
    if any(not unicodedata.name(letter, '').startswith('LATIN') for letter in marked):
        return False
    return len(marked) <= 0.1 * len(letters)


def _quote(texts: Sequence[str]) -> str:
    """'"the dog" is', or how many there are."""
    first = texts[0] if len(texts[0]) <= 40 else f'{texts[0][:40]}…'
    return f'the sentence "{first}" is' if len(texts) == 1 else f'{len(texts)} sentences, "{first}" the first, are'
