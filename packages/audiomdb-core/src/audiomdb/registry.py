"""From a URL to the class that opens it, through the entry points of installed packages.

A package that brings a store says so in its pyproject.toml; the name is the URL's scheme:

    [project.entry-points."audiomdb.retrievers"]
    s3 = "audiomdb.retrievers.s3:S3Retriever"

    [project.entry-points."audiomdb.uploaders"]
    s3 = "audiomdb.uploaders.s3:S3Uploader"

Each class has a classmethod `from_url(url, **options)`. Nothing is looked up or imported before a
URL asks for it, and what is not a URL is a path, which needs no look-up.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from audiomdb.errors import BackendError, UnknownOptionError, UnknownSchemeError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.urls import scheme_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from audiomdb.uploaders.base import BaseUploader

__all__ = [
    "RETRIEVERS",
    "UPLOADERS",
    "option_names",
    "refuse_option",
    "retriever_class",
    "retriever_for",
    "uploader_class",
    "uploader_for",
]

RETRIEVERS = "audiomdb.retrievers"
"""Group of the entry points that read."""

UPLOADERS = "audiomdb.uploaders"
"""Group of the entry points that write."""

_PACKAGES = {"hf": "audiomdb-hf", "s3": "audiomdb-s3"}
"""What to install for a scheme. Which class opens it, the package says itself."""

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

_T = TypeVar("_T", "BaseRetriever", "BaseUploader")


def retriever_for(url: str | os.PathLike[str], **options: Any) -> BaseRetriever:  # noqa: ANN401
    """Make the retriever for a URL or a path. Reads nothing and connects to nothing.

        retriever_for("s3://my-bucket/datasets/digits", max_cache_bytes=50 * 1024**3)
        retriever_for("hf://datasets/user/digits@main")
        retriever_for("digits"), retriever_for("file:///data/digits")

    Args:
        url: Where the dataset lies.
        options: Arguments of the class that opens it, by name. A path takes those about caching
            too, and ignores them: it is read in place.

    Raises:
        UnknownSchemeError: no installed package opens such URLs; says what to install.
        InvalidURLError: the URL leads nowhere.
        UnknownOptionError: the class takes no option of this name.
        BackendError: the package that opens such URLs cannot be used, or two packages do.
        ValueError: an option is out of range.
    """
    return _made(retriever_class(url), url, options, BaseRetriever)


def uploader_for(url: str | os.PathLike[str], **options: Any) -> BaseUploader:  # noqa: ANN401
    """Make the uploader for a URL or a path. Reads nothing and connects to nothing.

        uploader_for("s3://my-bucket/datasets/digits", workers=8).upload_dir("digits")

    Args:
        url: Where the dataset goes.
        options: Arguments of the class, by name.

    Raises:
        AudioMDBError, ValueError: as `retriever_for`.
    """
    from audiomdb.uploaders.base import BaseUploader

    return _made(uploader_class(url), url, options, BaseUploader)


def retriever_class(url: str | os.PathLike[str]) -> type[BaseRetriever]:
    """The class that reads from a URL or a path.

    Raises:
        UnknownSchemeError, BackendError: as `retriever_for`.
    """
    scheme = _scheme(url, RETRIEVERS)
    if scheme is None:
        return LocalRetriever
    return _load(_find(url, scheme, RETRIEVERS), BaseRetriever)


def uploader_class(url: str | os.PathLike[str]) -> type[BaseUploader]:
    """The class that uploads to a URL or a path.

    Raises:
        UnknownSchemeError, BackendError: as `retriever_for`.
    """
    from audiomdb.uploaders.base import BaseUploader
    from audiomdb.uploaders.local import LocalUploader

    scheme = _scheme(url, UPLOADERS)
    if scheme is None:
        return LocalUploader
    return _load(_find(url, scheme, UPLOADERS), BaseUploader)


def option_names(kind: type[Any]) -> frozenset[str]:
    """Names of the options that a class takes for a URL.

    Those of its constructor, of its base classes' where it passes `**kwargs` on, and what its
    `from_url` names besides.
    """
    names: set[str] = set()
    inits = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
    for init in inits:
        _, *parameters = inspect.signature(init).parameters.values()
        names.update(p.name for p in parameters if p.kind in _BY_NAME)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    # Those that from_url takes out of the URL are among them: Python says so when one is given.
    _, *parameters = inspect.signature(kind.from_url).parameters.values()
    return frozenset(names.union(p.name for p in parameters if p.kind in _BY_NAME))


def refuse_option(name: str, whose: str, names: Iterable[str]) -> UnknownOptionError:
    """The error for an option that nothing takes.

    Args:
        name: Of the option.
        whose: Who was given it.
        names: Options there are.
    """
    import difflib

    known = sorted(names)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UnknownOptionError(f"{whose} takes no option {name!r}{hint} It takes {', '.join(known)}")


def _made(
    kind: type[_T], place: str | os.PathLike[str], options: Mapping[str, Any], base: type[_T]
) -> _T:
    """What a class makes of a URL or a path.

    Raises:
        UnknownOptionError: it takes no option of this name.
        BackendError: it makes something else than it should.
    """
    known = option_names(kind) if options else frozenset()
    for name in options:
        if name not in known:
            raise refuse_option(name, kind.__name__, known)
    url = os.fspath(place)
    if scheme := scheme_of(url):
        url = scheme + url[len(scheme) :]
    made: Any = kind.from_url(url, **options)
    if not isinstance(made, base):
        found = "None" if made is None else f"a {type(made).__name__}"
        raise BackendError(
            f"{kind.__name__}.from_url({url!r}) returned {found}, expected a {base.__name__}: end "
            "it with return cls(...)"
        )
    return made


def _scheme(url: str | os.PathLike[str], group: str) -> str | None:
    """The scheme of a URL, None for a path.

    Raises:
        UnknownSchemeError: it is a path, and surely was meant to be a URL.
    """
    text = os.fspath(url)
    scheme = scheme_of(text)
    # `Path("s3://bucket")` is s3:/bucket, and an uploader would make a folder of that name.
    if scheme is None and (found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/?(?!/)", text)):
        meant = found[1].lower()
        if meant in {*_PACKAGES, *_entry_points(group)}:
            raise UnknownSchemeError(
                f"{text!r} is no URL, which has two slashes: {meant}://{text[found.end() :]} as a "
                "str (a Path makes one slash of two). A folder of that name needs its full path"
            )
    return scheme


def _find(url: str | os.PathLike[str], scheme: str, group: str) -> EntryPoint:
    """The entry point for a scheme.

    Raises:
        UnknownSchemeError: there is none.
        BackendError: there are two.
    """
    points = _entry_points(group)
    found = points.get(scheme, [])
    if not found:
        raise UnknownSchemeError(_unknown(os.fspath(url), scheme, group, points))
    if len(found) > 1:
        claims = " and ".join(f"{_package(point)} ({point.value})" for point in found)
        raise BackendError(
            f"several packages open {scheme}:// URLs: {claims}, in the group {group!r}. Uninstall "
            "all but one"
        )
    return found[0]


def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    """What installed packages register, by scheme. Not remembered: one may be installed later."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name.lower(), []).append(point)
    return found


