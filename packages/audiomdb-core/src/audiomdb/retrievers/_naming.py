"""Stable names for what a retriever reads, from its class and constructor arguments."""

from __future__ import annotations

import enum
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from audiomdb.shards.files import sha256_hex
from audiomdb.signatures import signature_of

__all__ = ["UnnameableError", "place_of", "retriever_name"]

CACHE_OPTIONS = frozenset({"cache_dir", "max_cache_bytes", "prefetch", "workers"})
"""Names of arguments that say how a dataset is cached, not which one it is."""

_DIGITS = 16


class UnnameableError(Exception):
    """Raised if an argument has no text that would be the same in another process."""


def retriever_name(
    kind: type,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    access: AbstractSet[str] = frozenset(),
    strict: bool = True,
    settled: Mapping[str, Any] | None = None,
) -> str:
    """Return a name that is the same for equal arguments, however they are given, in any process.

    Arguments enter it as a digest, so a password among them cannot be read from it. Arguments that
    have their default value do not, so that a release which adds an option keeps the names.

    Args:
        kind: The class.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        access: Names of arguments that say how to access a dataset, not which one it is.
        strict: Refuse arguments that have no stable text; otherwise only their class counts.
        settled: Values to use instead of the arguments of these names; None leaves one out.

    Raises:
        UnnameableError: names the argument and its class.
    """
    lines = [f"{kind.__module__}.{kind.__qualname__}"]
    given = {**_given(kind, args, kwargs), **(settled or {})}
    left_out = {name for name, value in (settled or {}).items() if value is None}
    for name, value in sorted(given.items()):
        if name in access or name in CACHE_OPTIONS or name in left_out:
            continue
        try:
            lines.append(f"{name}={_text(value)}")
        except UnnameableError:
            if strict:
                raise UnnameableError(f"{name}= of class {type(value).__name__}") from None
            lines.append(f"{name}: {type(value).__qualname__}")
    digest = sha256_hex("\n".join(lines).encode("utf-8", "surrogatepass"))
    return f"{kind.__name__}-{digest[:_DIGITS]}"


def place_of(
    retriever: object,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    access: AbstractSet[str] = frozenset(),
) -> str:
    """Return what errors call the retriever: its own `repr`, or class and first text argument.

    Other arguments are left out, and so are user and query of a URL: they may contain a secret.
    """
    kind = type(retriever)
    if kind.__repr__ is not object.__repr__:
        return repr(retriever)
    for name, value in _given(kind, args, kwargs).items():
        if name not in access | CACHE_OPTIONS and isinstance(value, str | os.PathLike):
            text = re.sub(r"(?<=://)[^/]*@|[?#].*$", "", os.fspath(value))
            return f"{kind.__name__}({text!r})"
    return kind.__name__


def _given(kind: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by name, without those that have their default value."""
    # From __init__, since __new__ takes anything; None stands for self, which is not bound.
    signature = signature_of(kind.__init__)  # type: ignore[misc]
    bound = signature.bind(None, *args, **kwargs)
    given: dict[str, Any] = {}
    for name, parameter in list(signature.parameters.items())[1:]:
        if name not in bound.arguments:
            continue
        value = bound.arguments[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        elif type(value) is not type(parameter.default) or value != parameter.default:
            given[name] = value
    return given


def _text(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, enum.Enum):
        return str(value)
    if hasattr(value, "tolist") and not isinstance(value, type):
        # The repr of NumPy's arrays and tensors leaves most of a long one out, and that of their
        # scalars depends on the release.
        value = value.tolist()
    for kind in (bool, int, float, str, bytes):
        if isinstance(value, kind):
            return kind.__repr__(value)  # not that of a subclass
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    import dataclasses  # imported here: most arguments have returned by now

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return f"{type(value).__qualname__}({[_text(getattr(value, f.name)) for f in fields]})"
    if isinstance(value, Mapping):
        return f"{{{sorted((_text(k), _text(v)) for k, v in value.items())}}}"
    if isinstance(value, AbstractSet):
        return f"{{{sorted(_text(item) for item in value)}}}"
    if isinstance(value, Sequence):
        return f"[{[_text(item) for item in value]}]"
    text = repr(value)
    if " at 0x" in text:
        raise UnnameableError
    return text
