"""Collate samples whose arrays differ in length into padded batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from audiomdb.data.memory import batch_in_place, uninitialised
from audiomdb.errors import AudioError
from audiomdb.sample import AUDIO, KEY, SAMPLE_RATE

__all__ = ["PaddingSample", "pad_collate"]

_ARRAYS = np.ndarray, torch.Tensor
_NUMBERS = bool, int, float, complex, np.generic
_INTEGERS = int, np.integer, np.bool_
_RATES = int, float, np.integer, np.floating

_MOST_PADDED, _PADDED_ELEMENTS = 64, 1 << 16
"""A padded row may be this many times as large as the largest array, or have this many elements."""


class PaddingSample(dict[str, Any]):
    """A sample dict that torch's default collate batches with `pad_collate`."""

    __slots__ = ()


def pad_collate(
    samples: Sequence[Mapping[str, Any]],
    *,
    masks: bool = False,
    fill: Mapping[str, Any] | None = None,
    collate_fn_map: Mapping[Any, Any] | None = None,  # noqa: ARG001 (torch passes it)
) -> dict[str, Any]:
    """Collate samples into a batch, padding arrays with zeros at their ends.

    A batch has every field that any of its samples has:

    - arrays and tensors: one tensor `(batch, ...)`, as long on each axis as the longest. A field
      `<name>_lengths` (int64) holds the sizes before padding: `(batch,)` for arrays of one axis
      and for `audio`, where it counts frames, `(batch, axes)` for others. A missing array becomes
      a row of zeros of length 0. With `masks`, `<name>_mask` (bool) is True for values and False
      for padding; its shape is `(batch, longest)` if that of the lengths is `(batch,)`, and that
      of the padded field otherwise;
    - numbers and bools: a tensor `(batch,)`;
    - dicts: a dict, batched in the same way;
    - text, bytes, lists, any other values, and numbers and dicts of which one is missing: a list,
      with None for missing values. So are arrays that cannot form one tensor, or whose padded rows
      would be over 64 times as large as the largest of them, and integers that only a float could
      hold, and not exactly: `uint64` beside a signed type, or an `int` of 2**63.

    `fill` gives other values for what is missing, by field: `{"labels": -100, "snr": math.nan}`
    pads the arrays `labels` with -100, and a sample without `snr` has NaN in the tensor of numbers,
    whose dtype then holds this number in every batch. It has no effect on text and lists.

    In a worker process, padded tensors are made in shared memory, so that they reach the training
    process without another copy.

    Args:
        samples: At least one sample.
        masks: Whether to make masks. Pass `functools.partial(pad_collate, masks=True)` to a loader.
        fill: Numbers to pad arrays with, and to put in place of missing numbers, by the name of a
            field; for a field of dicts, such a mapping again.
        collate_fn_map: Not used; torch's default collate passes its own.

    Raises:
        AudioError: `audio` has different numbers of channels.
        ValueError: there are no samples, or the dtype of arrays does not hold a number in `fill`.

    Warns:
        UserWarning: `audio` has different sample rates.
    """
    if not samples:
        raise ValueError("samples is empty, expected at least one sample")
    names = dict.fromkeys(chain.from_iterable(samples))
    batch: dict[str, Any] = {}
    for name in names:
        column = [sample.get(name) for sample in samples]
        if name == AUDIO:
            _check_clips(samples)
        filled = None if fill is None else fill.get(name)
        rows = _Rows.of(column)
        if rows is None:
            batch[name] = _batched(column, masks, filled)
            continue
        if filled:
            _check_fill(name, filled, rows.dtype)
        batch[name] = rows.padded(filled or 0)
        lengths = rows.lengths(frames_only=name == AUDIO)
        if lengths is not None and f"{name}_lengths" not in names:
            batch[f"{name}_lengths"] = lengths
        if masks and lengths is not None and f"{name}_mask" not in names:
            batch[f"{name}_mask"] = _mask(batch[name].shape, lengths)
    return batch


default_collate_fn_map[PaddingSample] = pad_collate


