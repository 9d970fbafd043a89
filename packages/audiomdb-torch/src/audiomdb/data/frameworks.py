"""Noticing what a framework does with a dataset that cannot be told."""

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
"""Classes that iterate an `IterableDataset` and give each process a part of it."""


def split_by_framework(dataset: object) -> bool:
    """Whether an iteration that begins now is one whose samples Accelerate shares out.

    `Accelerator.prepare`, and with it the transformers Trainer, wraps a `DataLoader` over an
    iterable dataset in one of two ways: every process reads everything and drops what is for
    others, or the first one reads and sends the others theirs. A dataset that splits by itself
    would lose the parts of all ranks but one, and nobody would say so. There is nothing to ask, but
    whoever wraps is among the callers: in this process, and in a forked worker, whose callers are
    its parent's.

    Warns when it finds one, since both ways waste what the plan could save.
    """
    if not any(name in sys.modules for name in _SPLITTERS):
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = _SPLITTERS.get(frame.f_globals.get("__name__", ""))
        # Only there: looking at a frame's variables keeps them alive for a while.
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
    """Whether it is torchdata's `StatefulDataLoader` that asks for a dataset's state.

    It counts passes, and takes a dataset's state for a place in the pass that it is in: where
    nothing is left of that, it wants its end, and not the beginning of another.
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
    """What Lightning looks for at a loader, to say which of its epochs it begins.

    It says so to the `set_epoch` of `loader.batch_sampler.sampler`. That is the only word about a
    run that goes on from a checkpoint which was written between epochs: it loads no state then.
    (It would take `loader.sampler`, too, but `overfit_batches` would want to replace that.)

    Args:
        begin: Called with the number of passes that came before.
    """

    def __init__(self, begin: Callable[[int], None]) -> None:
        self.set_epoch = begin

    @property
    def sampler(self) -> PassesOfLightning:
        """This object."""
        return self


def _splits(wrapper: Any, names: set[str], dataset: object) -> bool:  # noqa: ANN401 (theirs)
    if not any(kind.__name__ in names for kind in type(wrapper).__mro__):
        return False
    inner = getattr(wrapper, "dataset", None)
    return inner is dataset or getattr(inner, "dataset", None) is dataset