def _load(point: EntryPoint, base: type[_T]) -> type[_T]:
    """The class that an entry point names.

    Raises:
        BackendError: it cannot be imported, or is something else.
    """
    where = f"the package {_package(point)} names {point.value} for {point.name}:// URLs"
    try:
        kind = point.load()
    except Exception as exc:  # whatever a module does while it is imported
        raise BackendError(
            f"{where}, which cannot be imported: {type(exc).__name__}: {exc}. Install the package "
            "again, or remove it"
        ) from exc
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise BackendError(f"{where}, expected a subclass of {base.__name__}, found {kind!r}")
    if getattr(kind.from_url, "__func__", None) is base.from_url.__func__:  # type: ignore[attr-defined]
        raise BackendError(f"{where}, which has no classmethod from_url(url, **options)")
    return kind


def _package(point: EntryPoint) -> str:
    return "(unknown)" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _unknown(url: str, scheme: str, group: str, installed: Iterable[str]) -> str:
    does, base = "reads", BaseRetriever.__name__
    if group == UPLOADERS:
        does, base = "uploads to", "BaseUploader"
    what = f"no installed package {does} {scheme}:// URLs such as {url!r}"
    if scheme in _PACKAGES:
        return f"{what}: pip install {_PACKAGES[scheme]}"
    import difflib

    known = dict.fromkeys(installed, "") | {
        name: f" (pip install {package})"
        for name, package in _PACKAGES.items()
        if name not in installed
    }
    near = difflib.get_close_matches(scheme, known, 1)
    hint = f"; did you mean {near[0]}://{known[near[0]]}?" if near else "."
    listed = ", ".join(f"{name}://{note}" for name, note in sorted(known.items()))
    return (
        f"{what}{hint} Known are {listed} and plain paths. For another store, subclass {base} and "
        "register it, as the module audiomdb.registry says"
    )
