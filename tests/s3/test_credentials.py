"""Who the store takes us for: profiles, nobody at all, tokens that expire, requesters who pay."""

from __future__ import annotations

import json
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import moto.settings
import pytest

from audiomdb.errors import DownloadError, DownloadInterruptedError, UploadError
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetWriter
from audiomdb.uploaders.s3 import S3Uploader

pytestmark = pytest.mark.usefixtures("short_waits")

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:ListBucket"],
            "Resource": ["arn:aws:s3:::*"],
        }
    ],
}


@pytest.fixture
def made() -> Iterator[list[S3Retriever]]:
    made: list[S3Retriever] = []
    yield made
    for retriever in made:
        retriever.close()


@pytest.fixture
def stored(server: Any, bucket: str, dataset: Path, made: list[S3Retriever]) -> Any:
    """Makes retrievers of a dataset in the store."""
    S3Uploader(bucket, "d", endpoint_url=server.url).upload_dir(str(dataset))
    server.requests.clear()

    def retriever(**options: Any) -> S3Retriever:
        made.append(S3Retriever(bucket, "d", **{"endpoint_url": server.url, **options}))
        return made[-1]

    return retriever


@pytest.fixture
def signed_by(server: Any) -> list[str]:
    """Of each request, the key it is signed with; "" for none."""
    seen: list[str] = []

    def note(environ: dict[str, Any]) -> None:
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        seen.append(authorization.partition("Credential=")[2].partition("/")[0])

    server.intercept = note
    return seen


@pytest.fixture
def aws_files(
    tmp_path: Path,
    server: Any,  # noqa: ARG001 (sets the environment, which this changes)
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Writes AWS's own files, and takes the keys out of the environment."""

    def write(*, config: str = "", credentials: str = "") -> None:
        for name, content in (("config", config), ("credentials", credentials)):
            (tmp_path / name).write_text(content)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)

    return write


def keys(key: str, private: str = "s", token: str = "") -> str:
    lines = [f"aws_access_key_id = {key}", f"aws_secret_access_key = {private}"]
    return "\n".join(lines + ([f"aws_session_token = {token}"] if token else [])) + "\n"


def test_a_profile_gives_the_credentials(stored: Any, aws_files: Any, signed_by: list[str]) -> None:
    aws_files(credentials=f"[default]\n{keys('DEFAULT')}[lab]\n{keys('LABKEY')}")
    assert stored(profile_name="lab").open()[3]["__key__"] == "clip-3"
    assert set(signed_by) == {"LABKEY"}


def test_anonymous_requests_are_not_signed(
    server: Any,
    bucket: str,
    dataset: Path,
    stored: Any,
    aws_files: Any,
    made: list[S3Retriever],
    signed_by: list[str],
) -> None:
    public = {"ACL": "public-read"}
    S3Uploader(bucket, "p", endpoint_url=server.url, object_options=public).upload_dir(str(dataset))
    aws_files()  # nor are there keys to sign with
    signed_by.clear()
    made.append(S3Retriever(bucket, "p", endpoint_url=server.url, anonymous=True))
    assert len(made[-1]) == 6
    assert set(signed_by) == {""}
    with pytest.raises(DownloadError, match="these credentials may not do that"):
        len(stored(anonymous=True))


def test_without_credentials_the_error_says_where_they_may_come_from(
    stored: Any, aws_files: Any
) -> None:
    aws_files()
    with pytest.raises(DownloadError, match=r"profile_name=.*anonymous=True"):
        len(stored())


def test_options_that_contradict_each_other_are_refused() -> None:
    for options in ({"requester_pays": True}, {"profile_name": "lab"}):
        with pytest.raises(ValueError, match="anonymous=True"):
            S3Retriever("bucket", anonymous=True, **options)
    with pytest.raises(ValueError, match="'auto', 'path', 'virtual'"):
        S3Retriever("bucket", addressing_style="Path")  # type: ignore[arg-type]


# A server that checks keys and permissions; moto compares no signatures.


@pytest.fixture
def user(server: Any) -> tuple[str, str]:
    """Key and secret of a user who may read and write."""
    iam = boto3.session.Session().client("iam", endpoint_url=server.url)
    name = f"user-{uuid.uuid4().hex}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(POLICY))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the server look at keys and permissions from now on."""
    return lambda: monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)


