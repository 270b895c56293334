"""Sentences to token ids (ETRIS, Sec. 3.1 "Text Encoder"): for CLIP lower-cased byte-pair encoding between [SOS] and
[EOS], for text encoders with a vocabulary of their own whatever they were trained with.

Vocabularies and encoding are open_clip's; what is ours is the cut at L tokens and the count of tokens before it. L is
the number of tokens of a sentence, [SOS] and [EOS] included.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .text_files import writable

SOS_TOKEN = 49406
EOS_TOKEN = 49407
PAD_TOKEN = 0
# Beside a tokenizer's vocabulary: its class and its special tokens.
TOKENIZER_CONFIG = 'tokenizer_config.json'
# All that transformers may ask for when it builds one.
TOKENIZER_FILES = (
    *(TOKENIZER_CONFIG, 'tokenizer.json', 'special_tokens_map.json', 'added_tokens.json', 'config.json'),
    *('tokenizer.model', 'spiece.model', 'sentencepiece.bpe.model', 'vocab.txt', 'vocab.json', 'merges.txt'),
)


class _BytePairs:
    """open_clip's byte-pair encoder with a cache of words."""

    def __init__(self, clean: str, special_tokens: tuple[str, ...]) -> None:
        # Importing open_clip takes seconds, reading the vocabulary a quarter of one: both wait for the first sentence.
        from open_clip.tokenizer import SimpleTokenizer

        self.bpe = SimpleTokenizer(clean=clean, additional_special_tokens=list(special_tokens))
        self.lowers = clean == 'lower'
        self.word = functools.lru_cache(maxsize=65536)(self._word)

    def _word(self, word: str) -> tuple[int, ...]:
        """Ids of one ASCII word, already split off by CLIP's pattern."""
        return tuple(self.bpe.encoder[piece] for piece in self.bpe.bpe(word).split(' '))

    def encode(self, text: str) -> list[int]:
        """Ids of a sentence without [SOS] and [EOS].

        open_clip repairs broken Unicode and HTML first, which is most of its time. Printable ASCII without ``&`` has
        nothing to repair, so such sentences (nearly all) go word by word through a cache; the result is the same.
        """
        if self.lowers and text.isascii() and text.isprintable() and '&' not in text:
            return [token for word in self.bpe.pat.findall(text.lower()) for token in self.word(word)]
        return self.bpe.encode(text)


@functools.lru_cache(maxsize=8)
def _byte_pairs(clean: str, special_tokens: tuple[str, ...]) -> _BytePairs:
    return _BytePairs(clean, special_tokens)


