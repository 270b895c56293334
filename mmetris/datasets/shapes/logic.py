"""The meaning of sentences about Shapes scenes, in a logic with margins.

A statement about an object is TRUE, FALSE or UNCLEAR; the last stands for borderline cases on which two people could
disagree, and no sentence that depends on one is ever written. With the three values coded 1, -1 and 0, *and* is the
minimum and *or* the maximum (Kleene's logic).

Axes: K objects of one scene, P places, R relations. Truth arrays are int8.
"""

from dataclasses import dataclass

import numpy as np

from .scene import Scene, SceneObject

TRUE, UNCLEAR, FALSE = 1, 0, -1

REGIONS = ('left', 'right', 'top', 'bottom', 'top left', 'top right', 'bottom left', 'bottom right', 'middle')
EXTREMES = {'leftmost': (0, 1), 'rightmost': (0, -1), 'topmost': (1, 1), 'lowest': (1, -1)}  # axis, sign to minimise
PLACES = REGIONS + tuple(EXTREMES)
DIRECTIONS = {'left': (0, 1), 'right': (0, -1), 'above': (1, 1), 'below': (1, -1)}  # axis, sign of reference - subject
DISTANCES = {'nearest': 1, 'farthest': -1}  # sign of the distance to minimise
RELATIONS = tuple(DIRECTIONS) + tuple(DISTANCES)

_SIDE_TRUE, _SIDE_FALSE = 0.37, 0.48  # "left": centre before the first part of the width; not left: beyond the second
_MIDDLE_TRUE, _MIDDLE_FALSE = 0.14, 0.25  # distance of the centre from the image's centre, part of the side
_EXTREME_MARGIN = 8.0  # pixels by which the leftmost, nearest ... object is ahead of the next
_DIRECTION_TRUE, _DIRECTION_FALSE = 12.0, 2.0  # pixels between the centres along the direction
_SLANT_TRUE, _SLANT_FALSE = 1.0, 2.0  # largest offset across the direction, relative to the one along it


@dataclass(frozen=True)
class Description:
    """A conjunction of attributes; None leaves one open."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    texture: str | None = None

    def fits(self, obj: SceneObject) -> bool:
        """Whether the object has every attribute named."""
        wanted = (self.colour, self.shape, self.size, self.texture)
        return all(want is None or want == have for want, have in zip(wanted, obj.look))

    def truth(self, scene: Scene) -> np.ndarray:
        """(K,): TRUE for each object it fits, else FALSE; attributes are never unclear."""
        return np.array([TRUE if self.fits(obj) else FALSE for obj in scene.objects], np.int8)


def centres(scene: Scene) -> np.ndarray:
    """(K, 2) centres (x, y) of the objects, in pixels."""
    return np.array([(obj.x, obj.y) for obj in scene.objects], np.float64).reshape(-1, 2)


def _graded(value: np.ndarray, true_below: float, false_above: float) -> np.ndarray:
    """TRUE up to the first threshold, FALSE from the second on, UNCLEAR between; thresholds may be arrays."""
    return np.where(value <= true_below, TRUE, np.where(value >= false_above, FALSE, UNCLEAR)).astype(np.int8)


def _least(score: np.ndarray, group: np.ndarray) -> np.ndarray:
    """TRUE for the group's member with the least score if it leads by the margin; UNCLEAR where it does not."""
    truth = np.full(len(score), FALSE, np.int8)
    members = np.flatnonzero(group)
    if len(members):
        close = members[score[members] < score[members].min() + _EXTREME_MARGIN]
        truth[close] = TRUE if len(close) == 1 else UNCLEAR
    return truth


def place_truth(scene: Scene, place: str, group: np.ndarray | None = None) -> np.ndarray:
    """Tell for each object whether it is at a place.

    Args:
        scene: The scene.
        place: One of ``PLACES``.
        group: (K,) bool, the objects among which the leftmost, topmost ... is sought. None means all. Regions such
            as ``'top left'`` do not depend on it.

    Raises:
        KeyError: If the place is unknown.
    """
    points = centres(scene)
    if place in EXTREMES:
        axis, sign = EXTREMES[place]
        return _least(sign * points[:, axis], np.ones(len(points), bool) if group is None else group)
    if place not in REGIONS:
        raise KeyError(f'unknown place {place!r}: use one of {PLACES}')
    part = points / (scene.width, scene.height)
    if place == 'middle':
        return _graded(np.abs(part - 0.5).max(1), _MIDDLE_TRUE, _MIDDLE_FALSE)
    edges = {'left': part[:, 0], 'right': 1 - part[:, 0], 'top': part[:, 1], 'bottom': 1 - part[:, 1]}
    return np.min([_graded(edges[side], _SIDE_TRUE, _SIDE_FALSE) for side in place.split()], axis=0)


def relation_truth(scene: Scene, relation: str, reference: int, group: np.ndarray | None = None) -> np.ndarray:
    """Tell for each object whether it stands in a relation to the reference object; itself it never does.

    Args:
        scene: The scene.
        relation: One of ``RELATIONS``.
        reference: Index of the reference object.
        group: (K,) bool, the objects among which the nearest or farthest is sought. None means all.

    Raises:
        KeyError: If the relation is unknown.
    """
    points = centres(scene)
    offset = points[reference] - points
    if relation in DISTANCES:
        group = np.ones(len(points), bool) if group is None else group.copy()
        group[reference] = False
        return _least(DISTANCES[relation] * np.hypot(*offset.T), group)
    if relation not in DIRECTIONS:
        raise KeyError(f'unknown relation {relation!r}: use one of {RELATIONS}')
    axis, sign = DIRECTIONS[relation]
    along, across = sign * offset[:, axis], np.abs(offset[:, 1 - axis])
    ahead = _graded(-along, -_DIRECTION_TRUE, -_DIRECTION_FALSE)
    straight = _graded(across, _SLANT_TRUE * along, np.maximum(_SLANT_FALSE * along, 1e-6))
    truth = np.minimum(ahead, straight)
    truth[reference] = FALSE
    return truth


@dataclass(frozen=True)
class Expression:
    """A referring expression: its text, and the logical form the text was made from.

    ``kind`` is 'attribute', 'place' or 'relation'. The leftmost (nearest ...) object is sought among those that
    ``subject`` fits. ``reference`` must fit exactly one object.
    """

    kind: str
    text: str
    subject: Description
    place: str | None = None
    relation: str | None = None
    reference: Description | None = None

    def truth(self, scene: Scene) -> np.ndarray:
        """(K,): how far the expression holds of each object of the scene."""
        truth = self.subject.truth(scene)
        group = truth == TRUE
        if self.place is not None:
            truth = np.minimum(truth, place_truth(scene, self.place, group))
        if self.relation is not None and self.reference is not None:
            references = np.flatnonzero(self.reference.truth(scene) == TRUE)
            if len(references) != 1:
                return np.minimum(truth, UNCLEAR)
            truth = np.minimum(truth, relation_truth(scene, self.relation, references[0], group))
        return truth

    def referent(self, scene: Scene) -> int | None:
        """Index of the only object it holds of; None if there is none, more than one or a borderline case."""
        truth = self.truth(scene)
        holds = np.flatnonzero(truth != FALSE)
        return int(holds[0]) if len(holds) == 1 and truth[holds[0]] == TRUE else None
