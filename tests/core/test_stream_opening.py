"""`open_dataset`: from a URL, a path or a retriever to a stream, options sorted out."""

from __future__ import annotations

import inspect
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import (
    DatasetNotFoundError,
    InvalidURLError,
    UnknownOptionError,
    UnknownSchemeError,
)
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import Mixture, Part, SampleStream, StepStream, open_dataset

CACHING = {"cache_dir", "max_cache_bytes", "prefetch", "workers"}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opening") / "speech"
    with DatasetWriter(folder, samples_per_shard=2) as writer:
        for number in range(6):
            audio = np.full(800, number / 8, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 8000, "n": number})
    return folder


def test_open_dataset_streams_a_folder_like_sample_stream(speech: Path) -> None:
    for source in (str(speech), speech, speech.as_uri(), LocalRetriever(speech)):
        with open_dataset(source, shuffle=True, seed=3, sample_rate=16_000) as stream:
            assert type(stream) is SampleStream
            assert len(stream) == 6
            assert stream["clip-4"]["n"] == 4
            got = [(s["__key__"], s["audio"].shape) for s in stream]
        wanted = SampleStream(speech, shuffle=True, seed=3, sample_rate=16_000)
        assert got == [(s["__key__"], s["audio"].shape) for s in wanted]


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def test_open_dataset_has_every_stream_option_with_the_same_default() -> None:
    here, there = parameters(open_dataset), parameters(SampleStream.__init__)
    assert [name for name in there if name not in {"self", *here}] == []
    for name in there.keys() - {"self", "source"}:
        assert here[name].default == there[name].default, name
        assert here[name].annotation == there[name].annotation, name
    assert here.keys() - there.keys() == CACHING | {"backend"}
    assert here.keys() >= parameters(BaseRetriever.__init__).keys() - {"self"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of two channels, of 0.1 to 0.8 s, in four shards."""
    folder = tmp_path_factory.mktemp("opening") / "clips"
    with DatasetWriter(folder, samples_per_shard=2) as writer:
        for number in range(8):
            audio = np.full((100 * (number + 1), 2), number, np.int16)
            sample = {"audio": audio, "sample_rate": 1000, "duration": (number + 1) / 10}
            writer.write(f"clip-{number}", {**sample, "n": number})
    return folder


def all_but_the_fourth(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["n"] == 3:
        raise ValueError("not this one")
    return sample


def read(stream: SampleStream) -> list[dict[str, Any]] | str:
    """What a stream gives, or the error that it ends with."""
    try:
        return [
            {**sample, "audio": (audio.shape, audio.dtype.str)} if audio is not None else sample
            for sample in stream
            for audio in [sample.get("audio")]
        ]
    except ValueError as error:
        return str(error)


OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "shuffle": (True, {}),
    "seed": (1, {"shuffle": True}),
    "window": (0, {"shuffle": True}),
    "min_duration": (0.35, {}),
    "max_duration": (0.35, {}),
    "where": (lambda columns: columns["n"] % 2 == 1, {}),
    "partitions": (2, {}),
    "rank": (1, {"world_size": 2}),
    "world_size": (3, {"rank": 0}),
    "worker": (1, {"num_workers": 2}),
    "num_workers": (3, {"worker": 0}),
    "tail": ("pad", {"rank": 2, "world_size": 3}),
    "fields": (("n",), {}),
    "decode": (False, {}),
    "sample_rate": (500, {}),
    "mono": (True, {}),
    "processor": (lambda sample: {**sample, "seen": True}, {}),
    "on_error": ("skip", {"processor": all_but_the_fourth}),
    "epochs": (2, {}),
}
"""Each option of a stream, with a value and with the options that it needs beside it."""


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_reaches_the_stream(clips: Path, name: str) -> None:
    value, beside = OPTIONS[name]
    with open_dataset(clips, **beside, **{name: value}) as stream:
        got = read(stream)
    assert got == read(SampleStream(clips, **beside, **{name: value}))
    assert got != read(SampleStream(clips, **{"rank": 0, "worker": 0, **beside}))


@pytest.mark.parametrize("num_threads", [0, 2])
def test_the_number_of_threads_reaches_the_stream(clips: Path, num_threads: int) -> None:
    elsewhere = threading.Event()

    def process(sample: dict[str, Any]) -> dict[str, Any]:
        if threading.current_thread() is not threading.main_thread():
            elsewhere.set()
        elif num_threads:
            assert elsewhere.wait(60)
        return sample

    with open_dataset(clips, num_threads=num_threads, processor=process) as stream:
        assert len(list(stream)) == 8
    assert elsewhere.is_set() == (num_threads > 0)


def test_each_option_is_tried() -> None:
    others = CACHING | {"source", "backend", "num_threads"}
    assert OPTIONS.keys() == parameters(open_dataset).keys() - others


def test_nothing_is_read_before_the_first_use(tmp_path: Path) -> None:
    stream = open_dataset(tmp_path / "nothing", max_cache_bytes=1)
    with pytest.raises(DatasetNotFoundError, match="nothing"):
        len(stream)
    with pytest.raises(InvalidURLError):
        open_dataset("file://elsewhere/x")


def test_an_unknown_option_is_named_beside_the_one_that_was_meant(speech: Path) -> None:
    with pytest.raises(UnknownOptionError, match=r"'shufle'; did you mean 'shuffle'\?") as error:
        open_dataset(speech, shufle=True)
    assert isinstance(error.value, TypeError)
    with pytest.raises(UnknownOptionError, match=r"with a LocalRetriever, takes no option 'end"):
        open_dataset(speech, endpoint_url="http://localhost")


@pytest.mark.parametrize("name", [*sorted(CACHING), "endpoint_url"])
def test_open_dataset_refuses_options_for_an_existing_retriever(speech: Path, name: str) -> None:
    option: dict[str, Any] = {name: 1}
    with pytest.raises(UnknownOptionError, match=rf"'{name}' beside a retriever"):
        open_dataset(LocalRetriever(speech), **option)


class Watched(LocalRetriever):
    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


def test_a_retriever_that_was_given_stays_open(speech: Path) -> None:
    retriever = Watched(speech)
    with open_dataset(retriever) as stream:
        assert len(list(stream)) == 6
    assert retriever.closed == 0


def test_what_was_opened_for_the_stream_is_closed_with_it(
    speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Watched] = []

    def watched(url: str) -> Watched:
        opened.append(Watched(url))
        return opened[-1]

    monkeypatch.setattr(LocalRetriever, "from_url", watched)
    stream = open_dataset(speech)
    iterator = iter(stream)
    next(iterator)
    (retriever,) = opened
    stream.close()
    stream.close()
    assert retriever.closed == 2
    assert next(iterator, None) is None
    assert len(stream) == 6  # it can be used again


def test_an_adopted_retriever_is_closed_with_the_stream(speech: Path) -> None:
    retriever = Watched(speech)
    with SampleStream(retriever) as stream:
        stream.adopt(retriever)
        assert len(list(stream)) == 6
        assert retriever.closed == 0
    assert retriever.closed == 1


def test_a_stream_travels_to_other_processes(speech: Path) -> None:
    stream = pickle.loads(pickle.dumps(open_dataset(str(speech), mono=True)))
    assert [sample["n"] for sample in stream] == list(range(6))
    assert [s["__key__"] for s in stream] == list(DatasetReader.open(speech).keys())


def test_streams_take_urls_and_paths_alike(speech: Path) -> None:
    wanted = [sample["__key__"] for sample in SampleStream(speech)]
    for source in (str(speech), speech, speech.as_uri(), Part(speech.as_uri())):
        assert [sample["__key__"] for sample in SampleStream(source)] == wanted
        steps = StepStream(source, 2).read()
        assert [sample["__key__"] for step in steps for sample in step.samples] == wanted
    both = Mixture([Part(speech), Part(speech.as_uri())], interleave=None)
    assert [sample["__key__"] for sample in SampleStream(both)] == 2 * wanted


def test_a_stream_refuses_a_url_that_nothing_opens() -> None:
    with pytest.raises(UnknownSchemeError, match=r"reads gopher:// URLs"):
        SampleStream("gopher://host/speech")
    with pytest.raises(UnknownSchemeError, match="which has two slashes"):
        SampleStream(Part(Path("s3://bucket/speech")))
    with pytest.raises(InvalidURLError):
        StepStream(Mixture([Part("file://elsewhere/x")]), 2)
