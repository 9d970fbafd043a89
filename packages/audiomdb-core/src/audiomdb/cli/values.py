"""Parse the values of options by the types that a class declares for them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["is_list", "metavar", "parsed"]

_SCALARS = {"bool": "true or false", "int": "a whole number", "float": "a number"}
"""Types that are checked, and what their values look like."""

_LISTS = ("Collection", "Iterable", "Sequence", "frozenset", "list", "set", "tuple")
_DICTS = ("Mapping", "dict")
_ANYTHING = {"Any", "typing.Any", "object"}
_IN_PYTHON = {"True": True, "False": False, "None": None}


def parsed(text: str, types: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the value of an option that has these types, see `signatures.option_types`.

    Numbers and booleans are checked, and so are the choices of a `Literal`. A list is one element
    as it stands, or a JSON array; a dict is a JSON object. Without types, what looks like JSON is
    parsed. Any other type, such as a path, gets the text.

    Raises:
        ValueError: it has none of the types; says what is expected.
    """
    found = _parse(text)
    if not {*types} - _ANYTHING or (found is None and "None" in types):
        return found
    choices = _choices(types)
    if choices:
        for choice in choices:
            if text == str(choice):
                return choice
        raise ValueError(f"expected one of {', '.join(map(str, choices))}")
    if is_list(types):
        return found if isinstance(found, list) else [parsed(text, _elements(types))]
    if any(_is(kind, _DICTS) for kind in types):
        if isinstance(found, dict):
            return found
        if "str" not in types:
            raise ValueError('expected a JSON object, such as {"name": 1}')
    kind = type(found).__name__
    if kind in types and kind in _SCALARS:
        return found
    if kind == "int" and "float" in types:
        return float(found)
    expected = [_SCALARS[one] for one in types if one in _SCALARS]
    if expected and not {*types} - _SCALARS.keys() - {"None"}:
        raise ValueError(f"expected {' or '.join(expected)}")
    return text


def is_list(types: Sequence[str]) -> bool:
    """Return whether an option is a list, which may be given element by element."""
    return any(_is(kind, _LISTS) for kind in types)


def metavar(types: Sequence[str]) -> str:
    """Return what help shows in place of a value of these types."""
    if choices := _choices(types):
        return "|".join(map(str, choices))
    names = {"bool": "true|false", "float": "NUMBER", "int": "N"}
    if any(_is(kind, _DICTS) for kind in types) and "str" not in types:
        return "JSON"
    return next((names[kind] for kind in types if kind in names), "VALUE")


def _parse(text: str) -> Any:  # noqa: ANN401
    """Parse JSON, or True, False or None; anything else is text."""
    try:
        return _IN_PYTHON[text] if text in _IN_PYTHON else json.loads(text)
    except ValueError:
        return text


def _is(kind: str, names: tuple[str, ...]) -> bool:
    return kind.partition("[")[0].rpartition(".")[2] in names


def _elements(types: Sequence[str]) -> list[str]:
    """Return the types of a list's elements: `["int"]` for `list[int]` and `tuple[int, ...]`."""
    kind = next(kind for kind in types if _is(kind, _LISTS))
    inner = kind.partition("[")[2].removesuffix("]").removesuffix(", ...")
    return inner.split(" | ") if inner else []


def _choices(types: Sequence[str]) -> list[Any]:
    found = (re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", kind) for kind in types)
    return [choice for match in found if match for choice in ast.literal_eval(f"[{match[1]}]")]
