"""`audiomdb ls`: list the samples of a dataset, one per line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from audiomdb.cli.arguments import EXIT_OK, add_command, add_dataset, add_json, count
from audiomdb.cli.opening import columns_of, opened, place_of
from audiomdb.cli.text import fitted, one_line, plain, summary, table
from audiomdb.quantities import duration, hertz, number

if TYPE_CHECKING:
    import argparse

    from audiomdb.cli.arguments import Commands
    from audiomdb.shards import DatasetIndex, DatasetReader

__all__ = ["add"]

_DESCRIPTION = """\
A sample's line begins with its position and key; `show` takes either. Audio is not read. In a
terminal, lines are cut at its right edge; in a pipe they are whole.

For a dataset at a URL, the index is downloaded, and the columns come from there. Columns that the
index does not have (usually text) are shown only if you ask for them with --columns; this downloads
the shards of the samples listed."""

_EXAMPLE = """\
  audiomdb ls speech --limit 5                  the first five
  audiomdb ls speech --columns speaker,digit    these fields, or columns of the index
  audiomdb ls s3://my-bucket/speech             a dataset in a bucket
  audiomdb ls speech --json | jq -r .key        one JSON object a line, for programs"""

_USUAL = ("duration", "sample_rate", "text")
_FEW = 4


def add(commands: Commands) -> None:
    """Add the `ls` command to the command line."""
    parser = add_command(
        commands,
        "ls",
        _run,
        summary="list the samples of a dataset",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_dataset(parser)
    parser.add_argument("--limit", type=count, metavar="N", help="stop after N samples")
    parser.add_argument(
        "--columns",
        metavar="A,B",
        help="fields to show (default: those of duration,sample_rate,text that exist)",
    )
    add_json(parser, "one JSON object a line")


def _run(args: argparse.Namespace) -> int:
    with opened(args) as retriever:
        reader = retriever.open()
        index = columns_of(retriever) if place_of(retriever) is None else None
        columns = _columns(reader, index, args.columns)
        rows = itertools.islice(_rows(reader, index, columns), args.limit)
        if args.json:
            _print_json(columns, rows)
        else:
            _print_table(columns, rows, numbers=_numbers(reader, columns))
    return EXIT_OK


def _columns(reader: DatasetReader, index: DatasetIndex | None, wanted: str | None) -> list[str]:
    from audiomdb.sample import KEY

    features = reader.metadata.features
    if wanted is not None:
        names = [name for part in wanted.split(",") if (name := part.strip())]
        return [name for name in names if name not in ("key", KEY) or name in features]
    usual = [name for name in _USUAL if name in features]
    if index is not None:
        return [name for name in usual if _same_in_index(reader, index, name)]
    return usual or list(features)[:_FEW]


def _rows(
    reader: DatasetReader, index: DatasetIndex | None, columns: Sequence[str]
) -> Iterator[tuple[int, str, list[Any]]]:
    """Yield position, key and values of each sample.

    Args:
        reader: Reader of the dataset.
        index: Index of a remote dataset, used in place of samples where possible; otherwise None.
        columns: Names of fields, or of index columns such as audio_bytes.
    """
    fields = [
        name
        for name in columns
        if name in reader.metadata.features
        and (index is None or not _same_in_index(reader, index, name))
    ]
    values = {name: _of_index(reader, name) for name in columns if name not in fields}
    if index is not None and not fields:
        for position, key in enumerate(index["__key__"].tolist()):
            yield position, key, [values[name][position] for name in columns]
        return
    for position, sample in enumerate(reader.scan(fields=fields)):
        row = [values[name][position] if name in values else sample.get(name) for name in columns]
        yield position, sample["__key__"], row


def _of_index(reader: DatasetReader, name: str) -> list[Any]:
    """Return the values of an index column.

    Raises:
        UnknownColumnError: when there is no such column; names those that exist, and the fields.
    """
    from audiomdb.errors import UnknownColumnError

    try:
        return cast("list[Any]", reader.index[name].tolist())
    except UnknownColumnError as exc:
        fields = ", ".join(reader.metadata.features)
        raise UnknownColumnError(f"{exc}; the samples have the fields {fields}") from exc


def _same_in_index(reader: DatasetReader, index: DatasetIndex, name: str) -> bool:
    """Whether the index column `name` has exactly the values that the samples have.

    The index keeps what processors have left out, and converts integers to float if a value is
    missing.
    """
    exact = ({"str"}, {"null", "str"}, {"int"}, {"float"}, {"bool"})
    metadata = reader.metadata
    types = set(metadata.features[name].types)
    return not metadata.processors and name in index and types in exact


def _numbers(reader: DatasetReader, columns: Sequence[str]) -> set[str]:
    """Return the names of numeric columns, which are aligned to the right."""
    features = reader.metadata.features
    return {
        name
        for name in columns
        if name not in features
        or {"null", "int", "float", "scalar"}.issuperset(features[name].types)
    }


def _print_json(columns: Sequence[str], rows: Iterator[tuple[int, str, list[Any]]]) -> None:
    import json

    for position, key, values in rows:
        named = {name: plain(value) for name, value in zip(columns, values, strict=True)}
        print(json.dumps({"position": position, "key": key, **named}))


def _print_table(
    columns: Sequence[str], rows: Iterator[tuple[int, str, list[Any]]], *, numbers: set[str]
) -> None:
    header = ["position", "key", *columns]
    cells = (
        [
            str(position),
            one_line(key),
            *(_cell(name, value) for name, value in zip(columns, values, strict=True)),
        ]
        for position, key, values in rows
    )
    right = [i for i, name in enumerate(header) if name in {"position", *numbers}]
    names = [one_line(name) for name in header]
    for line in fitted(table(itertools.chain([names], cells), right=right)):
        print(line)


def _cell(name: str, value: Any) -> str:  # noqa: ANN401
    if name == "duration" and isinstance(value, int | float):
        return duration(value)
    if name == "sample_rate" and isinstance(value, int):
        return hertz(value)
    if isinstance(value, float):
        return number(value)
    return summary(value)
