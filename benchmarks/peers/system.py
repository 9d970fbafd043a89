# ruff: noqa: ARG002 (a method that a system may leave out has arguments that nobody looks at)
"""What every system that takes part offers, set up as its own documentation recommends.

An adapter is small on purpose: it shows how a user of that library would do the work, and nothing
of how it is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchmarks.corpus import Corpus

__all__ = [
    "SHARD_BYTES",
    "Batch",
    "Kind",
    "Loader",
    "NotOfferedError",
    "Settings",
    "System",
    "Wish",
    "clip_name",
    "consume",
    "place",
]

Kind = Literal["ours", "peer", "floor", "by hand"]

SHARD_BYTES = 64 << 20
"""Size of a shard where a library has no default of its own; the default of most."""


class NotOfferedError(Exception):
    """A system cannot do a piece of work; the message says why, for the table's footnote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that are searched for each system before its loader is measured.

    Attributes:
        workers: Worker processes.
        threads: Threads that decode, in each worker, if the system has such threads.
        decoder: Name of the decoder, see `benchmarks.peers.decoders`; empty if the system has a
            decoder of its own.
    """

    workers: int = 0
    threads: int = 0
    decoder: str = ""

    def label(self) -> str:
        """The settings as text for tables."""
        parts = [f"{self.workers} workers"]
        if self.threads:
            parts.append(f"{self.threads} threads")
        if self.decoder:
            parts.append(self.decoder)
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of every loader.

    Attributes:
        batch_size: Clips in a batch.
        shuffle: A new order each epoch; False where only the loader's own costs are of interest.
        stateful: Whether `state` will be called, for which some systems use another loader.
    """

    batch_size: int = 16
    shuffle: bool = True
    stateful: bool = False


def place() -> tuple[int, int]:
    """Rank and world size, as launchers set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(slots=True)
class Batch:
    """A batch of a loader: padded audio, the true lengths, and the names of the clips."""

    audio: torch.Tensor
    """float32, `(clips, frames)`."""

    lengths: torch.Tensor
    """Frames of each clip."""

    keys: Sequence[str]
    """Their names; `clip_name` makes those of all systems alike."""


class Loader:
    """Shuffled epochs of padded batches. A system overrides `__iter__` or `whole_pass`."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch."""
        raise NotImplementedError

    def whole_pass(self) -> int:
        """Go through one epoch as a training loop would and return its frames."""
        return sum(consume(batch) for batch in self)

    def state(self) -> Any:  # noqa: ANN401 (each library's own)
        """The state that a checkpoint keeps after some batches."""
        raise NotOfferedError("keeps no state")

    def resume(self, state: Any) -> None:  # noqa: ANN401
        """Make the next iteration go on from a state. Called on a new loader."""
        raise NotOfferedError("keeps no state")


def clip_name(key: str) -> str:
    """Name of the file that a key was made of, without folder and suffix."""
    return key.rsplit("/", 1)[-1].split(".")[0]


def consume(batch: Batch) -> int:
    """Do the least that a training step does: touch every page of the batch. Returns its frames."""
    audio = batch.audio.numpy()
    # One value a page: memory that nobody has touched yet costs its time here, as it would where
    # the batch is copied to a device.
    float(audio.ravel()[::1024].sum())
    return int(batch.lengths.sum())


class System:
    """One way to keep clips on a disk and to read them. Methods not overridden are not offered."""

    name: str
    kind: Kind = "peer"
    distributions: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions are part of the report."""
    keeps_bytes: ClassVar[bool] = True
    """Whether audio stays encoded as it came."""
    exact_epochs: ClassVar[bool] = True
    """Whether a shuffled pass has each clip once; otherwise it has about as many."""
    splits: ClassVar[bool] = True
    """Whether it divides an epoch among ranks and workers."""
    twin: bool = False
    """Whether it differs from another system by its decoder alone: only its speed matters then."""
    dataset_of: str | None = None
    """The system whose datasets this one reads, where it has none of its own."""
    takes_part_in: Collection[str] = ("raw", "decoded", "loader", "write_tiny")
    """Methods that are measured; a variant leaves out what would be the same."""
    corpora: Collection[str] = ("speech", "digits")
    """What it is measured on; a variant leaves out what would be the same there."""
    modules: ClassVar[tuple[str, ...]] = ()
    """What its user imports; that is done before writing and cold reading are measured."""
    notes: ClassVar[str] = ""
    """Handicaps, and what was chosen where the documentation leaves a choice."""

    def prepare(self) -> None:
        """Import the library."""
        for name in self.modules:
            import_module(name)

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Write the files of a corpus as a dataset of this system, in a new folder."""
        raise NotOfferedError("has no format of its own")

    def files(self, folder: Path) -> list[Path]:
        """All files that `write` made."""
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[Any]]:
        """Open a dataset; each call yields the encoded bytes of all clips once, in this process."""
        raise NotOfferedError("does not hand out encoded bytes")

    def random(self, folder: Path) -> Callable[[int], Any]:
        """Open a dataset; calls return the encoded bytes of the clip at a position."""
        raise NotOfferedError("has no random access")

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """Open a dataset; each call yields all clips as float32 once, in the calling thread."""
        raise NotOfferedError("does not decode")

    def settings(self, cores: int) -> list[Settings]:
        """Settings worth trying for `loader`, best guess first."""
        workers = sorted({0, 1, *range(2, 2 * cores + 1)})
        return [Settings(workers=number, decoder="soundfile") for number in workers]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """Open a dataset and return a loader of its epochs in padded batches."""
        raise NotOfferedError("has no loader")

    def write_tiny(self, folder: Path, samples: int) -> None:
        """Write very many samples of a number and a short text, for measuring how it opens."""
        raise NotOfferedError("was not tried")

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """Open what `write_tiny` made and return the first sample in stored order."""
        raise NotOfferedError("was not tried")

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """Open what `write_tiny` made and return the first sample of a shuffled epoch."""
        raise NotOfferedError("was not tried")
