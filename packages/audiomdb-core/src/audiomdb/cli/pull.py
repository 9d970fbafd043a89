"""`audiomdb pull`: download a whole dataset from a URL into a folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import (
    EXIT_OK,
    UsageError,
    add_cache,
    add_command,
    add_json,
    add_options,
    count,
)
from audiomdb.cli.opening import folder_of, make_retriever, refuse_file
from audiomdb.cli.text import extent, one_line
from audiomdb.notes import add_note
from audiomdb.progress import progress
from audiomdb.quantities import counted, size
from audiomdb.urls import folder_path, without_password

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from audiomdb.cli.arguments import Commands
    from audiomdb.cli.origins import Origin
    from audiomdb.cli.pulling import Target
    from audiomdb.retrievers.base import BaseRetriever

__all__ = ["add"]

_DESCRIPTION = """\
Every shard is checked against its sha256 before it is moved into DIR, and metadata.json comes last:
DIR holds either the whole dataset or none yet. If a pull is stopped, give the same command again
and it continues where it was. Whole shards are not downloaded twice; if the dataset was pulled
before, shards that have been damaged since are downloaded again.

A different dataset in DIR, which may be an older version of this one, is replaced only with
--replace. Shards that it holds are kept, whatever their number is now, and only the others are
downloaded. The old dataset stays until all of them are there, which takes room for them beside it;
then the new one takes its place, and the shards that only the old one had are deleted. Programs
that have the old dataset open keep the shards that they are reading, and get an error when they
need one that was moved or deleted: they have to open it again.

Unfinished downloads are kept in DIR/.pull. With --cache-dir, shards go through that cache instead
and are copied: shards that it already holds are used, and DIR may be on a network disk."""

_EXAMPLE = """\
  audiomdb pull s3://my-bucket/speech speech
  audiomdb pull s3://my-bucket/speech speech --replace
  audiomdb pull hf://datasets/user/speech@main speech --workers 8
  audiomdb pull s3://open-data/speech speech --option anonymous=true
  AWS_ENDPOINT_URL=http://minio:9000 audiomdb pull s3://my-bucket/speech speech"""


def add(commands: Commands) -> None:
    """Add the `pull` command to the command line."""
    parser = add_command(
        commands,
        "pull",
        _run,
        summary="download a whole dataset",
        description=_DESCRIPTION,
        example=_EXAMPLE,
        usage="audiomdb pull [options] URL DIR",
    )
    parser.add_argument("source", metavar="URL", help="such as s3://bucket/prefix, or a folder")
    parser.add_argument(
        "target",
        metavar="DIR",
        help="folder for the dataset: new, from an earlier pull or, with --replace, of another",
    )
    parser.add_argument(
        "--workers",
        type=count,
        default=4,
        metavar="N",
        help="shards downloaded at once (default: 4)",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace a different dataset in DIR, or another version of this one",
    )
    group = parser.add_argument_group("reading from the URL")
    add_options(group)
    add_cache(group, "where downloaded shards are kept for next time (default: not kept)")
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    from audiomdb.cli.pulling import STATE, Target
    from audiomdb.registry import retriever_class
    from audiomdb.signatures import option_names

    folder = folder_path(args.target, instead="give the path of one on this machine")
    if args.max_cache_bytes is not None and args.cache_dir is None:
        raise UsageError("--max-cache-bytes needs --cache-dir")
    options: dict[str, Any] = {"workers": args.workers, "cache_dir": folder / STATE}
    taken = option_names(
        retriever_class(args.source)
    )  # by a class that reads in place: perhaps none
    options = {name: value for name, value in options.items() if name in taken}
    if args.cache_dir is not None:
        options |= {"cache_dir": args.cache_dir, "max_cache_bytes": args.max_cache_bytes}
    retriever = make_retriever(args.source, args.option, **options)
    source = folder_of(retriever)
    refuse_file(source, args.source)
    if source is not None and _is_one(source, folder):
        # A damaged shard would be copied from itself.
        raise UsageError(f"{args.source} and {args.target} are one folder; pull into another one")
    target = Target(folder)
    try:
        facts = _pull(retriever, target, args)
    finally:
        retriever.close()
        target.close()
    _report(facts, as_json=args.json)
    return EXIT_OK


def _pull(retriever: BaseRetriever, target: Target, args: argparse.Namespace) -> dict[str, Any]:
    from audiomdb.cli.pulling import pull

    start = time.perf_counter()
    with _origin(retriever, args) as origin:
        metadata = origin.metadata
        if not args.replace:
            target.refuse_another(metadata)
        description = f"pulling {one_line(metadata.name)}"
        with progress(metadata.bytes, unit="B", description=description) as bar:
            try:
                fetched = pull(origin, target, workers=args.workers, on_bytes=bar.update)
            except BaseException as exc:
                if target.begun:
                    add_note(exc, "what has arrived is kept: give the same command again to go on")
                raise
    return {
        "source": without_password(args.source),
        "folder": str(target.path),
        "name": metadata.name,
        "samples": metadata.samples,
        "shards": len(metadata.shards),
        "stored_bytes": metadata.bytes + metadata.index.bytes,
        "fetched_shards": fetched,
        "received_bytes": origin.received_bytes,
        "elapsed_s": time.perf_counter() - start,
    }


@contextlib.contextmanager
def _origin(retriever: BaseRetriever, args: argparse.Namespace) -> Iterator[Origin]:
    """Open the source; the budget of a cache is claimed within the `with` block."""
    from audiomdb.cli.origins import CacheOrigin, FolderOrigin

    folder = folder_of(retriever)
    if folder is not None:
        yield FolderOrigin(folder)
        return
    cache = retriever.cached_shards().cache
    with contextlib.closing(cache.register(args.workers)):
        yield CacheOrigin(cache, move=args.cache_dir is None)


def _is_one(folder: Path, other: Path) -> bool:
    """Whether two paths lead to one folder; False if one of them leads nowhere."""
    try:
        return folder.samefile(other)
    except OSError:
        return False


def _report(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(facts))
        return
    what = f"{extent(facts['samples'], facts['shards'])}, {size(facts['stored_bytes'])}"
    print(f"{one_line(facts['folder'])}: {what}, whole")
    there = facts["shards"] - facts["fetched_shards"]
    kept = f"; {counted(there, 'shard')} had been there" if there else ""
    received = size(facts["received_bytes"])
    print(f"{received} received in {facts['elapsed_s']:.1f} s{kept}")
