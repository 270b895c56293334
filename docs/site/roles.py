"""Docstrings as the site needs them: Sphinx's roles become links where a page has the name, and code elsewhere."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)  # griffe knows the plural
ROLE = re.compile(r':(?:class|meth|func|attr|mod|data):`(~?)([\w.]+)`')


def public_names() -> dict[str, list[str]]:
    """Names of our public classes, functions and methods (``'Bridger.forward'``) -> the paths where they are defined.

    What has no docstring is on no page.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in (ROOT / 'mmetris').rglob('*.py'):
        if '.mim' in path.parts or path.stem.startswith('_'):
            continue
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if is_shown(node):
                found[node.name].append(f'{module}.{node.name}')
                for member in node.body if isinstance(node, ast.ClassDef) else ():
                    if is_shown(member):
                        found[f'{node.name}.{member.name}'].append(f'{module}.{node.name}.{member.name}')
    return found


def is_shown(node: ast.AST) -> bool:
    """Whether a page has this class, function or method."""
    is_definition = isinstance(node, (ast.ClassDef, ast.FunctionDef))
    return is_definition and not node.name.startswith('_') and ast.get_docstring(node) is not None


class Roles(griffe.Extension):
    """Rewrites each docstring."""

    def __init__(self) -> None:
        self.names = public_names()

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Once for each module, class, function and attribute."""
        if obj.docstring is not None:
            owner = obj if obj.is_class else obj.parent
            name = owner.name if owner is not None and owner.is_class else ''
            text = EXAMPLE.sub('Examples:', obj.docstring.value)
            obj.docstring.value = ROLE.sub(lambda match: self.link(match, name), text)

    def link(self, match: re.Match, owner: str) -> str:
        """A role as a link or as code.

        Args:
            match: Of ``ROLE``.
            owner: Class in whose docstring it stands, or nothing.
        """
        shown = match[2].rpartition('.')[2] if match[1] else match[2]
        for parts in (2, 1):
            name = '.'.join(match[2].split('.')[-parts:])
            for candidate in (f'{owner}.{name}', name):
                if len(self.names.get(candidate, ())) == 1:
                    return f'[`{shown}`][{self.names[candidate][0]}]'
        return f'`{shown}`'
