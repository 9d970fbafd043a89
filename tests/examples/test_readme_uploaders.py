"""The README's own uploaders run as they are typed, against real servers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import verify_dataset

ORDER = [
    *(f"shard_{n:05d}/{name}" for n in range(4) for name in ("data.mdb", "lock.mdb")),
    "index.bin",
    "metadata.json",
]


def readme() -> Any:
    return importlib.import_module("readme_uploaders")


def assert_is_a_copy(folder: Path, dataset: Path) -> None:
    assert verify_dataset(folder) == []
    copy, original = LocalRetriever(folder), LocalRetriever(dataset)
    assert copy.metadata == original.metadata
    assert [sample["text"] for sample in copy.open()] == [
        sample["text"] for sample in original.open()
    ]
    copy.close()
    original.close()


def test_a_dataset_goes_to_an_sftp_server(sftp_account: Any, dataset: Path, capsys: Any) -> None:
    account = sftp_account
    uploader = readme().SFTPUploader(account.host, account.user, account.password, "/speech")
    uploader.upload_dir(str(dataset))
    assert_is_a_copy(account.folder / "speech", dataset)
    assert account.stored == [f"/speech/{path}" for path in ORDER]
    assert capsys.readouterr().out.splitlines() == [f"Uploaded {path}" for path in ORDER]
    uploader.upload_dir(str(dataset))  # the folders are there now
    assert_is_a_copy(account.folder / "speech", dataset)


def test_a_conversion_may_end_on_an_sftp_server(sftp_account: Any, tmp_path: Path) -> None:
    from audiomdb.converters.base import BaseConverter

    class Texts(BaseConverter):
        def sample_iterator(self) -> Any:
            for number in range(5):
                yield f"clip-{number}", {"text": str(number)}

    account = sftp_account
    upload = readme().SFTPUploader(account.host, account.user, account.password, "/texts")
    Texts(output_dir=tmp_path / "texts").run(upload=upload)
    assert_is_a_copy(account.folder / "texts", tmp_path / "texts")


# What newer Pythons say of the client's own code.
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_a_dataset_goes_to_a_webdav_server(webdav_account: Any, dataset: Path, capsys: Any) -> None:
    account = webdav_account
    for number in range(4):
        # The client sends nothing into a collection that does not exist, and makes none.
        (account.folder / f"shard_{number:05d}").mkdir()
    url = f"http://{account.host}:{account.port}"
    readme().WebDAVUploader(url, account.user, account.password).upload_dir(str(dataset))
    assert_is_a_copy(account.folder, dataset)
    assert account.stored == ORDER
    assert capsys.readouterr().out.splitlines() == [f"Uploaded {path}" for path in ORDER]
