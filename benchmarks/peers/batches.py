# mypy: disable-error-code="import-not-found, import-untyped"
"""Padding and loaders as a user writes them, for systems that leave both to their user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks.peers.system import Batch

__all__ = ["Named", "data_loader", "pad", "pad_rows"]

Named = tuple[str, np.ndarray]
"""Key and samples of a clip."""


def pad(clips: Sequence[Named]) -> Batch:
    """A batch of clips, padded with zeros at their ends."""
    arrays = [torch.from_numpy(audio) for _, audio in clips]
    lengths = torch.tensor([len(array) for array in arrays])
    return Batch(pad_sequence(arrays, batch_first=True), lengths, [key for key, _ in clips])


def pad_rows(clips: Sequence[Named]) -> Batch:
    """The same by NumPy: in a process that decodes in threads, torch's own get in the way."""
    lengths = [len(audio) for _, audio in clips]
    audio = torch.empty(len(clips), max(lengths))
    rows = audio.numpy()
    for row, (_, samples) in zip(rows, clips, strict=True):
        row[: len(samples)] = samples
        row[len(samples) :] = 0
    return Batch(audio, torch.tensor(lengths), [key for key, _ in clips])


def data_loader(dataset: Any, *, stateful: bool, **options: Any) -> Any:  # noqa: ANN401
    """Torch's loader with workers that stay, or torchdata's where a state will be asked for."""
    options.setdefault("persistent_workers", options.get("num_workers", 0) > 0)
    if not stateful:
        return DataLoader(dataset, **options)
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(dataset, **options)
