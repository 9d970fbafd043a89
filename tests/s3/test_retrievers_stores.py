"""Which store a retriever leads to names its cache, wherever that was said."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audiomdb._s3_store import is_amazon, store_name
from audiomdb.errors import DownloadError
from audiomdb.registry import retriever_for
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetWriter
from audiomdb.testing import MemoryServer, MemoryStore

ELSEWHERE = "http://127.0.0.1:1"
"""Nothing listens there."""


@pytest.fixture(autouse=True)
def place(
    tmp_path: Path,
    server: Any,  # noqa: ARG001 (sets the environment)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[dict[str, MemoryServer]]:
    """Two stores, each with a dataset of its own at the same place."""
    stores = {name: MemoryServer() for name in ("first", "second")}
    for name, store in stores.items():
        with DatasetWriter(tmp_path / name, samples_per_shard=2) as writer:
            for number in range(4):
                writer.write(f"{name}-{number}", {"number": number})
        MemoryStore(store, "bkt/a").fill(tmp_path / name)
    yield stores
    for store in stores.values():
        store.close()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes AWS's config file."""

    def write(text: str) -> None:
        (tmp_path / "config").write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    return write


@pytest.mark.parametrize("how", ["profile", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "argument"])
def test_each_store_has_a_cache_of_its_own(
    how: str, stores: dict[str, MemoryServer], config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "profile":
        keys = "aws_access_key_id = k\naws_secret_access_key = s\n"
        settings = {name: f"endpoint_url = {store.url()}\n" for name, store in stores.items()}
        config("".join(f"[profile {name}]\n{line}{keys}" for name, line in settings.items()))
    retrievers = []
    for name, store in stores.items():
        options: dict[str, Any] = {}
        if how == "profile":
            options["profile_name"] = name
        elif how == "argument":
            options["endpoint_url"] = store.url()
        else:
            monkeypatch.setenv(how, store.url())
        retrievers.append(S3Retriever("bkt", "a", **options))
        # The first stays open: who opens the same cache then asks no store.
        assert retrievers[-1].open()[0]["__key__"] == f"{name}-0"
    assert len({retriever.cache_dir for retriever in retrievers}) == 2
    for retriever in retrievers:
        retriever.close()


def test_one_store_has_one_cache_however_it_is_given(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(
        f"[profile lab]\nendpoint_url = {ELSEWHERE}/\n"
        f"[profile part]\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = {ELSEWHERE}\n"
    )
    made = [S3Retriever("bkt", "a", profile_name=name) for name in ("lab", "part")]
    made += [S3Retriever("bkt", "a", endpoint_url=ELSEWHERE + end) for end in ("", "/")]
    directories = {retriever.cache_dir for retriever in made}
    monkeypatch.setenv("AWS_ENDPOINT_URL", ELSEWHERE)
    directories.add(S3Retriever("bkt", "a").cache_dir)
    assert len(directories) == 1


def test_arguments_that_read_the_same_objects_share_one_cache() -> None:
    made = [S3Retriever("bkt", prefix) for prefix in ("a", "a/", "/a", "//a//")]
    made += [S3Retriever(bucket="bkt", prefix="a"), retriever_for("s3://bkt//a/")]  # type: ignore[list-item]
    assert len({retriever.cache_dir for retriever in made}) == 1
    made = [S3Retriever("bkt"), S3Retriever("bkt", "/"), retriever_for("s3://bkt")]  # type: ignore[list-item]
    assert len({retriever.cache_dir for retriever in made}) == 1


def test_amazons_own_store_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = S3Retriever("bkt", "a").cache_dir
    # Of the first release: who has this cache must not have to download it again.
    assert Path(plain).name == "S3Retriever-c04ddfa3cb0c20fb"
    for url in ("https://s3.amazonaws.com", "https://s3.eu-central-1.amazonaws.com/"):
        assert S3Retriever("bkt", "a", endpoint_url=url).cache_dir == plain
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert S3Retriever("bkt", "a").cache_dir == plain
    assert S3Retriever("bkt", "a", region_name="ap-south-1").cache_dir == plain
    # Buckets there have names of their own.
    for region in ("cn-north-1", "us-gov-west-1"):
        assert S3Retriever("bkt", "a", region_name=region).cache_dir != plain


def test_a_subclass_with_arguments_of_its_own_is_named_by_its_store_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Speech(S3Retriever):
        def __init__(self, language: str) -> None:
            super().__init__("bkt", f"speech/{language}")

    amazon = Speech("en").cache_dir
    assert Speech("de").cache_dir != amazon
    monkeypatch.setenv("AWS_ENDPOINT_URL", ELSEWHERE)
    assert Speech("en").cache_dir != amazon


def test_a_retriever_reads_from_the_store_that_its_cache_is_named_by(
    stores: dict[str, MemoryServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", stores["first"].url())
    retriever = S3Retriever("bkt", "a")
    directory = retriever.cache_dir
    monkeypatch.setenv("AWS_ENDPOINT_URL", stores["second"].url())
    assert retriever.open()[0]["__key__"] == "first-0"
    assert retriever.cache_dir == directory
    retriever.close()
    # A copy is made anew, and looks where the environment leads now.
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy.open()[0]["__key__"] == "second-0"
    assert copy.cache_dir != directory
    copy.close()


def test_naming_a_cache_connects_to_nothing_and_needs_no_credentials(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    config(f"[default]\nendpoint_url = {ELSEWHERE}\ncredential_process = touch {asked}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    code = """
import socket, sys
def connect(*_): raise AssertionError("connected")
socket.socket.connect = socket.getaddrinfo = connect
from audiomdb.retrievers.s3 import S3Retriever
retriever = S3Retriever("bkt", "a")
assert "boto3" not in sys.modules
sys.stdout.write(retriever.cache_dir)
"""
    environment = {k: v for k, v in os.environ.items() if k != "AWS_EC2_METADATA_DISABLED"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == S3Retriever("bkt", "a", endpoint_url=ELSEWHERE).cache_dir
    assert not asked.exists()


def test_naming_a_cache_by_a_given_endpoint_does_not_import_boto3() -> None:
    code = f"""
import sys
from audiomdb.retrievers.s3 import S3Retriever
S3Retriever("bkt", "a", endpoint_url={ELSEWHERE!r}).cache_dir
assert "boto3" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_an_unknown_profile_is_an_audiomdb_error() -> None:
    with pytest.raises(DownloadError, match=r"s3://bkt/a: .*profile \(nobody\)"):
        S3Retriever("bkt", "a", profile_name="nobody").open()


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.amazonaws.com",
        "https://S3.eu-central-1.amazonaws.com/",
        "https://s3-us-west-2.amazonaws.com",
        "https://s3.dualstack.us-west-2.amazonaws.com",
        "https://s3-fips.us-east-1.amazonaws.com",
        "https://s3-accelerate.amazonaws.com",
        "https://bucket.vpce-1a2b-5c6d.s3.us-east-1.vpce.amazonaws.com",
    ],
)
def test_amazons_addresses_are_known(url: str) -> None:
    assert is_amazon(url)
    assert store_name(url) is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        # Amazon's, but buckets there may have the names of others elsewhere.
        ("https://s3.cn-north-1.amazonaws.com.cn", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("https://s3.us-gov-west-1.amazonaws.com", "https://s3.us-gov-west-1.amazonaws.com"),
        ("https://s3.eusc-de-east-1.amazonaws.eu/", "https://s3.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_amazons_other_partitions_are_named(url: str, name: str) -> None:
    assert is_amazon(url)
    assert store_name(url) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://Minio.lab:9000/", "http://minio.lab:9000"),
        ("HTTPS://minio.lab:443", "https://minio.lab"),
        ("http://minio.lab:80/S3/", "http://minio.lab/S3"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        # Machines that somebody rents of Amazon.
        (
            "http://s3-gate-12.us-east-1.elb.amazonaws.com",
            "http://s3-gate-12.us-east-1.elb.amazonaws.com",
        ),
        (
            "http://ec2-3-4.compute-1.amazonaws.com:9000",
            "http://ec2-3-4.compute-1.amazonaws.com:9000",
        ),
        ("https://s3.amazonaws.com.example.org", "https://s3.amazonaws.com.example.org"),
    ],
)
def test_other_stores_are_named_by_their_address(url: str, name: str) -> None:
    assert not is_amazon(url)
    assert store_name(url) == name
