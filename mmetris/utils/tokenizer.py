"""Sentences to CLIP's token ids (ETRIS, Sec. 3.1 "Text Encoder"): lower-cased byte-pair encoding between
[SOS] and [EOS].

The vocabulary and the encoding are open_clip's; what is ours is the cut at L tokens and the count of tokens
before it. L is the number of tokens of a sentence, [SOS] and [EOS] included.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SOS_TOKEN = 49406
EOS_TOKEN = 49407
PAD_TOKEN = 0


@functools.lru_cache(maxsize=1)
def _bpe() -> Any:
    """open_clip's tokenizer, made at first use: importing open_clip takes seconds, reading the vocabulary a
    quarter of one."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@functools.lru_cache(maxsize=65536)
def _encode_word(word: str) -> tuple[int, ...]:
    """Ids of one ASCII word, already split off by CLIP's pattern."""
    bpe = _bpe()
    return tuple(bpe.encoder[piece] for piece in bpe.bpe(word).split(' '))


def _encode(text: str) -> list[int]:
    """Ids of a sentence without [SOS] and [EOS].

    open_clip repairs broken Unicode and HTML first, which is most of its time. Printable ASCII without ``&``
    has nothing to repair, so such sentences (nearly all) go word by word through a cache; the result is the
    same.
    """
    bpe = _bpe()
    if text.isascii() and text.isprintable() and '&' not in text:
        return [token for word in bpe.pat.findall(text.lower()) for token in _encode_word(word)]
    return bpe.encode(text)


def count_tokens(text: str) -> int:
    """Number of tokens of a sentence before any cut, with [SOS] and [EOS].

    Args:
        text: Any sentence; an empty one has two tokens.
    """
    return len(_encode(text)) + 2


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """Encode sentences as CLIP does.

    Args:
        texts: One sentence or several. An empty one becomes [SOS] [EOS], as in CLIP; data sets refuse it
            before this point.
        context_length: L. A longer sentence is cut and still ends with [EOS]. Defaults to 77, the length of
            CLIP's position embedding; ETRIS uses 17 for RefCOCO and RefCOCO+, 22 for G-Ref.

    Returns:
        int64 ids (B, L), padded with zeros after [EOS]; B is 1 for a single string.

    Raises:
        TypeError: If a text is no string.
        ValueError: If ``context_length`` leaves no room for [SOS] and [EOS].
    """
    if context_length < 2:
        raise ValueError(f'context_length must be at least 2, for [SOS] and [EOS], but is {context_length}')
    if isinstance(texts, str):
        texts = [texts]
    tokens = torch.full((len(texts), context_length), PAD_TOKEN, dtype=torch.long)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f'Only strings can be tokenized, but texts[{row}] is {text!r}')
        ids = [SOS_TOKEN, *_encode(text)[: context_length - 2], EOS_TOKEN]
        tokens[row, : len(ids)] = torch.tensor(ids)
    return tokens
