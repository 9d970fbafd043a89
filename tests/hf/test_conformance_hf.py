"""`HFRetriever` and `HFUploader` pass the kit, with the Hub's client in this process."""

from __future__ import annotations

import types
import uuid
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from audiomdb.errors import UploadError
from audiomdb.retrievers.hf import HFRetriever
from audiomdb.testing import FaultProxy, RetrieverConformance, Store, UploaderConformance
from audiomdb.uploaders.hf import HFUploader


class HubStore(Store):
    """A repository. What is written replaces files of the commit there is, as damage would."""

    def __init__(self, hub: Any) -> None:
        self.repo_id = f"user/{uuid.uuid4().hex}"
        self.endpoint = hub.url
        self._hub = hub

    def read(self, path: str) -> bytes | None:
        file = self._files.get(path)
        return None if file is None else bytes(file.content)

    def write(self, path: str, content: bytes) -> None:
        if not self._files:
            self._hub.add(self.repo_id, {})
        made = self._hub.add("user/made", {path: content})["main"][path]
        self._files[path] = made

    def delete(self, path: str) -> None:
        del self._files[path]

    @property
    def _files(self) -> dict[str, Any]:
        repository = self._hub.repositories.get(self.repo_id)
        files: dict[str, Any] = repository["main"] if repository else {}
        return files


@pytest.fixture
def store(hub: Any, monkeypatch: pytest.MonkeyPatch) -> HubStore:
    hub.on_one_host = True  # so that all of it goes through the proxy of a test
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    return HubStore(hub)


class TestHFRetriever(RetrieverConformance):
    @pytest.fixture
    def store(self, store: HubStore) -> HubStore:
        return store

    def make_retriever(self, store: Any, endpoint: Any, **options: Any) -> HFRetriever:
        return HFRetriever(store.repo_id, endpoint=endpoint, read_timeout_s=2.0, **options)

    def url_of(self, store: Any, endpoint: Any) -> str:
        assert endpoint == store.endpoint
        return f"hf://datasets/{store.repo_id}"


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
class TestHFUploader(UploaderConformance):
    gives_up_on_stalls = False  # the Hub's client tries again for minutes

    @pytest.fixture
    def store(self, store: HubStore, monkeypatch: pytest.MonkeyPatch) -> HubStore:
        # The client waits for seconds between its attempts.
        clock = types.SimpleNamespace(sleep=lambda _: None)
        monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
        return store

    def make_uploader(self, store: Any, endpoint: Any, **options: Any) -> HFUploader:
        return HFUploader(store.repo_id, endpoint=endpoint, **options)

    def url_of(self, store: Any, endpoint: Any) -> str:
        assert endpoint == store.endpoint
        return f"hf://datasets/{store.repo_id}"

    @pytest.mark.skip(reason="what was sent is kept, but the report counts what was committed")
    def test_an_upload_that_breaks_off_leaves_no_metadata_and_is_taken_up_again(  # type: ignore[override]
        self,
    ) -> None:
        """The next test stands in its place."""

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
    def test_an_upload_that_breaks_off_is_taken_up_again(
        self,
        store: Any,
        hub: Any,
        proxy: FaultProxy,
        dataset: Path,
        files: dict[str, bytes],
        share: float,
    ) -> None:
        uploader = self.make_uploader(store, proxy.url)
        proxy.fail("down", after=int(share * sum(map(len, files.values()))))
        with pytest.raises(UploadError):
            uploader.upload_dir(dataset)
        assert store.read("metadata.json") is None
        there = {f"PUT /large/{sha256}" for sha256 in hub.large}
        proxy.heal()
        hub.requests.clear()
        uploader.upload_dir(dataset)
        assert {name: store.read(name) for name in files} == files
        sent = [request for request in hub.requests if request.startswith("PUT /large/")]
        assert len(sent) + len(there) == 5, "four shards and the index, each sent once"
        assert there.isdisjoint(sent)
