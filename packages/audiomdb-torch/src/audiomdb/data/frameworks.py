"""Detect what frameworks do with a dataset, and receive Lightning's epochs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["PassesOfLightning", "asked_by_stateful_loader", "split_by_framework"]

_SPLITTERS = {
    "accelerate.data_loader": {"DataLoaderDispatcher", "IterableDatasetShard"},
    "transformers.trainer_pt_utils": {"IterableDatasetShard"},
}
"""Classes that iterate over an `IterableDataset` and give each process a part of it."""


def split_by_framework(dataset: object) -> bool:
    """Whether Accelerate splits the samples of an iteration that begins now.

    `Accelerator.prepare`, and with it the transformers Trainer, wraps a `DataLoader` over an
    iterable dataset in one of two ways: every process reads everything and drops the samples of the
    others, or the first process reads everything and sends the others their samples. A dataset that
    splits itself would silently lose the parts of all ranks but one. No interface reveals the
    wrapper, but it is among the callers: in this process, and in a forked worker, which inherits
    the callers of its parent.

    Warns if it finds a wrapper, since both ways read more than the plan requires.
    """
    if not any(name in sys.modules for name in _SPLITTERS):
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = _SPLITTERS.get(frame.f_globals.get("__name__", ""))
        # Only in these modules, because reading a frame's variables keeps them alive for a while.
        if names is not None and _splits(frame.f_locals.get("self"), names, dataset):
            warnings.warn(
                "Accelerate shares this dataset's samples out among the processes, so each of them "
                "reads all of it, or the first one for all, which can send the others nothing but "
                "batches of tensors of one size (no text, no padding that differs). Give a "
                "StreamingLoader to Accelerate, which leaves it alone, or return it from the "
                "Trainer's get_train_dataloader",
                stacklevel=2,
            )
            return True
        frame = frame.f_back
    return False


def asked_by_stateful_loader() -> bool:
    """Whether torchdata's `StatefulDataLoader` is the one asking for a dataset's state.

    It counts passes, and interprets a dataset's state as a place in the current pass: if nothing is
    left of that pass, it needs the end of the pass and not the start of another.
    """
    if "torchdata" not in sys.modules:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("torchdata."):
            return True
        frame = frame.f_back
    return False


class PassesOfLightning:
    """A stand-in for a loader's `batch_sampler`, through which Lightning announces its epochs.

    Lightning calls `set_epoch` of `loader.batch_sampler.sampler`. This is the only information
    about a run that is resumed from a checkpoint written between epochs, since Lightning loads no
    state then. (It would also use `loader.sampler`, but `overfit_batches` would replace that.)

    Args:
        begin: Called with the number of passes that came before.
    """

    def __init__(self, begin: Callable[[int], None]) -> None:
        self.set_epoch = begin

    @property
    def sampler(self) -> PassesOfLightning:
        """This object itself."""
        return self


def _splits(wrapper: Any, names: set[str], dataset: object) -> bool:  # noqa: ANN401 (theirs)
    if not any(kind.__name__ in names for kind in type(wrapper).__mro__):
        return False
    inner = getattr(wrapper, "dataset", None)
    return inner is dataset or getattr(inner, "dataset", None) is dataset
