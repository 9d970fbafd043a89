"""Find the classes of installed packages through their entry points.

A package that supports a store registers its classes in its pyproject.toml, under the URL's scheme:

    [project.entry-points."audiomdb.retrievers"]
    s3 = "audiomdb.retrievers.s3:S3Retriever"

    [project.entry-points."audiomdb.uploaders"]
    s3 = "audiomdb.uploaders.s3:S3Uploader"

Each class has a classmethod `from_url(url, **options)`. Entry points are looked up and loaded only
when a URL needs them. Text that is not a URL is a path, which needs no look-up.

A converter is registered under the name that `audiomdb convert` uses for its kind of source:

    [project.entry-points."audiomdb.converters"]
    hf = "audiomdb.converters.hf:HFConverter"

The arguments of its constructor become options of the command, see `BaseConverter.from_source`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from audiomdb.errors import BackendError, UnknownSchemeError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.signatures import option_names, refuse_option
from audiomdb.urls import path_text, scheme_of, without_password

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from audiomdb.converters.base import BaseConverter
    from audiomdb.uploaders.base import BaseUploader

__all__ = [
    "CONVERTERS",
    "PACKAGES",
    "RETRIEVERS",
    "UPLOADERS",
    "converter_class",
    "converter_packages",
    "retriever_class",
    "retriever_for",
    "uploader_class",
    "uploader_for",
]

RETRIEVERS = "audiomdb.retrievers"
"""Entry point group of the retrievers, which read datasets."""

UPLOADERS = "audiomdb.uploaders"
"""Entry point group of the uploaders, which write datasets."""

CONVERTERS = "audiomdb.converters"
"""Entry point group of the converters, by the name of their kind of source."""

PACKAGES = {"hf": "audiomdb-hf", "s3": "audiomdb-s3"}
"""Packages of this project by the scheme or kind of source they register; errors name them."""

_T = TypeVar("_T", "BaseConverter", "BaseRetriever", "BaseUploader")
_B = TypeVar("_B", "BaseRetriever", "BaseUploader")


def retriever_for(url: str | os.PathLike[str], **options: Any) -> BaseRetriever:  # noqa: ANN401
    """Create the retriever for a URL or path, without reading or connecting to anything.

        retriever_for("s3://my-bucket/datasets/digits", max_cache_bytes=50 * 1024**3)
        retriever_for("hf://datasets/user/digits@main")
        retriever_for("digits"), retriever_for("file:///data/digits")

    Args:
        url: Location of the dataset.
        options: Keyword arguments of the class that opens it. A path accepts the caching options
            too, but ignores them, because it is read in place.

    Raises:
        UnknownSchemeError: no installed package opens such URLs; the message says what to install.
        InvalidURLError: the URL is invalid for its scheme, such as one without a bucket.
        UnknownOptionError: the class has no option of this name.
        BackendError: the class registered for such URLs cannot be used, or several packages
            register one.
        ValueError: an option is out of range.
    """
    return _made(retriever_class(url), url, options, BaseRetriever)


def uploader_for(url: str | os.PathLike[str], **options: Any) -> BaseUploader:  # noqa: ANN401
    """Create the uploader for a URL or path, without reading or connecting to anything.

        uploader_for("s3://my-bucket/datasets/digits", workers=8).upload_dir("digits")

    Args:
        url: Destination of the dataset.
        options: Keyword arguments of the class.

    Raises:
        AudioMDBError, ValueError: as in `retriever_for`.
    """
    from audiomdb.uploaders.base import BaseUploader

    return _made(uploader_class(url), url, options, BaseUploader)


def retriever_class(url: str | os.PathLike[str]) -> type[BaseRetriever]:
    """Return the class that reads from a URL or path.

    Raises:
        UnknownSchemeError, BackendError: as in `retriever_for`.
    """
    scheme = _scheme(url, RETRIEVERS)
    if scheme is None:
        return LocalRetriever
    return _opener(_find(url, scheme, RETRIEVERS), BaseRetriever)


def uploader_class(url: str | os.PathLike[str]) -> type[BaseUploader]:
    """Return the class that uploads to a URL or path.

    Raises:
        UnknownSchemeError, BackendError: as in `retriever_for`.
    """
    from audiomdb.uploaders.base import BaseUploader
    from audiomdb.uploaders.local import LocalUploader

    scheme = _scheme(url, UPLOADERS)
    if scheme is None:
        return LocalUploader
    return _opener(_find(url, scheme, UPLOADERS), BaseUploader)


def converter_packages() -> dict[str, str]:
    """Return the kinds of sources that installed packages convert, each with its package."""
    found = _entry_points(CONVERTERS)
    return {name: " and ".join(map(_package, found[name])) for name in sorted(found)}


def converter_class(name: str) -> type[BaseConverter]:
    """Return the class that converts a kind of source.

    Raises:
        BackendError: the class cannot be used, or not exactly one package registers one.
    """
    from audiomdb.converters.base import BaseConverter

    points = _entry_points(CONVERTERS).get(name, [])
    if not points:
        raise BackendError(f"no installed package registers {name!r} in the group {CONVERTERS!r}")
    point = _only(points, f"convert {name!r}", CONVERTERS)
    what_for = f"as the converter of {name!r}"
    return _load(point, BaseConverter, what_for)  # type: ignore[type-abstract]


def _made(
    kind: type[_B], place: str | os.PathLike[str], options: Mapping[str, Any], base: type[_B]
) -> _B:
    """Create an instance of a class from a URL or path.

    Raises:
        UnknownOptionError: the class has no option of this name.
        BackendError: its `from_url` does not return an instance of `base`.
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
            f"{kind.__name__}.from_url({without_password(url)!r}) returned {found}, expected a "
            f"{base.__name__}: end it with return cls(...)"
        )
    return made


