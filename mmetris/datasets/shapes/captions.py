"""Captions of whole scenes, true and nearly true, for contrastive pre-training.

A caption is a conjunction of clauses, each of which claims that some object (or pair of objects) exists. Since every
caption keeps its clauses, whether it is true of *any* scene can be computed: ``truth_table`` does so for a whole batch
of scenes and captions, so that a caption which happens to fit another picture is never taken for a negative.

Axes: S scenes, K objects of the largest scene, C captions, M clauses of all captions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .expressions import noun_phrase, pick, place_words, relation_words
from .logic import (
    DIRECTIONS,
    DISTANCES,
    EXTREMES,
    FALSE,
    PLACES,
    REGIONS,
    RELATIONS,
    TRUE,
    Description,
    place_truth,
    relation_truth,
)
from .scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene

_VALUES = {'colour': tuple(COLOURS), 'shape': SHAPES, 'size': tuple(SIZES), 'texture': TEXTURES}
_CODES = {name: {value: code for code, value in enumerate(values)} for name, values in _VALUES.items()}
_ANY = -1  # code of an attribute that is left open


@dataclass(frozen=True)
class Clause:
    """There is an object that fits ``subject``, is at ``place``, and stands in ``relation`` to one of ``reference``.

    The leftmost, nearest ... object is sought among *all* objects of the scene. The relation ``'with'`` only claims
    that the reference is another object.
    """

    subject: Description
    place: str | None = None
    relation: str | None = None
    reference: Description | None = None


@dataclass(frozen=True)
class Caption:
    """A sentence about a scene and what it claims."""

    text: str
    clauses: tuple[Clause, ...]


@lru_cache(maxsize=4096)
def _facts(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """What holds where: places (P, K), and relations (R, K, K) of each subject to each reference."""
    places = np.stack([place_truth(scene, place) for place in PLACES])
    references = range(len(scene.objects))
    relations = np.stack(
        [np.stack([relation_truth(scene, relation, i) for i in references], 1) for relation in RELATIONS]
    )
    return places, relations


def _held(names: tuple[str, ...], truth: np.ndarray, often: Collection[str]) -> list[str]:
    """The names that are TRUE; ordinary ones stand thrice, or superlatives, which nearly always hold, would prevail."""
    return [name for name, value in zip(names, truth) if value == TRUE for _ in range(3 if name in often else 1)]


def _describe(rng: np.random.Generator, look: Sequence[str], detail: float) -> Description:
    """Name some of an object's attributes, its shape nearly always, size and texture with the chance ``detail``."""
    colour, shape, size, texture = look
    keep = rng.random(4) < (max(0.8, detail), max(0.9, detail), detail, detail)
    if not keep.any():
        keep[:2] = True
    return Description(*(value if kept else None for value, kept in zip((colour, shape, size, texture), keep)))


def _phrase(rng: np.random.Generator, description: Description, article: str | None = None) -> str:
    return noun_phrase(rng, description, article=pick(rng, ('a', 'a', 'the', '')) if article is None else article)


def word_clause(rng: np.random.Generator, clause: Clause) -> str:
    """Put a clause into words."""
    if clause.place in EXTREMES and rng.random() < 0.5:
        head, _ = place_words(rng, clause.place)
        return f'the {head or clause.place} object is {_phrase(rng, clause.subject, "a")}'
    if clause.place is not None:
        head, tail = place_words(rng, clause.place)
        article = pick(rng, ('a', 'the', ''))
        return ' '.join(filter(None, (noun_phrase(rng, clause.subject, head, article), tail)))
    subject = _phrase(rng, clause.subject)
    if clause.relation is None or clause.reference is None:
        return subject
    reference = _phrase(rng, clause.reference, pick(rng, ('a', 'the')))
    if clause.relation == 'with':
        return f'{subject} {pick(rng, ("and", "with"))} {reference}'
    if clause.relation in DISTANCES and rng.random() < 0.5:
        return f'the object {relation_words(rng, clause.relation)} {reference} is {_phrase(rng, clause.subject, "a")}'
    return f'{subject} {relation_words(rng, clause.relation)} {reference}'


def sample_caption(
    scene: Scene,
    rng: np.random.Generator,
    weights: Sequence[float] = (0.25, 0.25, 0.3, 0.15, 0.05),
    detail: float = 0.5,
) -> Caption:
    """Draw a caption that is true of the scene.

    Args:
        scene: The scene, with at least one object.
        rng: Source of randomness.
        weights: Chances of the five forms: one object, one at its place, two in a relation, two, all of them. A form
            the scene cannot supply is replaced by the first or, for the relation, by the fourth.
        detail: Chance that an object's size is named, and that its texture is.
    """
    num_objects = len(scene.objects)
    looks = [obj.look for obj in scene.objects]
    form = int(rng.choice(5, p=np.asarray(weights) / np.sum(weights)))
    one, two = (int(i) for i in np.concatenate([rng.permutation(num_objects), [0]])[:2])
    places, relations = _facts(scene)
    subject = _describe(rng, looks[one], detail)
    clauses: tuple[Clause, ...] = (Clause(subject),)
    if form == 1:
        held = _held(PLACES, places[:, one], REGIONS)
        if held:
            clauses = (Clause(subject, place=pick(rng, held)),)
    elif form in (2, 3) and num_objects > 1:
        held = _held(RELATIONS, relations[:, one, two], DIRECTIONS)
        relation = pick(rng, held) if form == 2 and held else 'with'
        clauses = (Clause(subject, relation=relation, reference=_describe(rng, looks[two], detail)),)
    elif form == 4 and num_objects > 1:
        order = rng.permutation(num_objects)
        clauses = tuple(Clause(Description(*looks[i][:2])) for i in order)
    return Caption(' and '.join(word_clause(rng, clause) for clause in clauses), clauses)


