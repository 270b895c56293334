"""Referring expressions for Shapes scenes: one by attributes, one by place and one by relation for each object.

Every expression is written from a logical form (``logic.py``) which was checked to hold of one object of its scene
and of no other; the wording then varies without changing the form.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import TypeVar

import numpy as np

from .logic import DIRECTIONS, DISTANCES, EXTREMES, REGIONS, Description, Expression
from .scene import COLOURS, SHAPES, Scene

_T = TypeVar('_T')

KINDS = ('attribute', 'place', 'relation')
MAX_TOKENS = 15  # with [SOS] and [EOS]; RefCOCO's sentences are cut at 17

# Words that CLIP's byte pair encoding cuts in more than one piece (a test holds this against the real tokenizer).
_PIECES = {
    'checkered': 2,
    'cyan': 2,
    'leftmost': 2,
    'rightmost': 2,
    'topmost': 2,
    'farthest': 2,
    'furthest': 2,
    'triangles': 2,
}

# What is tried, and how often: superlatives nearly always hold, so without weights they would crowd out the rest.
_PLACE_DRAW = REGIONS * 3 + tuple(EXTREMES)
_RELATION_DRAW = tuple(DIRECTIONS) * 4 + tuple(DISTANCES)

_NOUNS = ('object', 'thing', 'shape')
_WORDS = {
    'small': ('small', 'small', 'little'),
    'large': ('large', 'large', 'big'),
    'plain': ('plain', 'plain', 'solid'),
    'striped': ('striped',),
    'dotted': ('dotted',),
    'checkered': ('checkered',),
}
_TEXTURE_TAILS = {'striped': 'with stripes', 'dotted': 'with dots', 'checkered': 'with checks'}
_PLACE_TAILS = {
    'left': ('on the left', 'on the left side', 'at left'),
    'right': ('on the right', 'on the right side', 'at right'),
    'top': ('at the top', 'on top', 'in the upper half'),
    'bottom': ('at the bottom', 'on the bottom', 'in the lower half'),
    'top left': ('at the top left', 'in the upper left', 'in the top left corner'),
    'top right': ('at the top right', 'in the upper right', 'in the top right corner'),
    'bottom left': ('at the bottom left', 'in the lower left', 'in the bottom left corner'),
    'bottom right': ('at the bottom right', 'in the lower right', 'in the bottom right corner'),
    'middle': ('in the middle', 'in the center', 'near the center'),
    'leftmost': ('farthest to the left',),
    'rightmost': ('farthest to the right',),
    'topmost': ('nearest to the top',),
    'lowest': ('nearest to the bottom',),
}
_PLACE_HEADS = {
    'left': ('left',),
    'right': ('right',),
    'top': ('top', 'upper'),
    'bottom': ('bottom', 'lower'),
    'top left': ('top left', 'upper left'),
    'top right': ('top right', 'upper right'),
    'bottom left': ('bottom left', 'lower left'),
    'bottom right': ('bottom right', 'lower right'),
    'middle': ('middle', 'center'),
    'leftmost': ('leftmost',),
    'rightmost': ('rightmost',),
    'topmost': ('topmost', 'highest'),
    'lowest': ('lowest',),
}
_RELATION_WORDS = {
    'left': ('left of', 'to the left of', 'on the left of'),
    'right': ('right of', 'to the right of', 'on the right of'),
    'above': ('above', 'over'),
    'below': ('below', 'under', 'beneath'),
    'nearest': ('nearest to', 'closest to'),
    'farthest': ('farthest from', 'furthest from'),
}


def vocabulary() -> frozenset[str]:
    """Every word that a sentence about one object, or a caption, can hold."""
    phrases = {'the a an is and with object', *_NOUNS, *COLOURS, *SHAPES, *_TEXTURE_TAILS.values()}
    for table in (_WORDS, _PLACE_TAILS, _PLACE_HEADS, _RELATION_WORDS):
        phrases.update(phrase for phrases_of in table.values() for phrase in phrases_of)
    return frozenset(word for phrase in phrases for word in phrase.split())


def pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def num_tokens(text: str) -> int:
    """Number of CLIP tokens of one of our sentences, [SOS] and [EOS] included."""
    return 2 + sum(_PIECES.get(word, 1) for word in text.split())


def place_words(rng: np.random.Generator, place: str) -> tuple[str, str]:
    """Word a place either before the noun or behind it: (head, tail), one of them empty."""
    if rng.random() < (0.8 if place in EXTREMES else 0.35):
        return pick(rng, _PLACE_HEADS[place]), ''
    return '', pick(rng, _PLACE_TAILS[place])


def relation_words(rng: np.random.Generator, relation: str) -> str:
    """Word a relation, ready to stand between the two noun phrases."""
    return pick(rng, _RELATION_WORDS[relation])


def noun_phrase(
    rng: np.random.Generator, description: Description, head: str = '', article: str = 'the', plural: bool = False
) -> str:
    """Word a description: ``[article] [head] [size] [texture] [colour] shape[s] [with texture]``."""
    words = [head]
    if description.size:
        words.append(pick(rng, _WORDS[description.size]))
    tail = ''
    if description.texture in _TEXTURE_TAILS and not head and rng.random() < 0.15:
        tail = _TEXTURE_TAILS[description.texture]
    elif description.texture:
        words.append(pick(rng, _WORDS[description.texture]))
    noun = description.shape or pick(rng, _NOUNS)
    words += [description.colour or '', plural_of(noun) if plural else noun, tail]
    phrase = ' '.join(word for word in words if word)
    if article == 'a' and phrase[0] in 'aeiou':
        article = 'an'
    return f'{article} {phrase}'.strip()


def plural_of(noun: str) -> str:
    """A shape's name, or another of our nouns, for several of them."""
    return f'{noun}es' if noun.endswith('s') else f'{noun}s'


