"""Transforms of the sentence."""

from __future__ import annotations

import re

from mmcv.transforms import BaseTransform

from ...registry import TRANSFORMS
from ...utils.tokenizer import tokenize

# 'left' and 'right' alone, with their endings, or joined to another place ('topleft'); not inside 'bright' or
# 'leftover'.
_SIDE = re.compile(
    r'(?<![a-z])((?:top|bottom|upper|lower|far|front|back|mid|middle|center|centre)?)(left|right)'
    r'(?=(?:most|er|hand|handed|side|sided|ward|wards|y|ie|s)?(?![a-z]))',
    re.IGNORECASE,
)


@TRANSFORMS.register_module()
class TokenizeExpression(BaseTransform):
    """Encode the sentence as CLIP's token ids.

    The last word on length: a longer sentence is cut and still ends with [EOS]; the data set reports how many
    are.

    Required keys: ``expression``. Added keys: ``tokens``, int64 (L,).

    Args:
        context_length: L, [SOS] and [EOS] included. Defaults to 17, ETRIS's length for RefCOCO and RefCOCO+;
            it takes 22 for G-Ref.

    Raises:
        ValueError: If ``context_length`` is below 2.
        KeyError: If a sample has no sentence.
    """

    def __init__(self, context_length: int = 17) -> None:
        if context_length < 2:
            raise ValueError(f'context_length must be at least 2, for [SOS] and [EOS], but is {context_length}')
        self.context_length = context_length

    def transform(self, results: dict) -> dict:
        """Add the tokens."""
        if 'expression' not in results:
            raise KeyError(
                f'no "expression" for {results.get("img_path", "the image")}: a referring model needs a sentence; '
                "an inferencer takes dict(img_path=..., expression='the dog on the left')"
            )
        results['tokens'] = tokenize(results['expression'], self.context_length)[0]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(context_length={self.context_length})'


def swap_sides(text: str) -> str:
    """Exchange left and right in a sentence: 'the Left dog, rightmost cup' -> 'the Right dog, leftmost cup'.

    Words only: what a mirror changes otherwise (letters, clock positions, 'right behind') it cannot know.
    """

    def swap(match: re.Match) -> str:
        place, side = match.groups()
        other = 'right' if side.lower() == 'left' else 'left'
        if side.isupper():
            other = other.upper()
        elif side[0].isupper():
            other = other.capitalize()
        return place + other

    return _SIDE.sub(swap, text)


@TRANSFORMS.register_module()
class FlipExpression(BaseTransform):
    """Make the sentence true again after the image was mirrored.

    MMCV's ``RandomFlip`` mirrors image and mask only, and then "the left dog" is on the right. Put this
    transform after it and before ``TokenizeExpression``, in training and in test-time augmentation; or leave
    flips out, as ETRIS does.

    Required keys: ``expression``; ``flip`` and ``flip_direction`` if the image was flipped. Modified keys:
    ``expression``.
    """

    def transform(self, results: dict) -> dict:
        """Exchange left and right if the image was flipped horizontally or diagonally."""
        if results.get('flip') and results.get('flip_direction') in ('horizontal', 'diagonal'):
            results['expression'] = swap_sides(results['expression'])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