def scene_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe one, two or all objects of a scene in words; true by construction."""
    return sample_caption(scene, rng).text


def swap_attribute(rng: np.random.Generator, description: Description) -> Description:
    """Give one of the attributes named another value."""
    named = [name for name, value in vars(description).items() if value is not None]
    name = pick(rng, named)
    others = [value for value in _VALUES[name] if value != getattr(description, name)]
    return replace(description, **{name: pick(rng, others)})


def near_miss(caption: Caption, rng: np.random.Generator) -> Caption:
    """Change one thing a caption claims: an attribute, the place, the relation, or which of two objects is which.

    The result may still be true of the scene by chance; ``truth_table`` tells.
    """
    which = int(rng.integers(len(caption.clauses)))
    clause = caption.clauses[which]
    changes = ['subject']
    if clause.place is not None:
        changes += ['place'] * 2
    if clause.relation is not None:
        changes += ['reference'] + (['relation', 'exchange'] if clause.relation != 'with' else ['mix'])
    change = pick(rng, changes)
    reference = clause.reference or Description()  # Not asked for where there is none.
    if change == 'subject':
        clause = replace(clause, subject=swap_attribute(rng, clause.subject))
    elif change == 'reference':
        clause = replace(clause, reference=swap_attribute(rng, reference))
    elif change == 'place':
        family = REGIONS if clause.place in REGIONS else tuple(EXTREMES)
        clause = replace(clause, place=pick(rng, [p for p in family if p != clause.place]))
    elif change == 'relation':
        family = tuple(DIRECTIONS) if clause.relation in DIRECTIONS else tuple(DISTANCES)
        clause = replace(clause, relation=pick(rng, [r for r in family if r != clause.relation]))
    elif change == 'exchange':
        clause = replace(clause, subject=reference, reference=clause.subject)
    else:  # "a red star and a blue ring" -> "a blue star and a red ring"
        first = clause.subject
        clause = replace(
            clause, subject=replace(first, colour=reference.colour), reference=replace(reference, colour=first.colour)
        )
    clauses = caption.clauses[:which] + (clause,) + caption.clauses[which + 1 :]
    return Caption(' and '.join(word_clause(rng, part) for part in clauses), clauses)


def _encode_scenes(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attributes (S, K, 4), places (S, 1 + P, K) and relations (S, 2 + R, K, K) of the scenes, padded to K objects.

    The first place is "anywhere". The first relation is "the same object", which makes a clause without a relation one
    with a reference that fits anything; the second is "another object".
    """
    num = max(len(scene.objects) for scene in scenes)
    looks = np.full((len(scenes), num, 4), -2, np.int8)
    places = np.full((len(scenes), 1 + len(PLACES), num), FALSE, np.int8)
    relations = np.full((len(scenes), 2 + len(RELATIONS), num, num), FALSE, np.int8)
    for s, scene in enumerate(scenes):
        count = len(scene.objects)
        looks[s, :count] = [[_CODES[name][value] for name, value in zip(_CODES, obj.look)] for obj in scene.objects]
        places[s, 0, :count] = TRUE
        places[s, 1:, :count], relations[s, 2:, :count, :count] = _facts(scene)
        same = np.eye(count, dtype=bool)
        relations[s, 0, :count, :count] = np.where(same, TRUE, FALSE)
        relations[s, 1, :count, :count] = np.where(same, FALSE, TRUE)
    return looks, places, relations


def _fits(descriptions: list[Description], looks: np.ndarray) -> np.ndarray:
    """(M, S, K) int8: TRUE where the description fits the object."""
    wanted = np.array([[_CODES[name].get(getattr(d, name), _ANY) for name in _CODES] for d in descriptions], np.int8)
    wanted = wanted[:, None, None]
    return np.where(((wanted == _ANY) | (wanted == looks)).all(-1), TRUE, FALSE).astype(np.int8)


def truth_table(captions: Sequence[Caption], scenes: Sequence[Scene]) -> np.ndarray:
    """(C, S) int8: TRUE, FALSE or UNCLEAR for each caption and scene."""
    looks, places, relations = _encode_scenes(scenes)
    clauses = [clause for caption in captions for clause in caption.clauses]
    place = np.array([0 if c.place is None else 1 + PLACES.index(c.place) for c in clauses])
    names: dict[str | None, int] = {None: 0, 'with': 1}
    names.update({name: 2 + i for i, name in enumerate(RELATIONS)})
    relation = np.array([names[c.relation] for c in clauses])
    subject = np.minimum(_fits([c.subject for c in clauses], looks), places[:, place].transpose(1, 0, 2))
    reference = _fits([c.reference or Description() for c in clauses], looks)
    pair = np.minimum(
        relations[:, relation].transpose(1, 0, 2, 3), np.minimum(subject[..., :, None], reference[..., None, :])
    )
    held = pair.max((-1, -2))
    starts = np.cumsum([0] + [len(caption.clauses) for caption in captions[:-1]])
    return np.minimum.reduceat(held, starts, axis=0)
