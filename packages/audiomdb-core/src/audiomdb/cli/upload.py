"""`audiomdb upload`: upload a finished dataset to a store or copy it to a folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from audiomdb.cli.arguments import EXIT_OK, add_command, add_json, add_options, count
from audiomdb.cli.opening import folder_of, make_uploader, refuse_file
from audiomdb.cli.text import one_line
from audiomdb.notes import add_note
from audiomdb.quantities import counted, size

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from audiomdb.cli.arguments import Commands
    from audiomdb.shards import Metadata
    from audiomdb.uploaders.base import BaseUploader, UploadReport

__all__ = ["add"]

_DESCRIPTION = """\
Sends the files that are not there yet with the same content, several at once, and checks each after
it has arrived. metadata.json goes last, so that nobody reads half a dataset. If an upload is
stopped, give the same command again and it continues where it was.

A different dataset at URL, which may be an older version of this one, is replaced only with
--replace: file by file, and from the first file until the end there is no dataset there. Shards
that only the old one had are not deleted. The Hub keeps what was replaced in its history, so
--replace is not needed there. In a folder, --replace also replaces shards of another dataset's
unfinished conversion or upload; a folder with other files and no dataset is refused."""

_EXAMPLE = """\
  audiomdb upload speech s3://my-bucket/speech
  audiomdb upload speech hf://datasets/user/speech --option private=true
  audiomdb upload speech /media/disk/speech
  audiomdb upload speech s3://my-bucket/speech --json | jq .sent_bytes"""


