"""`audiomdb verify`: check every byte of a dataset."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import (
    EXIT_FAILED,
    EXIT_OK,
    UsageError,
    add_command,
    add_dataset,
    add_json,
    count,
)
from audiomdb.cli.opening import folder_of, is_cache, make_retriever, refuse_file
from audiomdb.cli.text import extent, one_line
from audiomdb.quantities import counted, size

if TYPE_CHECKING:
    import argparse

    from audiomdb.cli.arguments import Commands
    from audiomdb.cli.verifying import Checked
    from audiomdb.retrievers.base import BaseRetriever

__all__ = ["add"]

_DESCRIPTION = """\
Reads all shards and compares sizes, digests, pages, keys, records and payloads with what
metadata.json promises. Prints a line for each problem: the file and what is wrong with it.
Exits with 0 if the dataset is whole, with 1 if it is damaged.

A dataset at a URL is downloaded anew, whatever the cache holds of it, and not kept: only a few
shards are on the disk at a time, in --cache-dir if that is given. With --cached, the cache of this
machine is checked instead: nothing is downloaded, and training may go on meanwhile. In place of the
URL, you may give the cache's own folder, which `audiomdb info URL` shows."""

_EXAMPLE = """\
  audiomdb verify speech                          check, with a progress bar in a terminal
  audiomdb verify speech && train speech          train only if the dataset is whole
  audiomdb verify speech --json | jq .problems    the same for programs
  audiomdb verify s3://my-bucket/speech           what the store holds
  audiomdb verify s3://my-bucket/speech --cached  what this machine's cache holds of it"""


def add(commands: Commands) -> None:
    """Add the `verify` command to the command line."""
    parser = add_command(
        commands,
        "verify",
        _run,
        summary="check a dataset from end to end",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_dataset(
        parser,
        cache_dir="where shards are put while they are checked (default: the folder for temporary "
        "files); with --cached, the cache (default: audiomdb in $XDG_CACHE_HOME or ~/.cache)",
    )
    parser.add_argument(
        "--cached",
        action="store_true",
        help="check what this machine's cache holds of the dataset at a URL",
    )
    parser.add_argument(
        "--workers", type=count, default=2, metavar="N", help="shards checked at once (default: 2)"
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    checked = _verify(args)
    seconds = time.perf_counter() - start
    if args.json:
        import json

        print(json.dumps(_facts(checked, seconds)))
    else:
        for problem in checked.problems:
            print(f"{problem.file}: {one_line(problem.reason)}")
        print(_verdict(checked, seconds))
    return EXIT_FAILED if checked.problems else EXIT_OK


def _verify(args: argparse.Namespace) -> Checked:
    from audiomdb.cli.verifying import verify_cache, verify_folder, verify_store
    from audiomdb.errors import DatasetNotFoundError
    from audiomdb.urls import without_password

    def make(cache_dir: str | Path | None) -> BaseRetriever:
        return make_retriever(
            args.dataset, args.option, cache_dir=cache_dir, max_cache_bytes=args.max_cache_bytes
        )

    retriever = make(args.cache_dir)
    folder = folder_of(retriever)
    refuse_file(folder, args.dataset)
    if folder is None and not args.cached:
        scratch = None if args.cache_dir is None else Path(args.cache_dir)
        return verify_store(make, scratch, workers=args.workers)
    if args.cached:
        if folder is not None:
            raise UsageError(f"{args.dataset} is a folder, read without a cache; leave --cached")
        folder = Path(retriever.cache_dir)
        if not is_cache(folder):
            raise DatasetNotFoundError(
                f"nothing of {without_password(args.dataset)} is cached at {folder}"
            )
    assert folder is not None
    if is_cache(folder):
        return verify_cache(folder, workers=args.workers)
    return verify_folder(folder, workers=args.workers)


def _facts(checked: Checked, seconds: float) -> dict[str, Any]:
    from audiomdb.cli.verifying import cache_facts

    metadata, cache = checked.metadata, checked.cache
    listed = [{"file": problem.file, "reason": problem.reason} for problem in checked.problems]
    facts: dict[str, Any] = {
        "whole": not checked.problems,
        "problems": listed,
        "samples": metadata.samples,
        "shards": len(metadata.shards),
        "shard_bytes": metadata.bytes,
        "cache": None if cache is None else cache_facts(cache, checked.shards),
        "elapsed_s": seconds,
    }
    if cache is not None:
        facts["delete"] = _damaged_files(checked, cache)
    return facts


def _verdict(checked: Checked, seconds: float) -> str:
    import shlex

    metadata, problems, cache = checked.metadata, checked.problems, checked.cache
    what = extent(metadata.samples, len(metadata.shards))
    if cache is not None:
        shards = counted(len(metadata.shards), "shard")
        what = f"{len(checked.shards)} of {shards}, cached in {one_line(str(cache))}"
    if not problems:
        return f"whole: {what}, {size(checked.bytes)} checked in {seconds:.1f} s"
    damaged = len({problem.file for problem in problems})
    found = f"{counted(len(problems), 'problem')} in {counted(damaged, 'file')}"
    if cache is None:
        return f"damaged: {found}; metadata.json promises {what}"
    paths = one_line(shlex.join(_damaged_files(checked, cache)))
    return f"damaged: {found}, of {what}. Delete what is to be downloaded again: {paths}"


def _damaged_files(checked: Checked, cache: Path) -> list[str]:
    """Return the paths of the damaged files in a cache."""
    from audiomdb.cli.verifying import cached_shards
    from audiomdb.shards.layout import DATA_FILE

    cached = cached_shards(cache, checked.metadata)
    named = {f"{entry.path}/{DATA_FILE}": path for entry, path in cached}
    files = dict.fromkeys(problem.file for problem in checked.problems)
    return [str(named.get(file, cache / file)) for file in files]