class Tokenizer(ABC):
    """What turns sentences into a text encoder's tokens; an instance is a small description and reads no file."""

    @staticmethod
    def of_text_cfg(text_cfg: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that an open_clip ``text_cfg`` names; CLIP's if it names none.

        Raises:
            ValueError: If its ``tokenizer_kwargs`` are unknown, or leave out words at random (``reduction_mask``).
        """
        kwargs = dict(text_cfg.get('tokenizer_kwargs') or {})
        if source := text_cfg.get('hf_tokenizer_name'):
            return HuggingFaceTokenizer(source, text_cfg.get('tokenizer_mode'), tuple(sorted(kwargs.items())))
        special_tokens = tuple(kwargs.pop('additional_special_tokens', None) or ())
        clean = kwargs.pop('clean', 'lower')
        if kwargs:
            raise ValueError(
                f'tokenizer_kwargs={kwargs} of text_cfg: only clean and additional_special_tokens can be followed'
            )
        return BytePairTokenizer(clean, special_tokens)

    @property
    @abstractmethod
    def sos(self) -> int | None:
        """Id of [SOS], which begins every sentence; None if nothing does."""

    @property
    @abstractmethod
    def eos(self) -> int | None:
        """Id of [EOS], which ends every sentence; None if nothing does."""

    @property
    @abstractmethod
    def pad(self) -> int:
        """Id that fills up a sentence."""

    @abstractmethod
    def prepare(self, vocab_size: int | None = None) -> None:
        """Make sure that sentences can be encoded.

        Args:
            vocab_size: Most ids that the text encoder knows. Defaults to None: any.

        Raises:
            ValueError: If something that is needed is not on this machine, or there are more ids than that.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a sentence without the special ones, not cut."""

    @abstractmethod
    def count(self, text: str) -> int:
        """Number of tokens of a sentence before any cut, with the special ones."""

    @abstractmethod
    def __call__(self, texts: str | Sequence[str], context_length: int = 77) -> Tensor:
        """Encode sentences.

        Args:
            texts: One sentence or several. An empty one becomes [SOS], [EOS], as in CLIP; data sets refuse it before
                this point.
            context_length: L. A longer sentence is cut and still ends with [EOS]. Defaults to 77, the length of
                CLIP's position embedding; ETRIS uses 17 for RefCOCO and RefCOCO+, 22 for G-Ref.

        Returns:
            int64 ids (B, L), padded after [EOS]; B is 1 for a single string.

        Raises:
            TypeError: If a text is no string.
            ValueError: If ``context_length`` leaves no room for [SOS] and [EOS].
        """


@dataclass(frozen=True)
class BytePairTokenizer(Tokenizer):
    """CLIP's byte-pair encoding, as open_clip offers it.

    Args:
        clean: What is done to a sentence first, by open_clip's name: ``'lower'`` (repair, blanks, lower case; the
            default, as in CLIP), ``'whitespace'`` or ``'canonicalize'``.
        special_tokens: Words with an id of their own, after [SOS] and [EOS]. Defaults to none.
    """

    clean: str = 'lower'
    special_tokens: tuple[str, ...] = ()

    @property
    def sos(self) -> int:
        return SOS_TOKEN

    @property
    def eos(self) -> int:
        return EOS_TOKEN

    @property
    def pad(self) -> int:
        return PAD_TOKEN

    def prepare(self, vocab_size: int | None = None) -> None:
        """Nothing to do: the vocabulary comes with open_clip."""

    def encode(self, text: str) -> list[int]:
        return _byte_pairs(self.clean, self.special_tokens).encode(text)

    def count(self, text: str) -> int:
        return len(self.encode(text)) + 2

    def __call__(self, texts: str | Sequence[str], context_length: int = 77) -> Tensor:
        texts = _checked(texts, context_length)
        tokens = torch.full((len(texts), context_length), PAD_TOKEN, dtype=torch.long)
        for row, text in enumerate(texts):
            ids = [SOS_TOKEN, *self.encode(text)[: context_length - 2], EOS_TOKEN]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens


def _checked(texts: str | Sequence[str], context_length: int) -> Sequence[str]:
    if context_length < 2:
        raise ValueError(f'context_length must be at least 2, for [SOS] and [EOS], but is {context_length}')
    texts = [texts] if isinstance(texts, str) else texts
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f'Only strings can be tokenized, but texts[{row}] is {text!r}')
    return [writable(text) for text in texts]


@functools.lru_cache(maxsize=8)
def _hugging_face(source: str, mode: str | None, options: tuple[tuple[str, Any], ...]) -> Any:
    """open_clip's wrapper of a Hugging Face tokenizer whose files are on this machine."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'its tokenizer is {source} of Hugging Face, for which transformers has to be installed'
        ) from error
    from open_clip.tokenizer import HFTokenizer

    try:
        return HFTokenizer(source, tokenizer_mode=mode, local_files_only=True, **dict(options))
    except (OSError, ValueError) as error:
        raise ValueError(
            f'its tokenizer is {source} of Hugging Face, whose files are not on this machine: download them '
            f'(transformers.AutoTokenizer.from_pretrained({source!r})), or let tokenizer name the folder that has them'
        ) from error