class _Rows:
    """The arrays of one field, with None for missing ones."""

    def __init__(self, column: Sequence[Any], dtype: torch.dtype, axes: int) -> None:
        self._column = column
        self.dtype = dtype
        missing = (0,) * axes
        self._shapes = [missing if row is None else tuple(row.shape) for row in column]
        self._axes = axes

    @classmethod
    def of(cls, column: Sequence[Any]) -> _Rows | None:
        """Return the rows, or None if the values are not arrays that can form one tensor."""
        present = [value for value in column if value is not None]
        if not present or not _are(present, _ARRAYS):
            return None
        if len({value.ndim for value in present}) > 1 or any(map(_is_sparse, present)):
            return None
        if present[0].ndim > 1 and _mostly_padding([tuple(value.shape) for value in present]):
            return None
        dtype = _common_dtype(present)
        if dtype is None or (present[0].ndim == 0 and len(present) < len(column)):
            return None
        return cls(column, dtype, present[0].ndim)

    def padded(self, fill: float = 0) -> torch.Tensor:
        """Return all rows in one tensor, padded with a number that it holds."""
        in_place = None if fill else batch_in_place(self._column, self.dtype)
        if in_place is not None:
            return in_place
        shape = tuple(map(max, *self._shapes)) if len(self._shapes) > 1 else self._shapes[0]
        out = uninitialised((len(self._column), *shape), self.dtype)
        if fill:
            out.fill_(fill)
        try:
            arrays = [None if row is None else _as_array(row) for row in self._column]
            target = out.numpy()
        except TypeError:  # bfloat16 and other dtypes that NumPy does not have
            if not fill:
                out.zero_()
            for i, (row, own) in enumerate(zip(self._column, self._shapes, strict=True)):
                if row is not None:
                    out[_box(i, own)] = torch.as_tensor(row).detach()
            return out
        filled = fill or out.is_shared()  # type: ignore[no-untyped-call]
        # NumPy accepts any array (read-only, reversed, of another byte order) and copies in this
        # thread. torch splits each row over all cores and waits for them, which took 10 ms per row
        # while threads were decoding.
        for i, (array, own) in enumerate(zip(arrays, self._shapes, strict=True)):
            # Shared memory is new and zero; untouched pages are not allocated before they are read.
            for axis, size in enumerate(() if filled else own):
                target[(*_box(i, own[:axis]), slice(size, None))] = 0
            if array is not None:
                target[_box(i, own)] = array
        return out

    def lengths(self, *, frames_only: bool) -> torch.Tensor | None:
        """Return the sizes before padding; None for arrays without axes."""
        if self._axes == 0:
            return None
        if frames_only or self._axes == 1:
            sizes = np.array([shape[0] for shape in self._shapes], np.int64)
        else:
            sizes = np.array(self._shapes, np.int64)
        return torch.from_numpy(sizes)


def _check_fill(name: str, number: Any, dtype: torch.dtype) -> None:  # noqa: ANN401
    """Raise ValueError if a tensor of this dtype does not hold a number."""
    try:
        stored = torch.zeros(1, dtype=dtype).fill_(number).item()
        if dtype.is_floating_point or dtype.is_complex or stored == number:
            return
    except (OverflowError, RuntimeError, TypeError, ValueError):
        pass
    raise ValueError(f"fill[{name!r}] is {number!r}, which {dtype} does not hold")


