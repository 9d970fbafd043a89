"""Options that are wrong are refused where they are given, in words of ours."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from audiomdb.errors import DownloadError, InvalidURLError, UnknownOptionError, UploadError
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.uploaders.s3 import S3Uploader

BAD_ENDPOINTS = [
    "minio:9000",
    "minio.lab",
    "localhost:9000",
    "ftp://minio",
    "http://",
    "http://h:x",
]

WITH_PASSWORDS = ["http://me:secret@minio:9000", "https://secret@minio", "me:secret@minio:9000"]
"""Endpoints with what boto3 would not use, and would show in its errors."""


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
@pytest.mark.parametrize("url", [*BAD_ENDPOINTS, "", " http://h", 9000])
def test_an_endpoint_is_a_url(kind: Any, url: Any) -> None:
    with pytest.raises(ValueError, match=r"endpoint_url is .*, expected a URL such as https://"):
        kind("bucket", endpoint_url=url)


@pytest.mark.parametrize("url", ["http://minio:9000", "HTTPS://minio.lab/", "http://[::1]:9000/s3"])
def test_a_url_is_taken(url: str) -> None:
    S3Retriever("bucket", endpoint_url=url)


@pytest.mark.parametrize("seconds", [0, -1.0, "20", None, True, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"read_timeout_s is .*, expected a number of seconds"):
        S3Retriever("bucket", read_timeout_s=seconds)


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
@pytest.mark.parametrize("name", ["region_name", "profile_name"])
def test_names_are_text(kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is 5, expected text or None"):
        kind("bucket", **{name: 5})


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
@pytest.mark.parametrize("name", ["anonymous", "requester_pays"])
def test_a_text_is_no_bool(kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is 'false', expected True or False"):
        kind("bucket", **{name: "false"})


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
@pytest.mark.parametrize(
    ("place", "text"), [((None,), "bucket is None"), (("b", None), "prefix is None")]
)
def test_bucket_and_prefix_are_text(kind: Any, place: tuple[Any, ...], text: str) -> None:
    with pytest.raises(TypeError, match=f"{text}, expected text"):
        kind(*place)


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
def test_credentials_in_a_url_are_refused_and_not_shown(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"'bucket' .*profile_name=") as caught:
        kind.from_url("s3://key:secret@bucket/digits")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
@pytest.mark.parametrize(
    ("bucket", "shown"),
    [
        ("s3://bucket/digits", "'s3://bucket/digits' is a URL: .*retriever_for"),
        ("https://bucket.s3.amazonaws.com", "'https://bucket.s3.amazonaws.com' is a URL"),
        ("", "the bucket has no name"),
    ],
)
def test_a_bucket_is_given_by_its_name(kind: Any, bucket: str, shown: str) -> None:
    with pytest.raises(InvalidURLError, match=shown):
        kind(bucket)


@pytest.mark.parametrize("kind", [S3Retriever, S3Uploader])
@pytest.mark.parametrize(
    "url", [*WITH_PASSWORDS, "http://me:sec/ret@minio", "http://me:sec'ret@minio"]
)
def test_an_endpoint_with_a_password_is_refused_and_not_shown(kind: Any, url: str) -> None:
    text = r"endpoint_url is .(http.*://)?\*\*\*@minio.*, expected a URL .*without credentials"
    with pytest.raises(ValueError, match=text) as caught:
        kind("bucket", endpoint_url=url)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("url", WITH_PASSWORDS)
def test_a_password_of_an_endpoint_in_the_environment_is_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(DownloadError, match=r"AWS_ENDPOINT_URL is '.*\*\*\*@minio") as caught:
        S3Retriever("bucket").open()
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", WITH_PASSWORDS)
def test_a_password_of_an_endpoint_in_the_config_file_is_not_shown(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {url}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(DownloadError, match=r"config file is '.*\*\*\*@minio") as caught:
        S3Retriever("bucket").open()
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("url", BAD_ENDPOINTS)
def test_an_invalid_endpoint_from_the_environment_names_its_variable(
    variable: str, url: str, server: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv(variable, url)
    text = f"s3://bucket/.*{variable} is {url!r}, expected a URL such as .*check endpoint_url="
    with pytest.raises(DownloadError, match=text):
        S3Retriever("bucket").open()
    with pytest.raises(UploadError, match=text):
        S3Uploader("bucket").upload_dir(str(dataset))


@pytest.mark.parametrize("url", ["minio:9000", "ftp://minio"])
def test_an_invalid_endpoint_from_the_config_file_is_named(
    url: str,
    server: Any,  # noqa: ARG001 (sets the environment)
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {url}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(DownloadError, match=rf"config file is '{url}', expected a URL such as"):
        S3Retriever("bucket").open()


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ("StorageClass", TypeError, "object_options is 'StorageClass', expected a mapping from"),
        ([("ACL", "private")], TypeError, "object_options is .*, expected a mapping from"),
        ({"Metadata": "team"}, TypeError, "Metadata in object_options is 'team', expected a map"),
        ({"Metadata": None}, TypeError, "Metadata in object_options is None, expected a mapping"),
        ({"Metadata": {"takes": 3}}, TypeError, "Metadata in object_options holds 3, expected tex"),
        ({"Metadata": {3: "takes"}}, TypeError, "Metadata in object_options holds 3, expected tex"),
        ({"Metadata": {"by": "Zoë"}}, ValueError, "Metadata in object_options holds 'Zoë', S3 tak"),
    ],
)
def test_object_options_are_checked(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        S3Uploader("bucket", object_options=options)


def test_an_unknown_object_option_is_named_before_anything_is_sent(
    server: Any, bucket: str, dataset: Path
) -> None:
    uploader = S3Uploader(bucket, endpoint_url=server.url, object_options={"StorageClas": "X"})
    with pytest.raises(UnknownOptionError, match=r"object_options .*mean 'StorageClass'\?.* ACL,"):
        uploader.upload_dir(str(dataset))
    assert server.requests == []


def test_options_of_objects_may_be_any_mapping(server: Any, bucket: str, dataset: Path) -> None:
    options: Mapping[str, object] = MappingProxyType({"Metadata": MappingProxyType({"a": "b"})})
    uploader = S3Uploader(bucket, endpoint_url=server.url, object_options=options)
    uploader.upload_dir(str(dataset))
    head = server.client().head_object(Bucket=bucket, Key="index.bin")
    assert head["Metadata"].keys() == {"a", "sha256"}
