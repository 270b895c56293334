"""Vocabulary: the class names that a model looks for, and the sentences in which CLIP reads them.

No tensor and no parameter is here: a vocabulary is data, and may be exchanged between training and testing.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmseg.utils import get_classes, get_predefined_templates
from mmseg.utils.class_names import dataset_aliases

from mmetris.utils.text_files import read_text, writable

PLAIN_TEMPLATE = '{}'


@dataclass(frozen=True)
class Vocabulary:
    """K classes, each with one name or several, and the templates around the names; :meth:`build` reads a config.

    Attributes:
        classes: Names of each class, the synonyms of a class together.
        templates: Sentences with ``{}`` where the name goes; a name's features are their mean.
        background: Index of the class that no text describes. None: every class has text.
        least: How few classes there may be. Two for a model that chooses between them; one where each is asked about.

    Raises:
        ValueError: If there are fewer than ``least`` classes, a name is empty or given twice, a template lacks ``{}``,
            or ``background`` is no class.
    """

    classes: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = (PLAIN_TEMPLATE,)
    background: int | None = None
    least: int = field(default=2, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.classes) < self.least:
            number = 'two classes (one may be the background)' if self.least > 1 else 'one class'
            raise ValueError(f'a vocabulary needs at least {number}, not {list(self.classes)}')
        seen: dict[str, int] = {}
        for index, names in enumerate(self.classes):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise ValueError(f'class {index} of the vocabulary has an empty name: {names}')
            for name in names:
                if (first := seen.setdefault(name.lower(), index)) != index or names.count(name) > 1:
                    raise ValueError(f'the name {name!r} stands for class {first} and again for class {index}')
        if not self.templates:
            raise ValueError("templates is empty; None is the name by itself, the same as ['{}']")
        for template in self.templates:
            if template.count('{}') != 1:
                raise ValueError(f'the template {template!r} needs one {{}}, where the class name goes')
        if self.background is not None and self.background not in range(len(self.classes)):
            raise ValueError(f'background={self.background} is none of the {len(self.classes)} classes (from 0)')

    @classmethod
    def build(
        cls,
        classes: str | Path | Sequence[str | Sequence[str]],
        templates: str | Sequence[str] | None = None,
        background: int | None = None,
        least: int = 2,
    ) -> Vocabulary:
        """Read a vocabulary as configs write it.

        Args:
            classes: One name for each class, or a list of synonyms; or a data set whose names MMSeg knows
                (``'ade20k'``); or a text file with a line for each class, its synonyms separated by commas. Blank lines
                and a comma at the end of a line say nothing. UTF-8, or UTF-16 as Windows calls Unicode.
            templates: Sentences with ``{}`` where the name goes, or the name of a set that MMSeg has (``'vild'``,
                ``'imagenet'``). Defaults to None: the name by itself.
            background: Index of the class that no text describes, such as 0 in Pascal VOC. Defaults to None: there is
                none.
            least: See the class; where it is 1, a name that is neither a data set nor a file is that of a class.
                Defaults to 2.

        Raises:
            TypeError: If a class is neither a name nor a list of names.
            ValueError: If a list or a file is unknown, or what it holds is no vocabulary (see the class); of a file the
                message says which line.
        """
        if isinstance(classes, (str, Path)):
            classes = _read_classes(str(classes), least)
        if isinstance(templates, str):
            try:
                templates = get_predefined_templates(templates)
            except ValueError as error:
                raise ValueError(
                    f"templates={templates!r} is no set of MMSeg ('vild', 'imagenet'); a single template goes in a list"
                ) from error
        for index, entry in enumerate(classes):
            if not isinstance(entry, (str, list, tuple)):
                raise TypeError(f'class {index} must be a name or a list of names, not {entry!r}')
        names = tuple(tuple(map(_clean, [entry] if isinstance(entry, str) else entry)) for entry in classes)
        return cls(names, (PLAIN_TEMPLATE,) if templates is None else tuple(templates), background, least)

    def __len__(self) -> int:
        """Number of classes K, the background included."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The first name of each class."""
        return tuple(names[0] for names in self.classes)

    @property
    def _described(self) -> Iterator[tuple[int, str]]:
        for index, names in enumerate(self.classes):
            if index != self.background:
                yield from ((index, name) for name in names)

    @property
    def names(self) -> tuple[str, ...]:
        """All M names that have text, synonyms after each other."""
        return tuple(name for _, name in self._described)

    @property
    def name_classes(self) -> tuple[int, ...]:
        """The class (0 to K - 1) of each of :attr:`names`."""
        return tuple(index for index, _ in self._described)

    @property
    def prompts(self) -> list[str]:
        """The sentences: for each of :attr:`names` all T templates, M * T in all."""
        return [template.format(name) for name in self.names for template in self.templates]

    def subset(self, classes: Sequence[int]) -> tuple[Vocabulary, list[int]]:
        """Only some classes, in their own order.

        Args:
            classes: Which of the K classes, each once.

        Returns:
            Their vocabulary, and which of :attr:`names` it has.
        """
        classes = sorted(classes)
        background = classes.index(self.background) if self.background in classes else None
        rows = [row for row, index in enumerate(self.name_classes) if index in set(classes)]
        return Vocabulary(tuple(self.classes[index] for index in classes), self.templates, background), rows

    def mismatch(self, classes: Sequence[str]) -> tuple[str | None, list[str]]:
        """Compare with the classes of a data set, whose labels count in the data set's order.

        Args:
            classes: Class names of the data set.

        Returns:
            What makes the labels meaningless (another number of classes, or the same names in another order), or None;
            and the pairs of names that differ, which may well be meant: a class can have a better name for CLIP.
        """
        if len(classes) != len(self):
            return f'the data set has {len(classes)} classes, the vocabulary {len(self)}', []
        differing = []
        for index, (theirs, ours) in enumerate(zip(classes, self.classes)):
            if theirs.lower() in (name.lower() for name in ours):
                continue
            elsewhere = [other for other, names in enumerate(self.classes) if theirs in names]
            if elsewhere:
                return f'{theirs!r} is class {index} of the data set, but {elsewhere[0]} of the vocabulary', []
            differing.append(f'{index}: {theirs!r} there, {ours[0]!r} here')
        return None, differing


