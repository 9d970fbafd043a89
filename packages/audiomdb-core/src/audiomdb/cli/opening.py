"""Open the dataset, retriever or uploader that the user named on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from audiomdb.cli.arguments import UsageError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from audiomdb.retrievers.base import BaseRetriever
    from audiomdb.shards import DatasetIndex
    from audiomdb.uploaders.base import BaseUploader

__all__ = [
    "columns_of",
    "folder_of",
    "is_cache",
    "make_retriever",
    "make_uploader",
    "opened",
    "place_of",
    "refuse_file",
]

_T = TypeVar("_T")


def place_of(retriever: BaseRetriever) -> Path | None:
    """Return the folder of a local dataset, which is read in place; None for any other."""
    from audiomdb.retrievers.local import LocalRetriever

    return retriever.path if isinstance(retriever, LocalRetriever) else None


def folder_of(retriever: BaseRetriever) -> Path | None:
    """Return the folder of a dataset that is read in place, even at a URL; None for a cached one.

    Opens the dataset only if the retriever has a `make_reader` of its own.

    Raises:
        UsageError: when it is read in place, but from elsewhere.
    """
    from audiomdb.retrievers.base import BaseRetriever
    from audiomdb.shards.dataset_reader import LocalShards

    if (folder := place_of(retriever)) is not None:
        return folder
    kind = type(retriever)
    if kind.make_reader is BaseRetriever.make_reader or (source := retriever.open().source).cached:
        return None
    if not isinstance(source, LocalShards):
        raise UsageError(
            f"{kind.__name__} reads its dataset neither through a cache nor from a folder"
        )
    return source.path


def refuse_file(place: Path | None, dataset: str) -> None:
    """Reject a file where the folder of a dataset is expected; nothing else is checked here.

    Args:
        place: The folder; None for a URL.
        dataset: The argument that the user gave.

    Raises:
        UsageError: when `place` is a file.
    """
    from audiomdb.shards.layout import METADATA_FILE

    if place is not None and place.is_file():
        hint = f": give {place.parent}" if place.name == METADATA_FILE else ""
        raise UsageError(f"{dataset} is a file; a dataset is a folder with {METADATA_FILE}{hint}")


def is_cache(folder: Path) -> bool:
    """Whether a folder is the cache of a remote dataset."""
    from audiomdb.cache.layout import CacheLayout

    layout = CacheLayout(folder)
    return layout.shards.is_dir() and layout.in_use_lock.exists()


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[BaseRetriever]:
    """Open the dataset that the user named with the arguments of `add_dataset`; close it on exit.

    Raises:
        UsageError: when it is a file, a URL of an unknown scheme, or does not accept an option.
        DatasetError, DownloadError: when there is no dataset, or its metadata is damaged.
    """
    retriever = make_retriever(
        args.dataset, args.option, cache_dir=args.cache_dir, max_cache_bytes=args.max_cache_bytes
    )
    folder = place_of(retriever)
    refuse_file(folder, args.dataset)
    if folder is not None and is_cache(folder):
        raise UsageError(
            f"{args.dataset} is the cache of a dataset, of which it may hold a part: give the URL "
            "that it is the cache of (`audiomdb verify` takes the folder, too)"
        )
    try:
        retriever.open()
        yield retriever
    finally:
        retriever.close()


def make_retriever(
    url: str,
    settings: Sequence[str],
    **options: Any,  # noqa: ANN401
) -> BaseRetriever:
    """Create the retriever for a URL or a folder.

    Args:
        url: The URL or folder that the user gave.
        settings: The NAME=VALUE strings of `--option`.
        options: Further arguments; those that are None are left out.

    Raises:
        UsageError: when the URL has an unknown scheme, or its class does not accept an option.
    """
    from audiomdb.registry import retriever_class, retriever_for

    return _make(retriever_for, retriever_class, url, options, settings)


def make_uploader(
    url: str,
    settings: Sequence[str],
    **options: Any,  # noqa: ANN401
) -> BaseUploader:
    """Create the uploader to a URL or a folder, with the arguments of `make_retriever`.

    Raises:
        UsageError: as for `make_retriever`.
    """
    from audiomdb.registry import uploader_class, uploader_for

    return _make(uploader_for, uploader_class, url, options, settings)


def columns_of(retriever: BaseRetriever) -> DatasetIndex | None:
    """Return the index columns if no shard has to be downloaded for them, otherwise None."""
    reader = retriever.open()
    return reader.index if reader.source.index_first or not reader.source.cached else None


def _make(
    make: Callable[..., _T],
    class_of: Callable[[str], type[Any]],
    url: str,
    options: dict[str, Any],
    settings: Sequence[str],
) -> _T:
    from audiomdb.signatures import option_types

    given = {name: value for name, value in options.items() if value is not None}
    more = _settings(settings, option_types(class_of(url))) if settings else {}
    for name in given.keys() & more.keys():
        raise UsageError(f"--option {name} is what --{name.replace('_', '-')} is for here")
    try:
        return make(url, **given, **more)
    except (TypeError, ValueError) as exc:
        # It concerns the URL or an option, because nothing has been read yet.
        raise UsageError(str(exc)) from exc


def _settings(settings: Sequence[str], types: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Parse NAME=VALUE strings.

    Args:
        settings: The strings.
        types: Types of each option, from `option_types`.
    """
    from audiomdb.cli.values import parsed

    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {setting!r} is not of the form NAME=VALUE")
        try:
            found[name] = parsed(value, types.get(name, ()))
        except ValueError as exc:
            raise UsageError(f"--option {setting!r}: {exc}") from exc
    return found
