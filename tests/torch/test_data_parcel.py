"""What worker processes hand over arrives as it was, by whichever way."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.data.parcel import Parcel
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int64,
    torch.uint16,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
)


def sent(contents: object) -> Any:
    """What arrives; this process plays both sides."""
    return pickle.loads(ForkingPickler.dumps(Parcel(contents)))


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 7), max_size=4),
    st.sampled_from([1, 40_000]),
)
def test_a_tensor_arrives_with_its_type_shape_and_values(
    dtype: torch.dtype, shape: list[int], times: int
) -> None:
    size = int(np.prod(shape, dtype=int)) * times
    tensor = torch.arange(size).to(dtype).reshape([*shape, times] if times > 1 else shape)
    copy = sent({"a": [tensor]})["a"][0]
    assert copy.dtype == tensor.dtype
    assert copy.shape == tensor.shape
    assert torch.equal(copy, tensor)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_with_more_than_values_arrive_too() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    leaf = torch.ones(3, requires_grad=True)
    contents: dict[str, Any] = {
        "column": whole[:, 1],
        "turned": whole.T,
        "tail": whole[2:],
        "leaf": leaf,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "sparse": torch.eye(3).to_sparse(),
        "twice": [leaf, leaf],
        "array": np.arange(3),
    }
    copy = sent(contents)
    for name in ("column", "turned", "tail", "leaf", "parameter"):
        assert torch.equal(copy[name], contents[name]), name
    assert copy["leaf"].requires_grad
    assert isinstance(copy["parameter"], torch.nn.Parameter)
    assert torch.equal(copy["sparse"].to_dense(), torch.eye(3))
    assert copy["twice"][0] is copy["twice"][1]
    assert copy["array"].tolist() == [0, 1, 2]


def test_only_large_tensors_take_shared_memory() -> None:
    small, large = sent([torch.zeros(1000), torch.zeros(1_000_000)])
    assert not small.is_shared()
    assert large.is_shared()
    small += 1  # and is the receiver's own
    assert small.sum() == 1000


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parcel") / "clips"
    with DatasetWriter(path) as writer:
        for i in range(12):
            audio = np.full(20_000 if i % 4 == 0 else 300, i / 64, np.float32)
            writer.write(f"{i:02d}", {"audio": audio, "sample_rate": 8000, "text": str(i)})
    return path


def loader(clips: Path, collate: Callable[..., Any], **how: Any) -> StreamingLoader:
    dataset = StreamingDataset(LocalRetriever(clips), 1)
    return StreamingLoader(dataset, 4, collate_fn=collate, **how)


def of_all_kinds(samples: Sequence[Any]) -> Any:
    audio = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s["audio"]) for s in samples])
    lengths = [len(s["audio"]) for s in samples]
    return {
        "padded": audio,
        "small": torch.tensor(lengths),
        "half": torch.tensor(lengths).bfloat16(),
        "number": torch.tensor(lengths[0]),
        "none": torch.empty(0, 3),
        "text": [s["text"] for s in samples],
    }


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_batches_of_workers_are_those_of_threads(clips: Path, start: str) -> None:
    expected = list(loader(clips, of_all_kinds))
    with loader(clips, of_all_kinds, num_workers=2, multiprocessing_context=start) as workers:
        batches = list(workers)
    assert len(batches) == len(expected) == 3
    for batch, other in zip(batches, expected, strict=True):
        assert batch.pop("text") == other.pop("text")
        for name, tensor in other.items():
            assert batch[name].dtype == tensor.dtype, name
            assert torch.equal(batch[name], tensor), name
        assert batch["padded"].is_shared()
        assert not batch["small"].is_shared()


def unsendable(samples: Sequence[Any]) -> Any:
    return {"text": [s["text"] for s in samples], "how": lambda: None}


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_batch_that_cannot_be_sent_is_an_error_in_the_loop(
    clips: Path, device: str | None
) -> None:
    """And no wait for ever: torch's queue prints such an error and goes on."""
    with (
        loader(clips, unsendable, num_workers=1, device=device) as workers,
        pytest.raises((AttributeError, pickle.PicklingError), match="<lambda>"),
    ):
        next(iter(workers))
