from __future__ import annotations

import copy
import hashlib
import io
import multiprocessing
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from boto3.exceptions import RetriesExceededError, S3UploadFailedError

from audiomdb._s3 import ClientOptions, ProcessClient
from audiomdb._s3_errors import advice, error_code, s3_errors
from audiomdb.errors import UploadError
from audiomdb.shards import DatasetWriter
from audiomdb.uploaders.base import UploadReport
from audiomdb.uploaders.s3 import S3Uploader
from tests.commands import files


def upload(uploader: S3Uploader, folder: Path) -> UploadReport:
    report = uploader.upload_dir(folder)
    assert report is not None
    return report


def objects(server: Any, bucket: str) -> dict[str, bytes]:
    client = server.client()
    listing = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {
        entry["Key"]: client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        for entry in listing
    }


@pytest.mark.parametrize("prefix", ["", "data/digits", "/data/digits/"])
def test_a_dataset_lies_under_its_prefix_byte_for_byte(
    server: Any, bucket: str, dataset: Path, prefix: str
) -> None:
    upload(S3Uploader(bucket, prefix, endpoint_url=server.url), dataset)
    assert objects(server, bucket) == files(dataset, "data/digits/" if prefix else "")


def test_metadata_is_the_last_object_to_be_put(server: Any, bucket: str, dataset: Path) -> None:
    upload(S3Uploader(bucket, "digits", endpoint_url=server.url), dataset)
    puts = [path for method, path in server.requests if method == "PUT"]
    assert len(puts) == len(files(dataset))
    assert puts[-1].endswith("digits/metadata.json")


