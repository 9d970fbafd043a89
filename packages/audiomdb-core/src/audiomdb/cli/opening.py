"""From what the user typed to a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


def folder_of(dataset: str) -> Path:
    """The dataset's folder.

    Raises:
        UsageError: for a URL.
    """
    from pathlib import Path

    from audiomdb.urls import scheme_of

    if scheme_of(dataset):
        raise UsageError(f"{dataset} is a URL, expected a folder")
    return Path(dataset)


def place_of(retriever: BaseRetriever) -> Path | None:
    """The folder of a dataset that is read in place, None for any other."""
    from audiomdb.retrievers.local import LocalRetriever

    return retriever.path if isinstance(retriever, LocalRetriever) else None


def refuse_file(place: Path | None, dataset: str) -> None:
    """Refuse a file where a dataset's folder is expected; any other place is looked at elsewhere.

    Args:
        place: The folder, None for what is no path.
        dataset: What the user typed.

    Raises:
        UsageError: it is a file.
    """
    from audiomdb.shards.layout import METADATA_FILE

    if place is not None and place.is_file():
        hint = f": give {place.parent}" if place.name == METADATA_FILE else ""
        raise UsageError(f"{dataset} is a file; a dataset is a folder with {METADATA_FILE}{hint}")


def is_cache(folder: Path) -> bool:
    """Whether a folder is the cache of a dataset."""
    from audiomdb.cache.layout import CacheLayout

    layout = CacheLayout(folder)
    return layout.shards.is_dir() and layout.in_use_lock.exists()


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[BaseRetriever]:
    """The dataset that the user named, with the options of `add_dataset`.

    Raises:
        UsageError: it is a file, a URL of an unknown kind, or takes no such option.
        DatasetError, DownloadError: there is no dataset, or its metadata is damaged.
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
    """The retriever for a URL or a folder.

    Args:
        url: What the user typed.
        settings: NAME=VALUE, as `--option` has them.
        options: More arguments; None leaves one out.

    Raises:
        UsageError: it is a URL of an unknown kind, or takes no such option.
    """
    from audiomdb.registry import retriever_for

    return _make(retriever_for, url, options, settings)


def make_uploader(
    url: str,
    settings: Sequence[str],
    **options: Any,  # noqa: ANN401
) -> BaseUploader:
    """The uploader to a URL or a folder. Arguments as for `make_retriever`.

    Raises:
        UsageError: as `make_retriever`.
    """
    from audiomdb.registry import uploader_for

    return _make(uploader_for, url, options, settings)


def columns_of(retriever: BaseRetriever) -> DatasetIndex | None:
    """The columns of the index, as far as that takes no shard; None where only shards have them."""
    from audiomdb.errors import CacheError
    from audiomdb.shards.dataset_index import DatasetIndex, IndexFile
    from audiomdb.shards.layout import INDEX_FILE

    reader = retriever.open()
    try:
        cache = retriever.cached_shards().cache
    except CacheError:  # it is read in place
        return reader.index
    data = cache.index_file()
    if data is None:
        return None
    return DatasetIndex(IndexFile(data, reader.metadata, INDEX_FILE))


def _make(
    make: Callable[..., _T], url: str, options: dict[str, Any], settings: Sequence[str]
) -> _T:
    given = {name: value for name, value in options.items() if value is not None}
    more = _settings(settings)
    for name in given.keys() & more.keys():
        raise UsageError(f"--option {name} is what --{name.replace('_', '-')} is for here")
    try:
        return make(url, **given, **more)
    except (TypeError, ValueError) as exc:
        # The URL or an option: nothing is read yet.
        raise UsageError(str(exc)) from exc


def _settings(settings: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as arguments: a value that is JSON, or True, False or None, is what it says.

    Any other is text.
    """
    import json

    in_python = {"True": True, "False": False, "None": None}
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {setting!r} is not of the form NAME=VALUE")
        try:
            found[name] = in_python[value] if value in in_python else json.loads(value)
        except ValueError:
            found[name] = value
    return found
