"""Which systems there are, and in which environment each one lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from benchmarks.peers.system import System

__all__ = ["ENVIRONMENTS", "SYSTEMS", "Entry", "make"]

ENVIRONMENTS = ("peers", "mosaic")
"""mosaicml-streaming asks for older versions of what others need newer, so it lives alone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a system's class is, and what it is given.

    Attributes:
        place: `module:class` in `benchmarks.peers.systems`.
        arguments: Positional arguments of its constructor.
        options: Keyword arguments of its constructor.
        environment: The one of `ENVIRONMENTS` that it runs in.
    """

    place: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str = "peers"

    def make(self) -> System:
        """Make the adapter, without importing the library that it is for."""
        module, name = self.place.split(":")
        found: Callable[..., System] = getattr(
            import_module(f"benchmarks.peers.systems.{module}"), name
        )
        return found(*self.arguments, **self.options)


SYSTEMS = {
    "cp": Entry("bare:CopyFiles"),
    "files": Entry("bare:PlainFiles"),
    "lmdb": Entry("bare:BareLmdb"),
    "lmdb-kept": Entry("bare:LmdbKeepingMemory"),
    "soundfile-1": Entry("bare:DecodeFromMemory", ("soundfile", 1)),
    "soundfile-2": Entry("bare:DecodeFromMemory", ("soundfile", 2)),
    "dr_flac-1": Entry("bare:DecodeFromMemory", ("dr_flac", 1)),
    "dr_flac-2": Entry("bare:DecodeFromMemory", ("dr_flac", 2)),
    "audiomdb": Entry("ours:AudioMDB"),
    "audiomdb-views": Entry(
        "ours:AudioMDB",
        ("AudioMDB, no copies",),
        {"copy": False, "dataset_of": "audiomdb", "takes_part_in": ("raw",)},
    ),
    "audiomdb-checked": Entry(
        "ours:AudioMDB",
        ("AudioMDB, everything checked",),
        {"verify": True, "check_audio": "decode", "takes_part_in": ("raw",)},
    ),
    "audiomdb-flac": Entry(
        "ours:AudioMDB",
        ("AudioMDB, as FLAC",),
        {"audio_format": "flac", "takes_part_in": ("loader",), "corpora": ("digits",)},
    ),
    "audiomdb-seconds": Entry("ours:AudioMDBBySeconds"),
    "audiomdb-dataloader": Entry("ours:AudioMDBInDataLoader"),
    "mosaic": Entry("mosaic:Mosaic", environment="mosaic"),
    "litdata": Entry("litdata:LitData"),
    "webdataset": Entry("webdataset:WebDataset"),
    "lhotse": Entry("lhotse:LhotseShar"),
    "lhotse-buckets": Entry("lhotse:LhotseBuckets"),
    "hf-arrow": Entry("hf:HFArrow"),
    "hf-parquet": Entry("hf:HFParquet"),
    "spdl": Entry("spdl:Spdl"),
    "spdl-fast": Entry("spdl:Spdl", ("dr_flac",)),
    "energon": Entry("energon:Energon"),
    "loose": Entry("loose:LooseFiles"),
    "loose-fast": Entry("loose:LooseFiles", ("dr_flac",)),
    "lmdb-threads": Entry("loose:ByHandOverLmdb"),
}


def make(name: str) -> System:
    """Make the adapter of a system."""
    return SYSTEMS[name].make()
