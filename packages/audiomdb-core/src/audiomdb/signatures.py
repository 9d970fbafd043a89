"""Look at the parameters of functions and classes that others wrote."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from audiomdb.errors import UnknownOptionError

__all__ = ["option_names", "option_types", "refuse_option", "signature_of"]

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function or class, without evaluating its annotations.

    Since Python 3.14 they are evaluated when somebody asks for them, and may name what is imported
    for type checkers only.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.STRING)
    return inspect.signature(function)


def option_names(kind: type[Any]) -> frozenset[str]:
    """Return the names of the options that a class accepts for a URL, see `option_types`."""
    return frozenset(option_types(kind))


def option_types(kind: type[Any], by: str = "from_url") -> dict[str, list[str]]:
    """Return the options that a class accepts for a URL, each with the types of its annotation.

    These are the parameters of its constructor, those of its base classes' constructors if it
    passes `**kwargs` on, and the additional parameters of the classmethod called `by`, without its
    first one. `str | None` has the types `str` and `None`. A parameter that is not annotated has
    the type of its default if that is a bool, int, float or str, otherwise none.
    """
    found: dict[str, list[str]] = {}
    inits = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
    for init in inits:
        _, *parameters = signature_of(init).parameters.values()
        found = _types(parameters) | found
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    # Parameters that from_url takes from the URL are included; passing one raises TypeError.
    _, *parameters = signature_of(getattr(kind, by)).parameters.values()
    return _types(parameters) | found


def _types(parameters: Iterable[inspect.Parameter]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for parameter in parameters:
        if parameter.kind in _BY_NAME:
            annotation = parameter.annotation
            if annotation is inspect.Parameter.empty:
                kind = type(parameter.default).__name__
                annotation = kind if kind in ("bool", "float", "int", "str") else ""
            elif not isinstance(annotation, str):
                annotation = inspect.formatannotation(annotation)
            found[parameter.name] = _alternatives(annotation)
    return found


def _alternatives(annotation: str) -> list[str]:
    """Split a union at its bars, but not at those in brackets."""
    if optional := re.fullmatch(r"(?:typing\.)?Optional\[(.*)\]", annotation):
        return [*_alternatives(optional[1]), "None"]
    found, depth = [""], 0
    for character in annotation:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "|" and not depth:
            found.append("")
        else:
            found[-1] += character
    return [kind.strip() for kind in found if kind.strip()]


def refuse_option(name: str, whose: str, names: Iterable[str]) -> UnknownOptionError:
    """Return the error for an unknown option.

    Args:
        name: Name of the option.
        whose: The class or function it was passed to, for the message.
        names: Names of the existing options.
    """
    import difflib

    known = sorted(names)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UnknownOptionError(f"{whose} takes no option {name!r}{hint} It takes {', '.join(known)}")
