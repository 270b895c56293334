"""Sentences that mean nothing in a Shapes scene, one object or several, as in gRefCOCO (Liu et al., "GRES", 2023).

Like the others (``expressions.py``) each is worded from logical forms, and a sentence on which two people could
disagree is never written: "the star" where there are two, "both rings" where there are three, a borderline place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .captions import swap_attribute
from .expressions import (
    KINDS,
    MAX_TOKENS,
    any_article,
    descriptions_of,
    noun_phrase,
    num_tokens,
    pick,
    place_words,
    relation_words,
)
from .logic import DIRECTIONS, FALSE, PLACES, REGIONS, TRUE, UNCLEAR, Description, Expression
from .scene import Scene

NUM_EACH = 3
"""Sentences of each sort, nothing, one and several, for each scene."""
_NUMBERS = {2: 'two', 3: 'three', 4: 'four', 5: 'five', 6: 'six'}
_ABSENT = ('attribute', 'place', 'relation', 'plural')
_TRIES = 60


@dataclass(frozen=True)
class GroupExpression:
    """A sentence that means all objects of which one of its ``parts`` holds."""

    text: str
    parts: tuple[Expression, ...]

    def truth(self, scene: Scene) -> np.ndarray:
        """(K,): how far the sentence holds of each object of the scene."""
        return np.max([part.truth(scene) for part in self.parts], axis=0)

    def targets(self, scene: Scene) -> tuple[int, ...] | None:
        """Indices of the objects that are meant, perhaps none; None if there is a borderline case."""
        truth = self.truth(scene)
        return None if (truth == UNCLEAR).any() else tuple(np.flatnonzero(truth == TRUE).tolist())


def determiner(rng: np.random.Generator, count: int) -> str:
    """What may stand before a plural noun that means so many objects: "the", "both", "all", "the two", or nothing."""
    return pick(rng, ('the', 'the', '', 'both' if count == 2 else 'all', f'the {_NUMBERS[count]}'))


def _often_by_shape(descriptions: Sequence[Description]) -> list[Description]:
    """Those that name the shape, as people mostly do, five times."""
    return [d for d in descriptions for _ in range(5 if d.shape else 1)]


def _absent(rng: np.random.Generator, scene: Scene) -> Description:
    """What fits no object, but would fit one if a single attribute were another."""
    while True:
        near = pick(rng, _often_by_shape(descriptions_of(pick(rng, scene.objects).look)[1:]))
        description = swap_attribute(rng, near)
        if (description.truth(scene) == FALSE).all():
            return description


def _placed(
    rng: np.random.Generator, description: Description, place: str, article: str, plural: bool = False
) -> GroupExpression:
    """A description at a place."""
    head, tail = place_words(rng, place)
    if head and article == 'a':
        article = 'the'
    text = ' '.join(filter(None, (noun_phrase(rng, description, head, article, plural), tail)))
    return GroupExpression(text, (Expression('place', text, description, place=place),))


def _nothing(rng: np.random.Generator, scene: Scene, known: Sequence[Description], kind: str) -> GroupExpression | None:
    """A sentence that means nothing: the object is not there or, every other time, not where the sentence says."""
    if kind == 'attribute':
        absent = _absent(rng, scene)
        text = noun_phrase(rng, absent, article=any_article(rng))
        return GroupExpression(text, (Expression('attribute', text, absent),))
    if kind == 'plural':
        absent = _absent(rng, scene)
        text = noun_phrase(rng, absent, article=determiner(rng, int(rng.integers(2, 4))), plural=True)
        return GroupExpression(text, (Expression('attribute', text, absent),))
    looks = pick(rng, scene.objects).look
    present = pick(rng, _often_by_shape(descriptions_of(looks)[1:]))
    subject = _absent(rng, scene) if rng.random() < 0.5 else present
    if kind == 'place':
        # "The leftmost star" is always there if a star is.
        place = pick(rng, REGIONS if subject is present else REGIONS * 3 + PLACES)
        return _placed(rng, subject, place, any_article(rng))
    reference = pick(rng, known)
    if subject is present and not (subject.truth(scene) > reference.truth(scene)).any():
        return None  # It would fit the reference alone: "the ring left of the ring".
    relation = pick(rng, tuple(DIRECTIONS))
    words = noun_phrase(rng, subject, article=any_article(rng)), relation_words(rng, relation)
    text = ' '.join((*words, noun_phrase(rng, reference)))
    return GroupExpression(text, (Expression('relation', text, subject, relation=relation, reference=reference),))


def _several(rng: np.random.Generator, scene: Scene, known: Sequence[Description], kind: str) -> GroupExpression | None:
    """A sentence that means several objects: all of a description, those of them at a place, or one and another."""
    if kind == 'both':
        one, other = (known[index] for index in rng.permutation(len(known))[:2])
        phrases = noun_phrase(rng, one), noun_phrase(rng, other)
        parts = tuple(Expression('attribute', text, subject) for text, subject in zip(phrases, (one, other)))
        return GroupExpression(' and '.join(phrases), parts)
    counts = Counter(description for obj in scene.objects for description in descriptions_of(obj.look))
    shared = _often_by_shape([description for description, count in counts.items() if count > 1])
    subject = pick(rng, shared)
    if kind == 'attribute':
        text = noun_phrase(rng, subject, article=determiner(rng, counts[subject]), plural=True)
        return GroupExpression(text, (Expression('attribute', text, subject),))
    return _placed(rng, subject, pick(rng, REGIONS), pick(rng, ('the', 'the', '')), plural=True)


def _one(triples: Sequence[tuple[Expression, ...]], rng: np.random.Generator, kind: str) -> GroupExpression:
    """One of the sentences that mean a single object."""
    expression = pick(rng, triples)[KINDS.index(kind)]
    return GroupExpression(expression.text, (expression,))


def refer_to_groups(
    rng: np.random.Generator, scene: Scene, triples: Sequence[tuple[Expression, ...]]
) -> list[GroupExpression]:
    """Write sentences that mean nothing, one object and several, :data:`NUM_EACH` of each where the scene has as many.

    Args:
        rng: Source of randomness.
        scene: The scene, with two objects or more.
        triples: What :func:`refer` wrote of it: the sentences about one object are taken from them.

    Returns:
        Sentences, no two alike, in a random order of the sorts.
    """
    known = [triple[0].subject for triple in triples]  # each fits one object and no other
    wanted = {
        0: [_ABSENT[index] for index in rng.permutation(len(_ABSENT))[:NUM_EACH]],
        1: list(KINDS),
        2: ['attribute', 'place', 'both'],
    }
    found: dict[str, GroupExpression] = {}
    for least, kinds in wanted.items():
        for kind in kinds:
            for attempt in range(2 * _TRIES):
                # Few scenes have two objects of a kind at one place: what they have is taken instead.
                tried = kind if attempt < _TRIES else 'attribute'
                if least == 1:
                    sentence: GroupExpression | None = _one(triples, rng, tried)
                else:
                    sentence = (_several if least else _nothing)(rng, scene, known, tried)
                if sentence is None or sentence.text in found or num_tokens(sentence.text) > MAX_TOKENS:
                    continue
                targets = sentence.targets(scene)
                if targets is not None and min(len(targets), 2) == least:
                    found[sentence.text] = sentence
                    break
    sentences = list(found.values())
    return [sentences[index] for index in rng.permutation(len(sentences))]
