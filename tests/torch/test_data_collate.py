"""Batches of samples that differ in length and fields."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from audiomdb.data.collate import PaddingSample, pad_collate
from audiomdb.errors import AudioError


def column(*values: Any) -> dict[str, Any]:
    return pad_collate([{"x": value} for value in values])


def test_audio_is_padded_with_zeros_at_its_end() -> None:
    clips = [np.full(n, n, np.float32) for n in (3, 5, 1)]
    batch = pad_collate([{"audio": clip} for clip in clips])
    assert batch["audio"].dtype == torch.float32
    assert batch["audio"].tolist() == [[3, 3, 3, 0, 0], [5, 5, 5, 5, 5], [1, 0, 0, 0, 0]]
    assert batch["audio_lengths"].tolist() == [3, 5, 1]
    assert batch["audio_lengths"].dtype == torch.int64


def test_lengths_are_there_when_nothing_was_padded() -> None:
    batch = pad_collate([{"audio": np.zeros(4, np.float32)}] * 2)
    assert batch["audio_lengths"].tolist() == [4, 4]


def test_audio_of_several_channels_counts_frames() -> None:
    batch = pad_collate([{"audio": np.ones((n, 2), np.float32)} for n in (2, 3)])
    assert batch["audio"].shape == (2, 3, 2)
    assert batch["audio"][0].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert batch["audio_lengths"].tolist() == [2, 3]


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_different_numbers_of_channels_are_refused_by_name(shape: tuple[int, ...]) -> None:
    samples = [
        {"__key__": "a", "audio": np.zeros((4, 2), np.float32)},
        {"__key__": "b", "audio": np.zeros(shape, np.float32)},
    ]
    with pytest.raises(AudioError, match=r"2 in 'a', [13] in 'b'.*mono=True"):
        pad_collate(samples)


@pytest.mark.parametrize("number", [int, np.int32])
def test_different_sample_rates_are_warned_of_once(number: type) -> None:
    def clip(name: int, rate: int) -> dict[str, Any]:
        audio = np.zeros(4, np.float32)
        return {"__key__": str(name), "audio": audio, "sample_rate": number(rate)}

    samples = [clip(1, 16000), clip(2, 22050)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for batch in [[clip(3, 22050), clip(4, 16000)], [clip(5, 8000), clip(6, 48000)], samples]:
            batched = pad_collate(batch)
    (warning,) = said
    assert "different sample rates" in str(warning.message)
    assert "with sample_rate=" in str(warning.message)
    assert batched["sample_rate"].tolist() == [16000, 22050]
    # Encoded clips are a list, and numbers without a clip are numbers.
    assert pad_collate([{**one, "audio": b"fLaC"} for one in samples])["audio"] == [b"fLaC"] * 2
    rates = [{"sample_rate": one["sample_rate"]} for one in samples]
    assert pad_collate(rates)["sample_rate"].tolist() == [16000, 22050]


def test_arrays_of_several_axes_are_padded_on_each() -> None:
    batch = column(np.ones((2, 3)), np.ones((4, 1)))
    assert batch["x"].shape == (2, 4, 3)
    assert batch["x"].sum() == 10
    assert batch["x_lengths"].tolist() == [[2, 3], [4, 1]]


def test_masks_say_where_values_are() -> None:
    samples = [
        {
            "audio": np.ones((n, 2), np.float32),
            "mel": np.ones((2, n), np.float32),
            "ids": np.arange(n),
            "nested": {"x": np.ones(n)},
            "text": "a",
        }
        for n in (1, 3)
    ]
    batch = pad_collate([*samples, {"text": "b"}], masks=True)
    expected = [[True, False, False], [True] * 3, [False] * 3]
    assert batch["audio_mask"].tolist() == batch["ids_mask"].tolist() == expected
    for name in ("audio", "mel", "ids"):
        mask = batch[f"{name}_mask"]
        assert torch.equal(
            mask if name != "audio" else mask[..., None].expand(3, 3, 2), mask_of(batch, name)
        )
    assert isinstance(batch["nested"], list)
    assert pad_collate(samples, masks=True)["nested"]["x_mask"].tolist() == expected[:2]
    assert not any("mask" in name for name in pad_collate(samples))


def mask_of(batch: dict[str, Any], name: str) -> torch.Tensor:
    """Of a field whose values are not zero, but for the first id."""
    values: torch.Tensor = batch[name] != 0
    if name == "ids":
        values[:2, 0] = True
    return values


def test_tensors_are_padded_like_arrays() -> None:
    batch = column(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), torch.ones(3))
    assert batch["x"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["x"].dtype == torch.float32
    assert not batch["x"].requires_grad
    half = column(torch.ones(1, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16), None)
    assert half["x"].dtype == torch.bfloat16
    assert half["x"].tolist() == [[1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5)[::-1],
        np.broadcast_to(np.float32(2), (5,)),
        np.arange(5, dtype=">i4"),
        np.arange(20, dtype=np.int16)[::4],
        np.array([True, False]),
        np.zeros(0, np.float32),
    ],
)
def test_arrays_of_any_layout_are_taken(array: np.ndarray) -> None:
    array.flags.writeable = False
    batch = column(array, array)
    assert batch["x"].tolist() == [array.tolist(), array.tolist()]


def test_a_missing_array_is_a_row_of_length_0() -> None:
    batch = pad_collate([{"audio": np.ones(2, np.float32)}, {"text": "only text"}])
    assert batch["audio"].tolist() == [[1, 1], [0, 0]]
    assert batch["audio_lengths"].tolist() == [2, 0]
    assert batch["text"] == [None, "only text"]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays_are_padded_with_the_number_asked_for(kind: Any) -> None:
    labels = [kind(np.array(row, np.int64)) for row in ([1, 2, 3], [4])]
    batch = pad_collate([{"labels": row} for row in labels] + [{}], fill={"labels": -100})
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100], [-100] * 3]
    assert batch["labels_lengths"].tolist() == [3, 1, 0]
    clips = [{"audio": np.ones(n, np.float32)} for n in (1, 2)]
    assert pad_collate(clips, fill={"audio": 0.5})["audio"].tolist() == [[1, 0.5], [1, 1]]
    nested = pad_collate([{"of": {"x": row}} for row in labels], fill={"of": {"x": 7}})
    assert nested["of"]["x"].tolist() == [[1, 2, 3], [4, 7, 7]]
    half = [{"x": torch.ones(n, dtype=torch.bfloat16)} for n in (1, 2)]
    assert pad_collate(half, fill={"x": -1})["x"].tolist() == [[1, -1], [1, 1]]


def test_missing_numbers_are_filled_so_that_every_batch_has_a_tensor() -> None:
    fill = {"snr": math.nan, "speaker": -1}
    batch = pad_collate([{"snr": 1.5, "speaker": 3}, {"text": "no numbers"}], fill=fill)
    assert batch["speaker"].tolist() == [3, -1]
    assert batch["snr"][0] == 1.5
    assert batch["snr"].isnan().tolist() == [False, True]
    assert batch["text"] == [None, "no numbers"]
    without = pad_collate([{"snr": None}], fill=fill)["snr"]
    assert without.isnan().all()
    nested = pad_collate([{"of": {"x": 1}}, {}], fill={"of": {"x": 7}})
    assert nested["of"]["x"].tolist() == [1, 7]
    assert pad_collate([{"text": "a"}, {}], fill={"text": 0})["text"] == ["a", None]


@pytest.mark.parametrize(("values", "number"), [((1, 2), math.nan), ((True, False), -1)])
def test_the_dtype_of_filled_numbers_is_the_same_in_every_batch(
    values: tuple[Any, Any], number: float
) -> None:
    rows: list[dict[str, Any]] = [{"x": value} for value in values]
    whole = pad_collate(rows, fill={"x": number})["x"]
    gappy = pad_collate([rows[0], {}], fill={"x": number})["x"]
    assert whole.dtype == gappy.dtype
    assert whole.tolist() == list(values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.bool_])
@pytest.mark.parametrize("number", [-200, 0.5, math.nan, 2**70])
def test_a_number_that_a_field_cannot_hold_is_refused_by_name(dtype: Any, number: float) -> None:
    rows = [{"x": np.ones(n, dtype)} for n in (1, 2)]
    with pytest.raises(ValueError, match=r"fill\['x'\] is .*, which torch\..* does not hold"):
        pad_collate(rows, fill={"x": number})


def test_numbers_become_a_tensor() -> None:
    assert column(1, 2)["x"].dtype == torch.int64
    assert column(1, 2.5)["x"].tolist() == [1, 2.5]
    assert column(0.5, 1.5)["x"].dtype == torch.float64
    assert column(True, False)["x"].dtype == torch.bool
    assert column(np.float32(1), np.float32(2))["x"].dtype == torch.float32
    assert column(np.array(1), np.array(2))["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "values",
    [
        ("a", "b"),
        (b"a", b"bc"),
        ("a", None),
        (1, None),
        (None, None),
        ([1, 2], [3]),
        (1, "a"),
        ({"a": 1}, None),
        (2**80, 1),
        (2**63 + 1, 5),
        (-1, 2**63),
        (np.uint64(2**63 + 1), np.int64(5)),
        (np.datetime64("2020-01-01"), np.datetime64("2021-01-01")),
        (np.array(1), None),
    ],
)
def test_values_that_make_no_tensor_stay_a_list(values: tuple[Any, ...]) -> None:
    assert column(*values) == {"x": list(values)}


def test_integers_of_64_bits_are_never_rounded() -> None:
    large = column(np.uint64(2**63 + 1), np.uint64(2**64 - 1))["x"]
    assert (large.dtype, large.tolist()) == (torch.uint64, [2**63 + 1, 2**64 - 1])
    assert column(np.uint64(7), True)["x"].dtype == torch.uint64


@pytest.mark.parametrize(
    ("kinds", "common"),
    [
        (("u2", "i4"), torch.int32),
        (("u2", "i2"), torch.int32),
        (("u4", "u8", "?"), torch.uint64),
        (("u4", "i4"), torch.int64),
        (("u8", "f4"), torch.float32),
        (("u2", "i4", "f4"), torch.float32),
    ],
)
def test_arrays_of_mixed_types_get_a_common_type(
    kinds: tuple[str, ...], common: torch.dtype
) -> None:
    arrays = [np.ones(n, kind) for n, kind in enumerate(kinds, start=1)]
    for rows in (arrays, arrays[::-1], [torch.from_numpy(array) for array in arrays]):
        found = column(*rows)["x"]
        assert found.dtype == common
        assert found.sum() == sum(map(len, arrays))


def test_arrays_that_fit_no_tensor_stay_a_list() -> None:
    for odd, other in (
        (np.array(["a", "b"]), "f8"),
        (np.zeros(2, "datetime64[s]"), "f8"),
        (np.zeros((2, 2)), "f8"),
        (np.zeros(2, np.uint64), "i8"),
    ):
        plain = np.zeros(2, other)
        found = column(plain, odd)["x"]
        assert isinstance(found, list)
        assert found[0] is plain


@pytest.mark.parametrize(
    "shapes", [[(1, 100_000), (100_000, 1)], [(0, 2**40), (2, 1)], [(2**40, 0), (1, 2), (3, 3)]]
)
def test_arrays_that_need_excessive_padding_stay_a_list(
    shapes: list[tuple[int, int]],
) -> None:
    rows = [np.zeros(shape, np.int8) for shape in shapes]
    batch = pad_collate([{"x": row} for row in rows])
    assert batch == {"x": rows}


def test_undecoded_audio_may_have_any_sample_rate() -> None:
    audio = np.zeros(5, np.float32)
    rates: list[Any] = [[], "8 kHz", 8000]
    batch = pad_collate([{"audio": audio, "sample_rate": rate} for rate in rates])
    assert batch["sample_rate"] == rates


def test_sparse_tensors_stay_a_list() -> None:
    batch = pad_collate([{"x": torch.eye(size).to_sparse()} for size in (2, 3)])
    assert [one.shape for one in batch["x"]] == [(2, 2), (3, 3)]


def test_dicts_are_batched_inside() -> None:
    batch = column({"snr": 1.5, "who": "ann"}, {"snr": 2.5})
    assert batch["x"]["snr"].tolist() == [1.5, 2.5]
    assert batch["x"]["who"] == ["ann", None]


def test_a_field_of_the_users_is_not_overwritten() -> None:
    batch = pad_collate([{"audio": np.zeros(3, np.float32), "audio_lengths": 99}])
    assert batch["audio_lengths"].tolist() == [99]


def test_samples_are_not_changed() -> None:
    audio = np.ones(3, np.float32)
    batch = pad_collate([{"audio": audio}])
    batch["audio"].zero_()
    assert audio.tolist() == [1, 1, 1]


def test_torchs_default_collate_pads_the_samples_of_a_dataset() -> None:
    samples = [PaddingSample(audio=np.ones(n, np.float32), text=str(n), note=None) for n in (1, 2)]
    batch = default_collate(samples)
    assert type(batch) is dict
    assert batch["audio"].shape == (2, 2)
    assert batch["text"] == ["1", "2"]
    assert batch["note"] == [None, None]
