"""What the guides do is also right to a type checker: the session `types` reads this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import WeightedRandomSampler

from audiomdb.audio import decode, encode, resample
from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.processors.base import BaseProcessor
from audiomdb.registry import uploader_for
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader
from audiomdb.stream import SampleStream, StepStream
from audiomdb.uploaders.base import BaseUploader
from audiomdb.uploaders.local import LocalUploader
from tests.torch.clips import CLIPS, write_clips

if TYPE_CHECKING:
    from typing_extensions import assert_type  # of `typing` since Python 3.11
else:

    def assert_type(value, kind):  # noqa: ARG001
        return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "clips")


class Loudness(BaseProcessor):
    def process(self, sample: dict[str, Any], **_: Any) -> Mapping[str, float]:
        audio = assert_type(self.load_array(sample["audio"], 16_000), NDArray[np.float32])
        return {"loudness": float((audio**2).mean())}


class Clips(SampleStream):
    def texts(self) -> list[str]:
        return [sample["text"] for sample in self]


class Steps(StepStream):
    def last(self) -> int:
        return self.steps - 1


class Loader(StreamingLoader):
    def shapes(self) -> list[torch.Size]:
        return [batch.shape for batch in self]


def lengths(samples: list[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([len(sample["audio"]) for sample in samples])


def test_audio_is_an_array_of_float32() -> None:
    audio, rate = decode(encode(np.zeros(800, np.float32), 8_000))
    assert_type(audio, NDArray[np.float32])
    assert assert_type(resample(audio, rate, 16_000), NDArray[np.float32]).dtype == np.float32


def test_a_processor_may_promise_a_mapping() -> None:
    assert Loudness().process({"audio": np.ones(800, np.float32)}) == {"loudness": 1.0}


def test_a_subclass_stays_what_it_is_in_a_with_statement(folder: Path) -> None:
    with Clips(folder) as clips:
        assert len(clips.texts()) == CLIPS
    with Steps(folder, 10) as steps:
        assert steps.last() == CLIPS // 10 - 1
    with Loader(StreamingDataset(folder), 10, collate_fn=lengths, num_workers=0) as loader:
        assert loader.shapes() == [(10,)] * (CLIPS // 10)


def test_a_collate_function_takes_a_list_of_dicts(folder: Path) -> None:
    dataset = StreamingDataset(folder, batch_size=10, collate_fn=lengths)
    assert [batch.shape for batch in dataset] == [(10,)] * (CLIPS // 10)


def test_a_dataset_has_a_retriever_to_open(folder: Path) -> None:
    assert len(assert_type(StreamingDataset(folder).retriever, BaseRetriever).open()) == CLIPS


def test_a_dataset_made_from_an_open_reader_says_that_it_has_no_retriever(folder: Path) -> None:
    with DatasetReader.open(folder) as reader:
        dataset = StreamingDataset(reader)
        with pytest.raises(TypeError, match="an open reader"):
            _ = dataset.retriever


def test_durations_are_weights_for_a_sampler(folder: Path) -> None:
    view = StreamingDataset(folder).as_map()
    assert len(list(WeightedRandomSampler(view.durations.tolist(), num_samples=5))) == 5


def test_an_upload_has_a_report(folder: Path, tmp_path: Path) -> None:
    assert LocalUploader(tmp_path / "a").upload_dir(folder).sent_files > 0
    assert uploader_for(tmp_path / "b").upload_dir(folder).sent_files > 0


def test_an_upload_dir_of_ones_own_may_return_nothing(folder: Path) -> None:
    class Counts(BaseUploader):
        files = 0

        def upload_dir(self, local_dir: Any) -> None:
            self.files = len(list(self.iter_files(local_dir)))

    uploader = Counts()
    uploader.upload_dir(folder)
    assert uploader.files > 0