def add(commands: Commands) -> None:
    """Add the `upload` command to the command line."""
    parser = add_command(
        commands,
        "upload",
        _run,
        summary="publish a dataset",
        description=_DESCRIPTION,
        example=_EXAMPLE,
        usage="audiomdb upload [options] FOLDER URL",
    )
    parser.add_argument("source", metavar="FOLDER", help="folder of a finished dataset")
    parser.add_argument(
        "target", metavar="URL", help="such as s3://bucket/prefix, or another folder"
    )
    parser.add_argument(
        "--workers", type=count, metavar="N", help="files sent at once (default: 4; to a folder 2)"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace a different dataset, or another version of this one",
    )
    add_options(
        parser.add_argument_group("writing to the URL"),
        example="private=true for a repository of the Hub",
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    from audiomdb.shards import read_metadata
    from audiomdb.uploaders.local import LocalUploader

    folder = folder_of(args.source)
    refuse_file(folder, args.source)
    uploader = make_uploader(args.target, args.option, workers=args.workers)
    metadata = read_metadata(folder)
    with contextlib.ExitStack() as stack:
        if not isinstance(uploader, LocalUploader):
            if not args.replace:
                _refuse_other_metadata(uploader, args.target, folder)
        elif uploader.path.is_dir():
            _refuse_others(uploader.path, metadata, replace=args.replace)
            stack.enter_context(_marked(uploader.path, metadata))
        start = time.perf_counter()
        try:
            report = uploader.upload_dir(str(folder))
        except KeyboardInterrupt as exc:
            add_note(
                exc, "what has arrived is not sent again: give the same command again to go on"
            )
            raise
    seconds = time.perf_counter() - start
    if args.json:
        import json

        from msgspec.structs import asdict

        # An uploader that does not track what it sends returns no report.
        facts = {} if report is None else asdict(report)
        print(
            json.dumps({"target": args.target, "name": metadata.name, **facts, "seconds": seconds})
        )
    else:
        for line in _lines(args.target, report, seconds):
            print(line)
    return EXIT_OK


def _refuse_other_metadata(uploader: BaseUploader, target: str, folder: Path) -> None:
    """Raise an error if a store holds other metadata than that of the dataset in `folder`.

    An uploader that has no `stat`, such as that of the Hub, is not asked.

    Raises:
        OutputExistsError: it does.
        UploadError: the store cannot be queried.
    """
    from audiomdb.errors import OutputExistsError
    from audiomdb.shards.files import sha256_file
    from audiomdb.shards.layout import METADATA_FILE
    from audiomdb.uploaders import base

    if type(uploader).stat is base.BaseUploader.stat:
        return
    there = uploader.stat(METADATA_FILE)
    if there is None:
        return
    ours = folder / METADATA_FILE
    known = (ours.stat().st_size, there[1] and sha256_file(ours))
    if there != known:
        raise OutputExistsError(
            f"{target} holds a different dataset, or another version of this one; give another "
            "place, or --replace to put this one there"
        )


def _refuse_others(target: Path, metadata: Metadata, *, replace: bool) -> None:
    """Raise an error if a folder holds anything but this dataset or a part of it.

    Raises:
        OutputExistsError: says what the folder holds.
    """
    from audiomdb.errors import (
        DatasetNotFoundError,
        FormatVersionError,
        MetadataError,
        OutputExistsError,
    )
    from audiomdb.shards import read_metadata
    from audiomdb.uploaders.local import foreign_files

    try:
        there = read_metadata(target)
    except DatasetNotFoundError:
        foreign = next(foreign_files(target), None)
        if foreign is not None:
            raise OutputExistsError(
                f"{target} holds {foreign!r} and no dataset; give an empty folder or one that does "
                "not exist"
            ) from None
        if replace or _mark(target) == metadata.index.sha256:
            return
        other = next(_other_shards(target, metadata), None)
        if other is not None:
            raise OutputExistsError(
                f"{target} holds {other}, which is not of the dataset {metadata.name!r} but of a "
                "conversion or an upload that has not ended; give another folder, or --replace to "
                "put this dataset in its place"
            ) from None
        return
    except (MetadataError, FormatVersionError) as exc:
        if replace:
            return
        raise OutputExistsError(
            f"{target} holds something that cannot be read as a dataset ({exc}); give another "
            "folder, or --replace to put this dataset in its place"
        ) from exc
    if there != metadata and not replace:
        other = f"the dataset {there.name!r}, and {metadata.name!r} is to go there"
        if there.name == metadata.name:
            other = f"another version of the dataset {metadata.name!r}"
        raise OutputExistsError(
            f"{target} holds {other}; give another folder, or --replace to put this one in its "
            "place"
        )


@contextlib.contextmanager
def _marked(target: Path, metadata: Metadata) -> Iterator[None]:
    """Mark a folder, until the upload is done, with the dataset that is replacing its shards.

    The metadata of the old dataset is deleted first. Without the mark, a resumed upload could not
    distinguish its shards from those of an unfinished conversion.
    """
    from audiomdb.shards.files import write_atomically
    from audiomdb.uploaders.local import MARK

    if not any(target.glob("shard_*")):
        yield
        return
    try:
        write_atomically(target / MARK, [metadata.index.sha256.encode()])
    except OSError as exc:
        from audiomdb.errors import UploadError

        raise UploadError(f"cannot write to {target}: {exc.strerror}") from exc
    yield
    (target / MARK).unlink(missing_ok=True)


def _mark(target: Path) -> str | None:
    """Return the index digest of the dataset that an interrupted upload was writing, or None."""
    from audiomdb.uploaders.local import MARK

    try:
        return (target / MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _other_shards(target: Path, metadata: Metadata) -> Iterator[str]:
    """Yield the names of shard files in a folder that are not those of this dataset."""
    from audiomdb.shards.files import sha256_file
    from audiomdb.shards.layout import DATA_FILE

    ours = {entry.path: entry for entry in metadata.shards}
    for path in sorted(target.glob(f"shard_*/{DATA_FILE}")):
        entry = ours.get(path.parent.name)
        if entry is None or path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
            yield f"{path.parent.name}/{path.name}"


def _lines(target: str, report: UploadReport | None, seconds: float) -> Iterator[str]:
    if report is None:
        yield f"{one_line(target)}: whole"
        return
    yield f"{one_line(target)}: {counted(report.files, 'file')}, {size(report.bytes)}, whole"
    there = report.files - report.sent_files
    kept = f"; {counted(there, 'file')} had been there" if there else ""
    yield f"{size(report.sent_bytes)} sent in {seconds:.1f} s{kept}"