@dataclass(frozen=True)
class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's, as open_clip uses it; read at first use, from this machine only.

    Args:
        source: Its name, or a folder with its files.
        mode: open_clip's ``tokenizer_mode``. Defaults to None: the tokenizer's own special tokens.
        options: open_clip's ``tokenizer_kwargs`` as pairs, e.g. ``(('strip_sep_token', True),)``.
    """

    source: str
    mode: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def _tokenizer(self) -> Any:
        return _hugging_face(self.source, self.mode, self.options)

    @property
    def sos(self) -> int | None:
        own = self._tokenizer.tokenizer
        return own.bos_token_id if own.cls_token_id is None else own.cls_token_id

    @property
    def eos(self) -> int | None:
        """None where it is taken away again (``strip_sep_token``)."""
        own = self._tokenizer.tokenizer
        if dict(self.options).get('strip_sep_token'):
            return None
        return own.sep_token_id if own.eos_token_id is None else own.eos_token_id

    @property
    def pad(self) -> int:
        return self._tokenizer.tokenizer.pad_token_id

    def in_folder(self, path: str) -> HuggingFaceTokenizer:
        """The same tokenizer, whose files are in a folder.

        Args:
            path: The folder, or one of the files in it (``tokenizer.json``, ``tokenizer.model``, ``spiece.model``),
                beside which its ``tokenizer_config.json`` stands.

        Raises:
            FileNotFoundError: If it is not there, or not beside ``tokenizer_config.json``, which names the special
                tokens.
        """
        place = Path(path).expanduser()
        folder = place.parent if place.is_file() else place
        missing = next((file for file in (place, folder / TOKENIZER_CONFIG) if not file.exists()), None)
        if missing is not None:
            raise FileNotFoundError(
                f'tokenizer={path!r}: {missing} is not there. Put tokenizer.json (or the SentencePiece .model) and '
                f'{TOKENIZER_CONFIG} of {self.source} (https://huggingface.co/{self.source}) into one folder, and let '
                'tokenizer name it'
            )
        return dataclasses.replace(self, source=str(folder))

    def prepare(self, vocab_size: int | None = None) -> None:
        own = len(self._tokenizer.tokenizer)
        if vocab_size is not None and own > vocab_size:
            raise ValueError(
                f'its tokenizer {self.source} has {own} ids, but the text encoder knows {vocab_size}: it belongs to '
                'another model'
            )

    def encode(self, text: str) -> list[int]:
        wrapper = self._tokenizer
        return wrapper.tokenizer(wrapper.clean_fn(text), add_special_tokens=False).input_ids

    def count(self, text: str) -> int:
        wrapper = self._tokenizer
        special = 3 if self.mode == 'clips' else wrapper.tokenizer.num_special_tokens_to_add()
        return len(self.encode(text)) + special

    def __call__(self, texts: str | Sequence[str], context_length: int = 77) -> Tensor:
        texts = _checked(texts, context_length)
        if not texts:
            return torch.zeros(0, context_length, dtype=torch.long)
        return self._tokenizer(list(texts), context_length)


CLIP_TOKENIZER = BytePairTokenizer()


def count_tokens(text: str) -> int:
    """Number of CLIP's tokens of a sentence before any cut, with [SOS] and [EOS].

    Args:
        text: Any sentence; an empty one has two tokens.
    """
    return CLIP_TOKENIZER.count(text)


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """Encode sentences as CLIP does.

    Args:
        texts: One sentence or several. An empty one becomes [SOS], [EOS], as in CLIP; data sets refuse it
            before this point.
        context_length: L. A longer sentence is cut and still ends with [EOS]. Defaults to 77, the length of
            CLIP's position embedding; ETRIS uses 17 for RefCOCO and RefCOCO+, 22 for G-Ref.

    Returns:
        int64 ids (B, L), padded with zeros after [EOS]; B is 1 for a single string.

    Raises:
        TypeError: If a text is no string.
        ValueError: If ``context_length`` leaves no room for [SOS] and [EOS].
    """
    return CLIP_TOKENIZER(texts, context_length)