def test_a_store_that_checks_permissions_is_read_with_a_profile_that_has_them(
    stored: Any, user: tuple[str, str], aws_files: Any, guarded: Any
) -> None:
    aws_files(credentials=f"[right]\n{keys(*user)}[wrong]\n{keys('AKIAUNKNOWN')}")
    guarded()
    right = stored(profile_name="right")
    assert right.open()[3]["__key__"] == "clip-3"
    right.close()  # both have one cache, and who joins a running one need not ask the store
    with pytest.raises(DownloadError, match=r"InvalidAccessKeyId.*check the credentials"):
        len(stored(profile_name="wrong"))


def test_a_user_who_may_only_read_cannot_upload(
    stored: Any, server: Any, bucket: str, dataset: Path, aws_files: Any, guarded: Any
) -> None:
    iam = boto3.session.Session().client("iam", endpoint_url=server.url)
    name = f"user-{uuid.uuid4().hex}"
    iam.create_user(UserName=name)
    statement = {**POLICY["Statement"][0], "Action": ["s3:GetObject", "s3:ListBucket"]}  # type: ignore[dict-item]
    document = json.dumps({**POLICY, "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    aws_files(credentials=f"[default]\n{keys(key['AccessKeyId'], key['SecretAccessKey'])}")
    guarded()
    assert len(stored()) == 6
    with pytest.raises(UploadError, match=r"s3:PutObject"):
        S3Uploader(bucket, "other", endpoint_url=server.url).upload_dir(str(dataset))


# Tokens that expire.

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"


def refuse_tokens(server: Any, valid: set[str]) -> list[str]:
    """Have the store refuse all tokens but these; returns those it saw."""
    seen: list[str] = []

    def look(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        seen.append(environ.get("HTTP_X_AMZ_SECURITY_TOKEN", ""))
        return None if seen[-1] in valid else ("400 Bad Request", EXPIRED)

    server.intercept = look
    return seen


def test_a_token_that_expires_in_a_file_is_read_again(
    stored: Any, server: Any, aws_files: Any
) -> None:
    aws_files(credentials=f"[default]\n{keys('K', token='first')}")
    seen = refuse_tokens(server, {"first"})
    retriever = stored(prefetch=0)
    assert retriever.open()[0]["__key__"] == "clip-0"
    # An hour later: somebody has renewed the file, and the store takes the old token no more.
    aws_files(credentials=f"[default]\n{keys('K', token='second')}")
    seen = refuse_tokens(server, {"second"})
    assert retriever.open()[5]["__key__"] == "clip-5"
    assert seen == ["first", "second"]
    assert retriever.cache_stats.retries == 0


def test_a_token_that_is_renewed_a_little_late_is_waited_for(
    stored: Any, server: Any, aws_files: Any
) -> None:
    aws_files(credentials=f"[default]\n{keys('K', token='old')}")

    def look(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        tokens.append(environ.get("HTTP_X_AMZ_SECURITY_TOKEN", ""))
        if len(tokens) == 5:
            aws_files(credentials=f"[default]\n{keys('K', token='new')}")
        return None if tokens[-1] == "new" else ("400 Bad Request", EXPIRED)

    tokens: list[str] = []
    server.intercept = look
    assert len(stored()) == 6
    assert tokens[:6] == ["old"] * 5 + ["new"]


def test_a_token_that_nobody_renews_ends_with_what_to_do(
    stored: Any, server: Any, aws_files: Any
) -> None:
    aws_files(credentials=f"[default]\n{keys('K', token='old')}")
    refuse_tokens(server, set())
    with pytest.raises(
        DownloadInterruptedError, match=r"ExpiredToken.*renew it where it came from"
    ):
        len(stored())


def test_a_process_that_gives_credentials_is_asked_again_before_they_expire(
    stored: Any, aws_files: Any, signed_by: list[str], tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    answers.write_text("")
    program = tmp_path / "credentials.py"
    # Soon: botocore then renews them for each request. It does so by itself, in every thread.
    soon = (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat()
    program.write_text(
        f"""
import json, pathlib
asked = pathlib.Path({str(answers)!r})
asked.write_text(asked.read_text() + "x")
key = "KEY" + str(len(asked.read_text()))
print(json.dumps({{"Version": 1, "AccessKeyId": key, "SecretAccessKey": "s",
                   "SessionToken": "t", "Expiration": {soon!r}}}))
"""
    )
    aws_files(config=f"[default]\ncredential_process = {sys.executable} {program}\n")
    retriever = stored(prefetch=0)
    for number in (0, 2, 4):
        assert retriever.open()[number]["__key__"] == f"clip-{number}"
    assert len(set(signed_by)) == len(signed_by) == 4, signed_by


def test_an_upload_goes_on_with_a_renewed_token(
    server: Any, bucket: str, dataset: Path, aws_files: Any
) -> None:
    aws_files(credentials=f"[default]\n{keys('K', token='first')}")
    puts = [0]

    def look(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        puts[0] += environ["REQUEST_METHOD"] == "PUT"
        if puts[0] < 3 or environ.get("HTTP_X_AMZ_SECURITY_TOKEN") == "second":
            return None
        aws_files(credentials=f"[default]\n{keys('K', token='second')}")
        return ("400 Bad Request", EXPIRED)

    server.intercept = look
    S3Uploader(bucket, "up", endpoint_url=server.url, workers=1).upload_dir(str(dataset))
    server.intercept = None
    listed = server.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert "up/metadata.json" in {item["Key"] for item in listed}
    assert puts[0] > 3


# Requesters who pay, and where the bucket is named.


def test_requester_pays_is_sent_with_every_request(
    server: Any, bucket: str, dataset: Path, tmp_path: Path, made: list[S3Retriever]
) -> None:
    refusal = b"<Error><Code>AccessDenied</Code><Message>not paid for</Message></Error>"

    def look(environ: dict[str, Any]) -> tuple[str, bytes] | None:
        paid = environ.get("HTTP_X_AMZ_REQUEST_PAYER") == "requester"
        return None if paid else ("403 Forbidden", refusal)

    server.intercept = look
    options = {"endpoint_url": server.url}
    with pytest.raises(UploadError, match="requester_pays=True"):
        S3Uploader(bucket, "d", **options).upload_dir(str(dataset))
    S3Uploader(bucket, "d", **options, requester_pays=True).upload_dir(str(dataset))
    with pytest.raises(DownloadError, match="requester_pays=True"):
        len(S3Retriever(bucket, "d", **options))
    made.append(S3Retriever(bucket, "d", **options, requester_pays=True))
    assert [sample["__key__"] for sample in made[0].open()] == [f"clip-{i}" for i in range(6)]
    with DatasetWriter(tmp_path / "smaller") as writer:
        writer.write("one", {"number": 1})
    replacing = S3Uploader(bucket, "d", **options, requester_pays=True)
    report = replacing.upload_dir(str(tmp_path / "smaller"))
    assert report is not None
    assert report.deleted_files == 4


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_the_bucket_is_addressed_by_path_or_host_as_requested(
    style: Any,
    server: Any,
    bucket: str,
    dataset: Path,
    made: list[S3Retriever],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = server.url.rpartition(":")[2]
    resolve, hosts = socket.getaddrinfo, set[str]()

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        # The names that a name server would know.
        return resolve("127.0.0.1" if host.endswith("s3.example") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def look(environ: dict[str, Any]) -> None:
        hosts.add(environ["HTTP_HOST"])
        in_host = environ["HTTP_HOST"].startswith(bucket)
        environ["HTTP_HOST"] = f"127.0.0.1:{port}"
        if in_host:
            environ["PATH_INFO"] = f"/{bucket}{environ['PATH_INFO']}"
            environ["RAW_URI"] = f"/{bucket}{environ.get('RAW_URI', '')}"

    server.intercept = look
    options = {"endpoint_url": f"http://s3.example:{port}", "addressing_style": style}
    S3Uploader(bucket, "d", **options).upload_dir(str(dataset))
    made.append(S3Retriever(bucket, "d", **options))
    assert len(made[0]) == 6
    assert hosts == {f"{bucket}.s3.example:{port}" if style == "virtual" else f"s3.example:{port}"}