def _scheme(url: str | os.PathLike[str], group: str) -> str | None:
    """Return the scheme of a URL, or None for a path.

    Raises:
        UnknownSchemeError: the path looks like a URL that has lost a slash.
        InvalidURLError, TypeError: as in `path_text`.
    """
    text = path_text(url, "a URL or a folder")
    scheme = scheme_of(text)
    # `Path("s3://bucket")` is s3:/bucket, for which an uploader would create a local folder.
    if scheme is None and (found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/?(?!/)", text)):
        meant = found[1].lower()
        if meant in {*PACKAGES, *_entry_points(group)}:
            rest = without_password(f"{meant}://{text[found.end() :]}").partition("://")[2]
            raise UnknownSchemeError(
                f"{found[0] + rest!r} is no URL, which has two slashes: {meant}://{rest} as a str "
                "(a Path makes one slash of two). A folder of that name needs its full path"
            )
    return scheme


def _find(url: str | os.PathLike[str], scheme: str, group: str) -> EntryPoint:
    """Return the entry point for a scheme.

    Raises:
        UnknownSchemeError: there is none.
        BackendError: there is more than one.
    """
    points = _entry_points(group)
    found = points.get(scheme, [])
    if not found:
        raise UnknownSchemeError(_unknown(os.fspath(url), scheme, group, points))
    return _only(found, f"open {scheme}:// URLs", group)


def _only(points: list[EntryPoint], do: str, group: str) -> EntryPoint:
    if len(points) > 1:
        claims = " and ".join(f"{_package(point)} ({point.value})" for point in points)
        raise BackendError(
            f"several packages {do}: {claims}, in the group {group!r}. Uninstall all but one"
        )
    return points[0]


def _entry_points(group: str) -> dict[str, list[EntryPoint]]:
    """Return the installed entry points by name, not cached: packages may be added later."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name.lower(), []).append(point)
    return found


def _opener(point: EntryPoint, base: type[_B]) -> type[_B]:
    """Import the class that an entry point names for URLs.

    Raises:
        BackendError: as in `_load`, or the class lacks `from_url`.
    """
    kind = _load(point, base, f"for {point.name}:// URLs")
    if getattr(kind.from_url, "__func__", None) is base.from_url.__func__:  # type: ignore[attr-defined]
        raise BackendError(
            f"the package {_package(point)} names {point.value} for {point.name}:// URLs, which "
            "has no classmethod from_url(url, **options)"
        )
    return kind


def _load(point: EntryPoint, base: type[_T], what_for: str) -> type[_T]:
    """Import the class that an entry point names.

    Raises:
        BackendError: it cannot be imported, or is not a subclass of `base`.
    """
    where = f"the package {_package(point)} names {point.value} {what_for}"
    try:
        kind = point.load()
    except Exception as exc:  # importing a module may raise anything
        raise BackendError(
            f"{where}, which cannot be imported: {type(exc).__name__}: {exc}. Install the package "
            "again, or remove it"
        ) from exc
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise BackendError(f"{where}, expected a subclass of {base.__name__}, found {kind!r}")
    return kind


def _package(point: EntryPoint) -> str:
    return "(unknown)" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _unknown(url: str, scheme: str, group: str, installed: Iterable[str]) -> str:
    does, base = "reads", BaseRetriever.__name__
    if group == UPLOADERS:
        does, base = "uploads to", "BaseUploader"
    what = f"no installed package {does} {scheme}:// URLs such as {without_password(url)!r}"
    if scheme in PACKAGES:
        return f"{what}: pip install {PACKAGES[scheme]}"
    import difflib

    known = dict.fromkeys(installed, "") | {
        name: f" (pip install {package})"
        for name, package in PACKAGES.items()
        if name not in installed
    }
    near = difflib.get_close_matches(scheme, known, 1)
    hint = f"; did you mean {near[0]}://{known[near[0]]}?" if near else "."
    listed = ", ".join(f"{name}://{note}" for name, note in sorted(known.items()))
    return (
        f"{what}{hint} Known are {listed} and plain paths. For another store, subclass {base} and "
        "register it, as the module audiomdb.registry says"
    )