def _read_classes(name: str, least: int) -> list[str | list[str]]:
    """Class names of a data set MMSeg knows, or of a text file; or the name itself, where one class is enough."""
    known = {alias for aliases in dataset_aliases.values() for alias in aliases}
    if name in known:
        return get_classes(name)
    if os.path.isfile(name):  # Not Path.is_file, which fails on a sentence too long for a file name.
        return _read_lines(name, least)
    is_path = os.sep in name or (' ' not in name and Path(name).suffix)
    if least == 1 and not is_path and not difflib.get_close_matches(name.lower(), known, cutoff=0.85):
        return [name]
    close = difflib.get_close_matches(name.lower(), known, n=3)
    hint = f'did you mean {" or ".join(close)}?' if close else 'such as ade20k, cityscapes or voc'
    shown = name if len(name) <= 80 else f'{name[:80]}…'
    why = '; as a name it is one class, and at least two classes are needed, with commas between them'
    raise ValueError(
        f'classes={shown!r} is neither a text file nor a data set that MMSeg knows ({hint}){why if least > 1 else ""}'
    )


def _read_lines(path: str, least: int) -> list[str | list[str]]:
    """Class names of a text file, checked here, where the lines are known."""
    classes: list[str | list[str]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split('\n'), 1):
        words = [word.strip() for word in line.split(',')]
        if len(words) > 1 and not words[-1]:
            words.pop()
        if words == ['']:
            if ',' in line:
                raise ValueError(f'{path}, line {number}: a comma and no name')
            continue
        if '' in words:
            raise ValueError(f'{path}, line {number}: an empty name between commas')
        for word in words:
            first = seen.setdefault(word.lower(), number)
            if first != number or words.count(word) > 1:
                where = 'twice in it' if first == number else f'in line {first} too'
                raise ValueError(f'{path}, line {number}: the name {word!r} is {where}')
        classes.append(words)
    if len(classes) < least:
        wanted = 'two classes are' if least > 1 else 'one is'
        raise ValueError(f'{path} has {len(classes)} line(s) with a class; at least {wanted} needed')
    return classes


def _clean(name: str) -> str:
    """A name that files and CLIP's tokens take; what is no string is refused by the class."""
    return writable(name) if isinstance(name, str) else name
