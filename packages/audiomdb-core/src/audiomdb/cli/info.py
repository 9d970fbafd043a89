"""`audiomdb info`: show what a dataset holds, from its metadata and index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from audiomdb.cli.arguments import EXIT_OK, UsageError, add_command, add_dataset, add_json
from audiomdb.cli.opening import columns_of, is_cache, opened, place_of
from audiomdb.cli.text import fitted, one_line, plain, summary, table
from audiomdb.quantities import counted, duration, hertz, number, size

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from audiomdb.cli.arguments import Commands
    from audiomdb.retrievers.base import BaseRetriever
    from audiomdb.shards import DatasetIndex, Feature

__all__ = ["add"]

_DESCRIPTION = """\
Reads metadata.json and the index: name, number of samples, length of the audio, sizes, the fields
with their types, and what the columns of the index hold. For a dataset at a URL, nothing else is
downloaded, and the folder of its cache is shown too. In a terminal, lines of columns are cut at its
right edge; in a pipe they are whole."""

_EXAMPLE = """\
  audiomdb info speech                            for people
  audiomdb info s3://my-bucket/speech             a dataset in a bucket
  audiomdb info speech --by language              samples and hours of each language, too
  audiomdb info speech --json | jq .duration_s    for programs; sizes in bytes, times in seconds"""

_COMMON_VALUES = 5

_NOT_DOWNLOADED = "the columns of the index are in the shards, which were not downloaded"


def add(commands: Commands) -> None:
    """Add the `info` command to the command line."""
    parser = add_command(
        commands,
        "info",
        _run,
        summary="show what a dataset holds",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_dataset(parser)
    parser.add_argument(
        "--by", metavar="COLUMN", help="add up samples and audio by the values of this column"
    )
    add_json(parser, "one JSON object")


def _run(args: argparse.Namespace) -> int:
    with opened(args) as retriever:
        facts = _facts(args.dataset, retriever)
        if args.by is not None:
            facts["by"] = {"column": args.by, "groups": _groups(retriever, args.by)}
    if args.json:
        import json

        print(json.dumps(plain(facts)))
    else:
        for line in _lines(facts):
            print(line)
    return EXIT_OK


def _facts(dataset: str, retriever: BaseRetriever) -> dict[str, Any]:
    from audiomdb.sample import AUDIO
    from audiomdb.shards.layout import REJECTED_FILE
    from audiomdb.urls import without_password

    dataset = without_password(dataset)
    metadata = retriever.metadata
    columns, audio_bytes = _columns(columns_of(retriever))
    if AUDIO not in metadata.features:  # a processor has made features of it
        audio_bytes = None
    folder = place_of(retriever)
    rejected_file = f"{dataset.rstrip('/')}/{REJECTED_FILE}"
    if folder is not None:
        rejected_file = str(folder / REJECTED_FILE)
    return {
        "name": metadata.name,
        "folder": None if folder is None else str(folder),
        "url": dataset if folder is None else None,
        "cache": None if folder is not None else _cache(retriever),
        "format_version": metadata.format_version,
        "samples": metadata.samples,
        "duration_s": metadata.duration,
        "shards": len(metadata.shards),
        "shard_bytes": metadata.bytes,
        "index_bytes": metadata.index.bytes,
        "audio_bytes": audio_bytes,
        "processors": list(metadata.processors),
        "rejected": metadata.rejected,
        "rejected_file": rejected_file if metadata.rejected else None,
        "fingerprint": metadata.fingerprint,
        "fields": {name: _field(feature) for name, feature in metadata.features.items()},
        "columns": columns,
    }


def _groups(retriever: BaseRetriever, name: str) -> list[dict[str, Any]]:
    from audiomdb.cli.groups import grouped

    index = columns_of(retriever)
    if index is None:
        raise UsageError(f"--by {name}: {_NOT_DOWNLOADED}")
    return grouped(index.apart(), name)


def _cache(retriever: BaseRetriever) -> dict[str, Any] | None:
    """Return what the cache holds; None for a dataset that is read in place, even at a URL."""
    from pathlib import Path

    from audiomdb.cli.verifying import cache_facts, cached_shards

    folder = Path(retriever.cache_dir)
    if not is_cache(folder):
        return None
    return cache_facts(folder, [entry for entry, _ in cached_shards(folder, retriever.metadata)])


def _columns(index: DatasetIndex | None) -> tuple[dict[str, Any] | None, int | None]:
    """Summarise all columns, and add up the sizes of the clips if there is a column of them."""
    import numpy as np

    if index is None:
        return None, None
    columns, audio_bytes = {}, None
    for name in index:
        if name != "__key__":
            # One at a time: all columns of a hundred million samples would take gigabytes.
            values = index.apart()[name]
            columns[name] = _column(values)
            # Of samples without audio, it may be a field of the user's that holds anything.
            if name == "audio_bytes" and values.dtype.kind in "iuf":
                audio_bytes = int(values.sum(where=np.isfinite(values)))
    return columns, audio_bytes


def _field(feature: Feature) -> dict[str, Any]:
    field: dict[str, Any] = {"types": list(feature.types)}
    if "array" in feature.types:
        field["dtype"] = feature.dtype
        field["shape"] = None if feature.shape is None else list(feature.shape)
    return field


def _column(values: np.ndarray) -> dict[str, Any]:
    """Summarise a column: missing values, and its range or its most common values."""
    import numpy as np

    if values.dtype == object or values.dtype.kind == "b":
        counts = Counter(value for value in values.tolist() if value is not None)
        common = [{"value": v, "samples": n} for v, n in counts.most_common(_COMMON_VALUES)]
        missing = len(values) - sum(counts.values())
        return {"missing": missing, "different": len(counts), "common": common}
    present = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    facts: dict[str, Any] = {"missing": len(values) - len(present)}
    if len(present):
        low, high = present.min().item(), present.max().item()
        with np.errstate(invalid="ignore"):  # the mean of inf and -inf is undefined
            median = float(np.median(present))
        facts |= {"min": low, "median": median, "max": high}
        different, counted = np.unique(present, return_counts=True)
        if len(different) <= _COMMON_VALUES:
            pairs = sorted(zip(different.tolist(), counted.tolist(), strict=True))
            facts["common"] = [{"value": value, "samples": n} for value, n in pairs]
    return facts


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield one_line(facts["name"])
    stored = facts["shard_bytes"] + facts["index_bytes"]
    sizes = f"{size(stored)} ({size(facts['index_bytes'])} of it index"
    if facts["audio_bytes"]:
        sizes += f"; {size(facts['audio_bytes'])} of encoded audio"
    rows = [
        *_place(facts),
        ("samples", f"{number(facts['samples'])} in {counted(facts['shards'], 'shard')}"),
        ("audio", duration(facts["duration_s"])),
        ("size", f"{sizes})"),
        ("processors", ", ".join(map(one_line, facts["processors"])) or "none"),
        ("rejected", _rejected(facts)),
        ("fingerprint", facts["fingerprint"][:16]),
    ]
    yield from table(rows, indent="  ")
    yield ""
    yield "fields"
    fields = [(one_line(name), _type(field)) for name, field in facts["fields"].items()]
    yield from table(fields, indent="  ") if fields else ["  none"]
    yield ""
    if facts["columns"] is None:
        yield _NOT_DOWNLOADED
        return
    yield "columns of the index"
    columns = list(_column_rows(facts["columns"]))
    yield from fitted(table(columns, right=(1, 2, 3), indent="  ")) if columns[1:] else ["  none"]
    if "by" in facts:
        from audiomdb.cli.groups import lines_of_groups

        yield ""
        yield from fitted(lines_of_groups(**facts["by"]))


def _place(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["folder"] is not None:
        yield "folder", one_line(facts["folder"])
        return
    yield "url", one_line(facts["url"])
    if facts["cache"] is not None:
        shards, octets, folder = (facts["cache"][name] for name in ("shards", "bytes", "folder"))
        yield "cache", f"{counted(shards, 'shard')} ({size(octets)}) in {one_line(folder)}"


def _rejected(facts: dict[str, Any]) -> str:
    if not facts["rejected"]:
        return "none"
    return f"{number(facts['rejected'])}, listed in {one_line(facts['rejected_file'])}"


def _type(field: dict[str, Any]) -> str:
    kinds = [
        f"array of {field['dtype'] or 'various dtypes'}, shape {_shape(field['shape'])}"
        if kind == "array"
        else kind
        for kind in field["types"]
    ]
    return one_line(" or ".join("missing" if kind == "null" else kind for kind in kinds))


def _shape(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "varies"
    return "(" + ", ".join("*" if n is None else str(n) for n in shape) + ")"


def _column_rows(columns: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield "", "min", "median", "max", ""
    for name, facts in columns.items():
        numbers = (_value(name, facts.get(which)) for which in ("min", "median", "max"))
        yield one_line(name), *numbers, _common(name, facts)


def _common(name: str, facts: dict[str, Any]) -> str:
    common, different, notes = facts.get("common", []), facts.get("different", 0), []
    if facts["missing"]:
        notes.append(f"missing in {number(facts['missing'])}")
    if different > len(common) and common[0]["samples"] == 1:
        notes.append(f"{number(different)} different values")  # all occur once, as digests do
    elif len(common) > 1 or "different" in facts:
        shown = ", ".join(
            f"{_value(name, one['value'])} ({number(one['samples'])})" for one in common
        )
        if different > len(common):
            shown = f"{number(different)} different values: {shown}, ..."
        notes.append(shown)
    return "; ".join(notes)


def _value(name: str, value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return summary(value)
    known = {"duration": duration, "sample_rate": hertz, "audio_bytes": size}
    return known.get(name, number)(value)