def test_objects_carry_their_digest_and_type(server: Any, bucket: str, dataset: Path) -> None:
    upload(S3Uploader(bucket, endpoint_url=server.url), dataset)
    head = server.client().head_object(Bucket=bucket, Key="shard_00001/data.mdb")
    content = (dataset / "shard_00001" / "data.mdb").read_bytes()
    assert head["Metadata"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert head["ContentType"] == "application/octet-stream"
    head = server.client().head_object(Bucket=bucket, Key="metadata.json")
    assert head["ContentType"] == "application/json"


def test_a_second_upload_sends_what_has_changed(server: Any, bucket: str, dataset: Path) -> None:
    uploader = S3Uploader(bucket, "digits", endpoint_url=server.url)
    assert upload(uploader, dataset).sent_files == len(files(dataset))
    assert upload(uploader, dataset).sent_files == 0
    server.client().put_object(Bucket=bucket, Key="digits/shard_00001/data.mdb", Body=b"other")
    assert upload(uploader, dataset).sent_files == 1
    assert objects(server, bucket) == files(dataset, "digits/")


def test_a_large_file_goes_in_parts(server: Any, bucket: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * (9 * 2**20 // 256)
    (tmp_path / "large").write_bytes(content)
    uploader = S3Uploader(bucket, endpoint_url=server.url)
    uploader.upload_file(str(tmp_path / "large"), "large")
    head = server.client().head_object(Bucket=bucket, Key="large")
    assert head["ETag"].endswith('-2"')
    assert uploader.stat("large") == (len(content), hashlib.sha256(content).hexdigest())


def test_options_reach_every_object(server: Any, bucket: str, dataset: Path) -> None:
    options = {"StorageClass": "STANDARD_IA", "Metadata": {"team": "speech"}}
    uploader = S3Uploader(bucket, endpoint_url=server.url, object_options=options)
    upload(uploader, dataset)
    head = server.client().head_object(Bucket=bucket, Key="index.bin")
    assert head["StorageClass"] == "STANDARD_IA"
    assert head["Metadata"].keys() == {"team", "sha256"}
    assert upload(uploader, dataset).sent_files == 0


def test_a_busy_store_is_asked_again(server: Any, bucket: str, dataset: Path) -> None:
    refusals = iter(range(2))

    def busy(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        if environ["REQUEST_METHOD"] == "PUT" and next(refusals, None) is not None:
            return "503 Slow Down", b"<Error><Code>SlowDown</Code></Error>"
        return None

    server.intercept = busy
    upload(S3Uploader(bucket, endpoint_url=server.url), dataset)
    assert objects(server, bucket) == files(dataset)


def test_an_object_that_arrives_short_is_an_error(server: Any, bucket: str, dataset: Path) -> None:
    def lossy(environ: dict[str, Any]) -> None:
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith("1/data.mdb"):
            server.read_body(environ)
            environ["wsgi.input"] = io.BytesIO(b"")
            environ["CONTENT_LENGTH"] = "0"

    server.intercept = lossy
    with pytest.raises(UploadError, match=rf"s3://{bucket}/shard_00001/data\.mdb arrived with 0"):
        upload(S3Uploader(bucket, endpoint_url=server.url), dataset)
    listing = server.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert "metadata.json" not in {entry["Key"] for entry in listing}


def test_a_missing_bucket_is_named(server: Any, dataset: Path) -> None:
    uploader = S3Uploader("no-such-bucket", "digits", endpoint_url=server.url)
    with pytest.raises(
        UploadError, match=r"s3://no-such-bucket/digits/.*make the bucket first"
    ) as error:
        upload(uploader, dataset)
    assert isinstance(error.value, OSError)


def test_a_store_out_of_reach_is_named(server: Any, dataset: Path) -> None:
    port = 1  # reserved, nothing listens there
    uploader = S3Uploader("bucket", endpoint_url=f"http://127.0.0.1:{port}", workers=1)
    with pytest.raises(UploadError, match=r"s3://bucket/.*endpoint_url="):
        upload(uploader, dataset)
    assert server.requests == []


def test_missing_credentials_are_explained(
    server: Any, bucket: str, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UploadError, match=r"Unable to locate credentials \(check the credentials"):
        upload(S3Uploader(bucket, endpoint_url=server.url), dataset)


def test_anonymous_requests_need_no_credentials(
    server: Any, bucket: str, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.client().put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    signed: list[bool] = []
    server.intercept = lambda environ: signed.append("HTTP_AUTHORIZATION" in environ)
    with monkeypatch.context() as context:
        context.delenv("AWS_ACCESS_KEY_ID")
        context.delenv("AWS_SECRET_ACCESS_KEY")
        upload(S3Uploader(bucket, endpoint_url=server.url, anonymous=True), dataset)
    assert set(signed) == {False}


def test_a_profile_that_does_not_exist_is_named(server: Any, bucket: str, dataset: Path) -> None:
    uploader = S3Uploader(bucket, endpoint_url=server.url, profile_name="nobody")
    with pytest.raises(UploadError, match=r"profile \(nobody\) could not be found"):
        upload(uploader, dataset)


def test_forbidden_requests_say_which_permission_is_missing(
    server: Any, bucket: str, dataset: Path
) -> None:
    server.intercept = lambda _environ: ("403 Forbidden", b"")
    with pytest.raises(UploadError, match="s3:PutObject"):
        upload(S3Uploader(bucket, endpoint_url=server.url), dataset)


def response(code: str) -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": "as the store says"}}


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.ClientError(response("NoSuchBucket"), "PutObject"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://store"),
        botocore.exceptions.ParamValidationError(report="bad"),
        RetriesExceededError(OSError("cut")),
        S3UploadFailedError("failed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_boto3_errors_never_reach_the_caller_untranslated(error: Exception) -> None:
    with (
        pytest.raises(UploadError, match=r"cannot upload a: .* \(.+\)") as raised,
        s3_errors("upload a", UploadError),
    ):
        raise error
    assert raised.value.__cause__ is error


def test_every_error_class_of_botocore_is_one_of_those_caught() -> None:
    roots = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
    classes = [kind for kind in vars(botocore.exceptions).values() if isinstance(kind, type)]
    stray = {
        kind.__name__
        for kind in classes
        if issubclass(kind, Exception) and not issubclass(kind, (*roots, Warning))
    }
    # Both speak of botocore's own service descriptions, not of requests.
    assert stray <= {"MissingServiceIdError", "UndefinedModelAttributeError"}


def test_advice_looks_through_the_errors_of_transfers(server: Any, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    client = ProcessClient(ClientOptions(endpoint_url=server.url)).get()
    with pytest.raises(S3UploadFailedError) as raised:
        client.upload_file(str(tmp_path / "small"), "no-such-bucket", "small")
    assert error_code(raised.value) == "NoSuchBucket"
    assert advice(raised.value) == "make the bucket first"


def test_unknown_errors_get_the_general_advice() -> None:
    assert "run again" in advice(S3UploadFailedError("failed"))


def test_an_uploader_travels_to_other_processes(server: Any, bucket: str, dataset: Path) -> None:
    uploader = S3Uploader(bucket, endpoint_url=server.url)
    assert uploader.stat("index.bin") is None  # a client is made here first
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(uploader.upload_dir, (dataset,))
    assert objects(server, bucket) == files(dataset)


def test_a_copy_makes_a_client_of_its_own(server: Any) -> None:
    client = ProcessClient(ClientOptions(endpoint_url=server.url))
    assert client.get() is client.get()
    assert copy.copy(client).get() is not client.get()


def test_the_readme_is_right(
    server: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(dataset, tmp_path / "digits")
    server.client().create_bucket(Bucket="my-bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "packages/audiomdb-s3/README.md").read_text()
    for example in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        exec(example, {})  # noqa: S102
    assert objects(server, "my-bucket") == files(dataset, "datasets/digits/")


def test_importing_the_uploader_loads_no_boto3() -> None:
    code = "import audiomdb.uploaders.s3, sys; assert 'boto3' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A dataset of other shards."""
    with DatasetWriter(tmp_path / "another", samples_per_shard=2) as writer:
        for number in range(6):
            writer.write(f"other-{number}", {"number": number})
    return tmp_path / "another"


def test_a_replaced_dataset_is_withdrawn_first(
    server: Any, bucket: str, dataset: Path, another: Path
) -> None:
    uploader = S3Uploader(bucket, "digits", endpoint_url=server.url, workers=1)
    upload(uploader, dataset)
    server.requests.clear()
    upload(uploader, another)
    done = [
        f"{method} {path.rpartition('digits/')[2]}"
        for method, path in server.requests
        if method in ("PUT", "DELETE")
    ]
    assert done[:2] == ["PUT .replaced.json", "DELETE metadata.json"]
    assert done.index("PUT metadata.json") > max(
        at for at, request in enumerate(done) if request.startswith("PUT shard_")
    )
    assert objects(server, bucket) == files(another, "digits/")


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """A dataset of five shards."""
    with DatasetWriter(tmp_path / "larger", samples_per_shard=2) as writer:
        for number in range(10):
            writer.write(f"other-{number}", {"number": number})
    return tmp_path / "larger"


def test_files_only_the_replaced_dataset_had_are_deleted_last(
    server: Any, bucket: str, dataset: Path, larger: Path
) -> None:
    uploader = S3Uploader(bucket, "digits", endpoint_url=server.url, workers=1)
    upload(uploader, larger)
    server.requests.clear()
    report = upload(uploader, dataset)
    done = [
        (method, path.rpartition("digits/")[2])
        for method, path in server.requests
        if method in ("PUT", "DELETE")
    ]
    beyond = sorted(files(larger).keys() - files(dataset).keys())
    *deleted, last = done[done.index(("PUT", "metadata.json")) + 1 :]
    assert sorted(deleted) == [("DELETE", name) for name in beyond]
    assert last == ("DELETE", ".replaced.json")
    assert report.deleted_files == len(beyond) == 4
    assert objects(server, bucket) == files(dataset, "digits/")


def test_files_of_a_replaced_archived_dataset_stay(
    server: Any, bucket: str, dataset: Path, larger: Path
) -> None:
    options = {"StorageClass": "GLACIER"}
    upload(S3Uploader(bucket, endpoint_url=server.url, object_options=options), larger)
    assert upload(S3Uploader(bucket, endpoint_url=server.url), dataset).deleted_files == 0
    listing = server.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert {entry["Key"] for entry in listing} == {*files(larger), *files(dataset)}


def test_an_upload_without_delete_permission_warns_and_replaces(
    server: Any, bucket: str, dataset: Path, another: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = S3Uploader(bucket, "digits", endpoint_url=server.url)
    upload(uploader, dataset)
    refusal = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def refuse(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        deletes = environ["REQUEST_METHOD"] == "DELETE"
        return ("403 Forbidden", refusal) if deletes else None

    server.intercept = refuse
    upload(uploader, another)
    (record,) = [record for record in caplog.records if record.name == "audiomdb.uploaders"]
    assert f"may not delete s3://{bucket}/digits/metadata.json" in record.getMessage()
    there = objects(server, bucket)
    assert {name: there[name] for name in files(another, "digits/")} == files(another, "digits/")
