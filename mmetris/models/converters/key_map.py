"""A table of published keys and ours, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Row = tuple[str, str]
"""Published key, ours, with the places of a :class:`KeyMap` in braces."""

NUMBER = r'0|[1-9]\d{0,3}'


class Numbers(NamedTuple):
    """A place where the published code counts otherwise than we do.

    Args:
        published: Its numbers.
        ours: Ours, as many.
    """

    published: range
    ours: range


class _Template:
    """One side of a row: text and places in turn."""

    def __init__(self, text: str, patterns: Mapping[str, str]) -> None:
        self.text = text
        parts = re.split(r'\{(\w+)\}', text)
        self.pattern = re.compile(
            ''.join(
                re.escape(part) if index % 2 == 0 else f'(?P<{part}>{patterns[part]})'
                for index, part in enumerate(parts)
            )
        )


class KeyMap:
    """Names of weights in a published code's checkpoints, and ours.

    A row is a published key and ours. In both, a place in braces stands for what differs from key to key:

    - ``{rest}``: whatever follows, the same on both sides;
    - ``{layer}``: a number, the same on both sides;
    - any name of ``numbers``: a number that is counted otherwise on the two sides.

    The first row that matches counts.

    Args:
        rows: The table.
        numbers: The further places. Defaults to none.
    """

    def __init__(self, rows: Sequence[Row], numbers: Mapping[str, Numbers] | None = None) -> None:
        self.numbers = dict(numbers or {})
        common = dict(layer=NUMBER, rest='.+')
        sides = [
            common | {place: '|'.join(map(str, counted[side])) for place, counted in self.numbers.items()}
            for side in (0, 1)
        ]
        self._rows = [(_Template(one, sides[0]), _Template(other, sides[1])) for one, other in rows]

    def ours(self, published: str) -> str | None:
        """Our name of a published key; None if there is no place for it, or one that is another key's.

        Args:
            published: Key without what a wrapper put in front of all.
        """
        for one, other in self._rows:
            if match := one.pattern.fullmatch(published):
                name = self._fill(other.text, match, 0)
                return name if self.published(name) == published else None
        return None

    def published(self, ours: str) -> str | None:
        """Published key of one of our names; the inverse of :meth:`ours`, None if there is no such weight.

        Args:
            ours: Key in the state dict of our model.
        """
        for one, other in self._rows:
            if match := other.pattern.fullmatch(ours):
                return self._fill(one.text, match, 1)
        return None

    def _fill(self, template: str, match: re.Match, side: int) -> str:
        """Put a match of one side, 0 the published one, into the template of the other."""
        values = match.groupdict()
        for place, counted in self.numbers.items():
            if place in values:
                values[place] = str(counted[1 - side][counted[side].index(int(values[place]))])
        return template.format(**values)