@cache
def descriptions_of(look: tuple[str, str, str, str]) -> tuple[Description, ...]:
    """All 16 descriptions that fit an object of this look, those with fewer attributes first."""
    names = ('colour', 'shape', 'size', 'texture')
    value = dict(zip(names, look))
    return tuple(
        Description(**{name: value[name] for name in chosen})
        for count in range(len(names) + 1)
        for chosen in combinations(names, count)
    )


@cache
def _num_attributes(description: Description) -> int:
    return sum(value is not None for value in vars(description).values())


class _Names:
    """How the objects of a scene can be described, each description with the number of objects it fits.

    Attributes:
        unique: For each object, the descriptions that fit no other; short ones first, perhaps none.
        vague: For each object, the descriptions that fit others as well. Those that name the shape, as people mostly
            do, stand five times.
        fitting: For each object, all that fit it, weighted likewise.
    """

    def __init__(self, scene: Scene) -> None:
        fitting = [descriptions_of(obj.look) for obj in scene.objects]
        count = Counter(description for descriptions in fitting for description in descriptions)
        self.unique = [[d for d in descriptions if count[d] == 1] for descriptions in fitting]
        self.fitting = [[d for d in descriptions for _ in range(5 if d.shape else 1)] for descriptions in fitting]
        self.vague = [[d for d in descriptions if count[d] > 1] for descriptions in self.fitting]


def any_article(rng: np.random.Generator) -> str:
    """'the' mostly, or 'a', or nothing."""
    return pick(rng, ('the', 'the', 'the', '', 'a'))


def _attribute_expression(rng: np.random.Generator, scene: Scene, names: _Names, index: int) -> Expression | None:
    """Name enough attributes to single the object out: as few as possible, or one more one time in three."""
    unique = names.unique[index]
    if not unique:
        return None
    count = _num_attributes(unique[0]) + int(rng.random() < 0.33)
    # "The red thing" is possible, but people mostly name the shape.
    wanted = [d for d in unique if _num_attributes(d) <= count and (d.shape or rng.random() < 0.2)] or unique[:1]
    subject = pick(rng, wanted)
    return Expression('attribute', noun_phrase(rng, subject, article=any_article(rng)), subject)


def _subjects(rng: np.random.Generator, names: _Names, index: int) -> list[Description]:
    """Descriptions to begin a sentence of place or relation with.

    Every other sentence needs its place or relation: the description alone fits other objects too. The rest say more
    than they must, as people do.
    """
    return names.vague[index] if names.vague[index] and rng.random() < 0.5 else names.fitting[index]


def _place_expression(
    rng: np.random.Generator, scene: Scene, names: _Names, index: int, tries: int = 60
) -> Expression | None:
    subjects = _subjects(rng, names, index)
    for _ in range(tries):
        subject = pick(rng, subjects)
        place = pick(rng, _PLACE_DRAW)
        if Expression('place', '', subject, place=place).referent(scene) != index:
            continue
        head, tail = place_words(rng, place)
        article = pick(rng, ('the', 'the', '')) if head else any_article(rng)
        text = ' '.join(filter(None, (noun_phrase(rng, subject, head, article), tail)))
        if num_tokens(text) <= MAX_TOKENS:
            return Expression('place', text, subject, place=place)
    return None


def _relation_expression(
    rng: np.random.Generator, scene: Scene, names: _Names, index: int, tries: int = 120
) -> Expression | None:
    others = [i for i in range(len(scene.objects)) if i != index and names.unique[i]]
    if not others:
        return None
    subjects = _subjects(rng, names, index)
    for _ in range(tries):
        subject = pick(rng, subjects)
        known = names.unique[pick(rng, others)]
        reference = pick(rng, [d for d in known if _num_attributes(d) <= _num_attributes(known[0]) + 1])
        relation = pick(rng, _RELATION_DRAW)
        form = Expression('relation', '', subject, relation=relation, reference=reference)
        if form.referent(scene) != index:
            continue
        text = ' '.join(
            (
                noun_phrase(rng, subject, article=any_article(rng)),
                relation_words(rng, relation),
                noun_phrase(rng, reference),
            )
        )
        if num_tokens(text) <= MAX_TOKENS:
            return replace(form, text=text)
    return None


def refer(rng: np.random.Generator, scene: Scene) -> list[tuple[Expression, ...]] | None:
    """Write three expressions for each object, in the order of ``KINDS``.

    Returns:
        A triple per object, in the order of ``scene.objects``; or None if an object cannot be told apart in one of
        the three ways without a borderline case, so that the scene should be drawn anew.
    """
    makers = (_attribute_expression, _place_expression, _relation_expression)
    names = _Names(scene)
    triples = []
    for index in range(len(scene.objects)):
        triple = []
        for maker in makers:
            expression = maker(rng, scene, names, index)
            if expression is None:
                return None
            triple.append(expression)
        triples.append(tuple(triple))
    return triples
