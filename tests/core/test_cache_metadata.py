"""What answers in place of a dataset's small files is refused, and said where."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import audiomdb.cache.source
from audiomdb.cache import RemoteFile
from audiomdb.errors import MetadataError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.shards import DatasetReader
from audiomdb.shards.metadata import MOST_METADATA_BYTES
from audiomdb.testing import MemoryRetriever, MemoryServer, MemoryStore, write_dataset

PORTAL = b"<html><head><title>Please log in</title></head></html>"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "clips", shards=1)
    return tmp_path / "clips"


def test_a_page_in_place_of_metadata_is_named_with_its_url(tmp_path: Path) -> None:
    with MemoryServer() as server:
        MemoryStore(server, "clips").write("metadata.json", PORTAL)
        retriever = MemoryRetriever(server.url("clips"), cache_dir=tmp_path / "cache")
        with pytest.raises(MetadataError) as caught:
            retriever.open()
        assert str(caught.value).startswith(
            f"metadata.json of MemoryRetriever('{server.url('clips')}'), which begins with "
            "b'<html><head><title>Please log in</title>"
        )
        assert "is not JSON" in str(caught.value)


class Share(BaseRetriever):
    """The short level."""

    access_options = frozenset({"token"})

    def __init__(self, token: str, share: str, **options: Any) -> None:  # noqa: ARG002
        super().__init__(**options)
        self.share = share

    def download_metadata(self) -> str:
        place = self.share.rpartition("@")[2].partition("?")[0]
        return str(shutil.copy(f"{place}/metadata.json", self.cache_dir))

    def download_shard(self, shard_id: int) -> str:
        raise AssertionError(shard_id)


class Named(Share):
    def __repr__(self) -> str:
        return "the share in the cellar"


def test_errors_name_a_retriever_by_its_repr_or_first_argument(
    dataset: Path, tmp_path: Path
) -> None:
    (dataset / "metadata.json").write_bytes(PORTAL)
    share = f"smb://user:an@secret@{dataset}?key=secret"
    with pytest.raises(MetadataError) as caught:
        Share("secret", share, cache_dir=tmp_path / "cache").open()
    assert str(caught.value).startswith(f"metadata.json of Share('smb://{dataset}'), which")
    assert "secret" not in str(caught.value)
    with pytest.raises(MetadataError, match=r"^metadata\.json of the share in the cellar, which"):
        Named("secret", share, cache_dir=tmp_path / "cache").open()


class Endless(BaseRetriever):
    """One file never ends."""

    def __init__(self, share: str, endless: str, **options: Any) -> None:
        super().__init__(**options)
        self.share, self.endless = share, endless
        self.sent = 0

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        content = Path(self.share, path).read_bytes()
        if path != self.endless:
            return RemoteFile([content[start:]], start, validator)

        def chunks() -> Iterator[bytes]:
            yield content
            for _ in itertools.count():
                self.sent += 1000
                yield bytes(1000)

        return RemoteFile(chunks())


def test_an_endless_file_is_read_only_up_to_its_expected_size(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiomdb.cache.source, "MOST_METADATA_BYTES", 100_000)
    retriever = Endless(str(dataset), "metadata.json", cache_dir=tmp_path / "a")
    with pytest.raises(MetadataError, match=rf"of Endless\('{dataset}'\) has more than 100000 b"):
        retriever.open()
    assert retriever.sent <= 100_000
    retriever = Endless(str(dataset), "index.bin", cache_dir=tmp_path / "b")
    original = DatasetReader.open(dataset).index["duration"]
    assert retriever.open().index["duration"].tolist() == original.tolist()
    assert retriever.sent <= 1000
    retriever.close()
    shared = Share("", str(dataset), cache_dir=tmp_path / "c")
    monkeypatch.setattr(audiomdb.cache.source, "MOST_METADATA_BYTES", 100)
    with pytest.raises(MetadataError, match="has more than 100 bytes"):
        shared.open()


def test_the_largest_metadata_is_that_of_more_than_a_million_shards(dataset: Path) -> None:
    size = (dataset / "metadata.json").stat().st_size
    write_dataset(dataset.parent / "more", shards=11)
    each = ((dataset.parent / "more" / "metadata.json").stat().st_size - size) / 10
    assert 3e6 * each < MOST_METADATA_BYTES
