"""What a backend's method returns or raises wrongly is said with its class, method and file."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import audiomdb.cache.retry
from audiomdb.cache import CacheOptions, RangeSource, RemoteFile, ShardCache
from audiomdb.errors import CorruptShardError, DownloadError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.testing import write_dataset
from tests.core.caches import write_store

Answer = Callable[[bytes], Any]
AnyFile: Any = RemoteFile
"""With fields of any type."""


class ShareRetriever(BaseRetriever):
    """Answers for one file with what a function makes of its content, for all others rightly."""

    wrong = "shard_00001/data.mdb"
    answer: Answer

    def __init__(self, share: str, **options: Any) -> None:
        super().__init__(**options)
        self.share = share

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        content = Path(self.share, path).read_bytes()
        if path == self.wrong:
            return type(self).answer(content)  # type: ignore[no-any-return]
        return RemoteFile([content[start:]], start, validator or "v1", len(content))


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("share") / "clips"
    write_dataset(path, shards=2)
    return path


@pytest.fixture
def open_with(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ShareRetriever]]:
    monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 1e-6)
    made: list[ShareRetriever] = []

    def make(answer: Answer) -> ShareRetriever:
        monkeypatch.setattr(ShareRetriever, "answer", staticmethod(answer), raising=False)
        made.append(ShareRetriever(str(share), cache_dir=tmp_path / "cache"))
        return made[-1]

    yield make
    for retriever in made:
        retriever.close()
    gc.collect()


CALLED = r"ShareRetriever\.open_remote\('shard_00001/data\.mdb'\) returned "
FIELD = CALLED + "a RemoteFile whose "


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda content: content, CALLED + "a bytes, expected a RemoteFile"),
        (lambda _: None, CALLED + "None, expected a RemoteFile"),
        (AnyFile, FIELD + "chunks are a bytes, expected an iterable of bytes"),
        (lambda _: AnyFile(None), FIELD + "chunks are None, expected an iterable"),
        (lambda c: AnyFile(list(c[:9])), FIELD + "chunks yield a int, expected bytes"),
        (lambda _: AnyFile(["text"]), FIELD + "chunks yield a str, expected bytes"),
        (lambda c: AnyFile([c], "0"), FIELD + "start is '0', expected the number"),
        (lambda c: AnyFile([c], -1), FIELD + "start is -1, expected the number"),
        (lambda c: AnyFile([c], 0, b"v"), FIELD + "validator is b'v', expected a str or None"),
        (
            lambda c: AnyFile([c], 0, "v", str(len(c))),
            FIELD + "size is '[0-9]+', expected the bytes of the whole file",
        ),
    ],
)
def test_an_answer_of_a_wrong_type_names_class_method_and_file(
    open_with: Any, answer: Answer, message: str
) -> None:
    reader = open_with(answer).open()
    with pytest.raises(TypeError, match=message):
        reader[3]
    assert reader[0]["text"] == "sentence 0 of 0"


def test_an_answer_of_a_wrong_type_is_closed(open_with: Any) -> None:
    class Chunks(list[bytes]):
        closed = False

        def close(self) -> None:
            Chunks.closed = True

    reader = open_with(lambda content: AnyFile(Chunks([content]), 0, b"v1")).open()
    with pytest.raises(TypeError, match="validator"):
        reader[3]
    assert Chunks.closed


def test_a_wrong_size_is_not_blamed_on_unread_bytes(open_with: Any) -> None:
    reader = open_with(lambda content: RemoteFile([content], 0, "v1", 5)).open()
    with pytest.raises(CorruptShardError) as caught:
        reader[3]
    text = str(caught.value)
    assert "shard_00001/data.mdb" in text
    assert "ShareRetriever.open_remote returned a RemoteFile of size 5" in text
    assert "sha256" not in text


def break_off(content: bytes) -> RemoteFile:
    def chunks() -> Iterator[bytes]:
        yield content[:1000]
        raise ValueError("client bug")

    return RemoteFile(chunks(), 0, "v1", len(content))


def fail(_content: bytes) -> RemoteFile:
    raise ValueError("client bug")


NOTE = "while ShareRetriever fetched shard_00001/data.mdb"


@pytest.mark.parametrize("answer", [fail, break_off])
def test_what_a_method_raises_is_noted_with_the_file(open_with: Any, answer: Answer) -> None:
    retriever = open_with(answer)
    with pytest.raises(ValueError, match="client bug") as caught:
        retriever.open()[3]
    assert caught.value.__notes__ == [NOTE]
    failures = retriever.cached_shards().cache.fetching._failures
    name = retriever.cached_shards().cache._room.names[1]
    with pytest.raises(DownloadError, match=rf"ValueError in .*: client bug \({NOTE}\)"):
        failures.raise_newer(name, 0)  # what those who wait for it are told


def test_an_error_that_names_the_file_itself_needs_no_note(open_with: Any) -> None:
    def missing(_content: bytes) -> RemoteFile:
        raise DownloadError("403 for shard_00001/data.mdb")

    with pytest.raises(DownloadError, match="403") as caught:
        open_with(missing).open()[3]
    assert not hasattr(caught.value, "__notes__")


class ShortRetriever(BaseRetriever):
    """The short level; one of its methods fails."""

    def __init__(self, share: str, failing: str, **options: Any) -> None:
        super().__init__(**options)
        self.share, self.failing = share, failing

    def download_metadata(self) -> str:
        if self.failing == "metadata":
            raise ValueError("client bug")
        return f"{self.share}/metadata.json"

    def download_shard(self, shard_id: int) -> str:
        if self.failing == "shard" and shard_id == 1:
            raise ValueError("client bug")
        return f"{self.share}/shard_{shard_id:05d}"


@pytest.mark.parametrize(
    ("failing", "what"), [("metadata", "metadata.json"), ("shard", "shard_00001")]
)
def test_exceptions_of_a_download_method_get_a_note_naming_the_file(
    share: Path, tmp_path: Path, failing: str, what: str
) -> None:
    retriever = ShortRetriever(str(share), failing, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="client bug") as caught:
        retriever.open()[3]
    assert caught.value.__notes__ == [f"while ShortRetriever fetched {what}"]
    retriever.close()


def test_every_answer_is_closed_once_it_is_read(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", 2, 10_000)
    answers: list[Body] = []

    class Body:
        closed = 0

        def __init__(self, path: Path) -> None:
            self.path = path
            answers.append(self)

        def __iter__(self) -> Iterator[bytes]:
            yield self.path.read_bytes()

        def close(self) -> None:
            self.closed += 1

    def open_remote(path: str, **_: Any) -> RemoteFile:
        return RemoteFile(Body(store / path))

    cache = ShardCache(tmp_path / "cache", RangeSource(open_remote), CacheOptions())
    cache.lease(0)
    cache.index_file()
    assert [answer.path.name for answer in answers] == ["metadata.json", "data.mdb", "index.bin"]
    assert [answer.closed for answer in answers] == [1, 1, 1]
    cache.close()