def _mostly_padding(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a padded row would be much larger than any array: of (1, 9999) and (9999, 1)."""
    row = prod(map(max, *shapes)) if len(shapes) > 1 else 0
    return row > _PADDED_ELEMENTS and row > _MOST_PADDED * max(map(prod, shapes))


def _mask(shape: Sequence[int], lengths: torch.Tensor) -> torch.Tensor:
    """Return a mask that is True where a padded tensor has values."""
    if lengths.ndim == 1:
        return torch.arange(shape[1]) < lengths[:, None]
    mask = torch.ones((), dtype=torch.bool)
    for axis, size in enumerate(shape[1:]):
        inside = torch.arange(size) < lengths[:, axis, None]
        others = [1] * (len(shape) - 1)
        others[axis] = size
        mask = mask & inside.view(shape[0], *others)
    return mask


def _box(row: int, sizes: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Return the index of the part of a row that has the given sizes, from its start."""
    return row, *map(slice, sizes)


def _are(values: Iterable[Any], kinds: tuple[type, ...]) -> bool:
    """Whether all values are of some kinds; fast, since a batch has many values of few types."""
    return all(issubclass(kind, kinds) for kind in set(map(type, values)))


def _is_sparse(value: np.ndarray | torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is not torch.strided


def _as_array(row: np.ndarray | torch.Tensor) -> np.ndarray:
    return row if isinstance(row, np.ndarray) else row.numpy(force=True)


def _common_dtype(arrays: Sequence[Any]) -> torch.dtype | None:
    """Return the dtype that holds the values of all arrays, or None if torch has none."""
    try:
        dtypes = {_torch_dtype(dtype) for dtype in {value.dtype for value in arrays}}
    except TypeError:
        return None
    if len(dtypes) == 1:
        return dtypes.pop()
    return _promoted(frozenset(dtypes))


@lru_cache(maxsize=64)
def _promoted(dtypes: frozenset[torch.dtype]) -> torch.dtype | None:
    # torch promotes wide unsigned integers only together with floats, so floats come first.
    common, *others = sorted(dtypes, key=lambda dtype: not dtype.is_floating_point)
    try:
        for other in others:
            common = torch.promote_types(common, other)
    except RuntimeError:
        return _promoted_by_numpy(dtypes)
    return common


def _promoted_by_numpy(dtypes: frozenset[torch.dtype]) -> torch.dtype | None:
    try:
        known = [torch.empty(0, dtype=dtype).numpy().dtype for dtype in dtypes]
    except TypeError:  # bfloat16 and other dtypes that NumPy does not have
        return None
    common = np.result_type(*known)
    if common.kind == "f" and all(dtype.kind in "biu" for dtype in known):
        return None  # uint64 beside a signed type: floats would round them
    return _torch_dtype(common)


@lru_cache(maxsize=64)
def _torch_dtype(dtype: np.dtype[Any] | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype


def _batched(column: Sequence[Any], masks: bool, fill: Any) -> Any:  # noqa: ANN401
    """Batch values that are not arrays."""
    alike = column
    if fill is not None:
        column = _filled(column, fill)
        if isinstance(fill, _NUMBERS) and _are(column, _NUMBERS):
            alike = [*column, fill]  # the dtype must not depend on whether a number is missing
    if _are(alike, _NUMBERS):
        numbers = np.array(alike)[: len(column)]
        if numbers.dtype.kind == "f" and _are(alike, _INTEGERS):
            return list(column)  # floats would round them
        try:
            return torch.from_numpy(numbers)
        except TypeError:  # text scalars, dates, integers beyond 64 bits
            return list(column)
    if _are(column, (Mapping,)):
        return pad_collate(column, masks=masks, fill=fill)
    return list(column)


def _filled(column: Sequence[Any], fill: Any) -> Sequence[Any]:  # noqa: ANN401
    """Put the number in place of missing numbers, or an empty dict in place of missing dicts."""
    kinds, value = ((Mapping,), {}) if isinstance(fill, Mapping) else (_NUMBERS, fill)
    present = [one for one in column if one is not None]
    if not isinstance(value, kinds) or not _are(present, kinds):
        return column
    return [value if one is None else one for one in column]


def _check_clips(samples: Sequence[Mapping[str, Any]]) -> None:
    """Refuse clips with different numbers of channels, and warn of different sample rates."""
    channels: dict[int, Any] = {}
    rates: set[Any] = set()
    for sample in samples:
        audio = sample.get(AUDIO)
        if isinstance(audio, _ARRAYS) and audio.ndim in (1, 2):
            channels.setdefault(1 if audio.ndim == 1 else audio.shape[1], sample.get(KEY))
            rate = sample.get(SAMPLE_RATE)  # of audio that was not decoded, it may be anything
            rates.add(rate if isinstance(rate, _RATES) else None)
    if len(channels) > 1:
        raise AudioError(
            f"clips with different numbers of channels in one batch ({_listed(channels)}); "
            "make the dataset with mono=True"
        )
    if len(rates) > 1 and None not in rates:
        # No keys or rates in the text: Python shows each text once per place.
        warnings.warn(
            "clips with different sample rates in one batch, as sample_rate tells of each; make "
            "the datasets with sample_rate= to have them all at one",
            stacklevel=3,
        )


def _listed(met: Mapping[int, Any]) -> str:
    return ", ".join(f"{value} in {key!r}" for value, key in met.items())
