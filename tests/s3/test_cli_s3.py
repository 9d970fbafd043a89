"""The command line against a real S3 server: publish, look, check, download, stop, go on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import CorruptRecordError
from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import open_dataset
from audiomdb.uploaders.s3 import S3Uploader
from tests.commands import files, output

SHARDS = 4
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples in four shards, three of 0.6 MB, and one rejected. Tests read it only."""
    folder = tmp_path_factory.mktemp("cli-s3") / "speech"
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, samples_per_shard=2, on_error="skip") as writer:
        for number in range(2 * SHARDS - 1):
            audio = rng.normal(size=70_000).astype(np.float32)
            fields = {"audio": audio, "sample_rate": 16_000, "text": f"text {number}"}
            # Keys of all shards overlap.
            writer.write(f"{'dacb'[number // 2] if number % 2 else 'e'}-{number}", fields)
        writer.write("not-audio", {"audio": b"no audio at all"})
    return folder


@pytest.fixture(autouse=True)
def surroundings(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def url(server: Any, bucket: str, speech: Path) -> str:
    """Where the dataset lies, uploaded by something else than the command line."""
    S3Uploader(bucket, "sets/speech").upload_dir(speech)
    server.requests.clear()
    return f"s3://{bucket}/sets/speech"


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "audiomdb.cli", *map(str, args)]


def run(*args: str | Path, code: int = 0) -> str:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == code, done.stderr
    assert (done.stderr == "") is (code == 0 or bool(done.stdout)), done.stderr
    assert done.stderr.count("\n") < 2, done.stderr
    return done.stdout + done.stderr


def fetched(server: Any) -> list[str]:
    """Files of the dataset that were asked for since the last time, sorted."""
    asked = [path for method, path in server.requests if method == "GET"]
    server.requests.clear()
    return sorted(path.partition("/sets/speech/")[2] for path in asked)


def data(number: int) -> str:
    return f"shard_{number:05d}/data.mdb"


ALL = [data(number) for number in range(SHARDS)]


def flip(octets: bytes, at: int) -> bytes:
    changed = bytearray(octets)
    changed[at] ^= 1
    return bytes(changed)


def change_object(server: Any, url: str, file: str, change: Callable[[bytes], bytes]) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    place = {"Bucket": bucket, "Key": f"{prefix}/{file}"}
    body = server.client().get_object(**place)["Body"].read()
    server.client().put_object(**place, Body=change(body))
    server.requests.clear()


def test_a_dataset_goes_out_and_comes_back_byte_for_byte(
    server: Any, bucket: str, speech: Path
) -> None:
    url = f"s3://{bucket}/sets/speech"
    total = sum(len(content) for content in files(speech).values())
    facts = json.loads(run("upload", speech, url, "--json"))
    assert facts.items() >= {"files": 11, "bytes": total, "sent_files": 11}.items()
    assert run("upload", speech, url).splitlines()[1].endswith("s; 11 files had been there")
    server.requests.clear()
    printed = run("pull", url, "copy")
    assert printed.startswith(f"copy: 7 samples in {SHARDS} shards, 2.1 MB, whole\n")
    assert fetched(server) == ["metadata.json", *ALL]
    assert files(Path("copy")) == files(speech)


def test_another_dataset_in_the_store_is_replaced_only_on_request(
    server: Any, url: str, tmp_path: Path
) -> None:
    with DatasetWriter(tmp_path / "speech") as writer:  # the same name
        writer.write("other", {"text": "other"})
    message = run("upload", tmp_path / "speech", url, code=1)
    assert f"{url} holds a different dataset, or another version of this one" in message
    assert "--replace" in message
    assert {method for method, _ in server.requests} == {"HEAD"}
    run("upload", tmp_path / "speech", url, "--replace")
    assert "whole: 1 sample" in run("verify", url)


def test_looking_at_a_dataset_downloads_no_shard(server: Any, url: str, speech: Path) -> None:
    printed = run("info", url)
    assert f"7 in {SHARDS} shards" in printed
    assert f"rejected     1, listed in {url}/rejected.jsonl" in printed
    assert fetched(server) == ["index.bin", "metadata.json"]
    *_, last = run("ls", url).splitlines()
    assert last.split() == ["6", DatasetReader.open(speech).key(6), "4.375", "s", "16,000", "Hz"]
    assert fetched(server) == ["metadata.json"]


def test_info_of_a_bucket_equals_info_of_the_folder(
    url: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = json.loads(output(capsys, "info", url, "--json"))
    here = json.loads(output(capsys, "info", speech, "--json"))
    places = {"folder", "url", "cache", "rejected_file"}
    assert {k: there[k] for k in there.keys() - places} == {
        k: here[k] for k in here.keys() - places
    }
    assert (there["folder"], there["url"], there["cache"]["shards"]) == (None, url, 0)
    for columns in ("duration,sample_rate,audio_bytes", "text,frames"):
        wanted = output(capsys, "ls", speech, "--columns", columns, "--json")
        assert output(capsys, "ls", url, "--columns", columns, "--json") == wanted


def test_one_sample_costs_one_shard(
    server: Any, url: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = DatasetReader.open(speech).key(5)
    assert json.loads(output(capsys, "show", url, key, "--json"))["position"] == 5
    assert fetched(server) == ["index.bin", "metadata.json", data(2)]
    assert json.loads(output(capsys, "show", url, "-7", "--json"))["position"] == 0
    assert fetched(server) == ["metadata.json", data(0)]
    assert "no sample 'b-99'" in output(capsys, "show", url, "b-99", code=1)
    assert output(capsys, "ls", url, "--columns", "text", "--limit", "2").count("text ") == 2
    assert fetched(server) == ["metadata.json"] * 2


def test_commands_keep_the_cache_within_its_limit_and_directory(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--cache-dir", tmp_path / "small", "--max-cache-bytes", "1.5MB".replace(".5", ""))
    output(capsys, "ls", url, "--columns", "text", *limits)
    assert not (tmp_path / "cache").exists()
    assert 0 < sum(map(len, files(tmp_path / "small").values())) <= 10**6
    message = output(capsys, "show", url, "0", "--max-cache-bytes", "100kB", code=1)
    assert "The smallest that works is max_cache_bytes=" in message


def test_open_dataset_reads_what_the_command_line_has_cached(
    server: Any, url: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "ls", url, "--columns", "text")
    server.requests.clear()
    with open_dataset(url + "/", num_threads=2) as stream:
        got = {sample["__key__"]: sample["audio"] for sample in stream}
    assert fetched(server) == ["metadata.json"]
    reader = DatasetReader.open(speech)
    assert all(np.array_equal(got[key], reader[key]["audio"]) for key in got)
    assert sorted(got) == sorted(reader.keys())


def test_settings_of_the_store_are_options(
    server: Any, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    signed: list[bool] = []

    def note(environ: dict[str, Any]) -> None:
        signed.append("HTTP_AUTHORIZATION" in environ)

    server.intercept = note
    options = ("-o", f"endpoint_url={server.url}", "--option", "anonymous=true")
    # The bucket is not public; what counts is what was asked.
    output(capsys, "info", url, *options, code=1)
    assert set(signed) == {False}
    message = output(capsys, "info", url, "-o", "anonymus=true", code=2)
    assert "'anonymus'; did you mean 'anonymous'?" in message
    assert "NAME=VALUE" in output(capsys, "info", url, "-o", "anonymous", code=2)
    assert "bucket" in output(capsys, "info", url, "-o", "bucket=x", code=2)


def test_a_missing_place_in_a_store_is_a_one_line_error(
    server: Any, bucket: str, speech: Path
) -> None:
    assert f"no s3://{bucket}/nothing/metadata.json" in run(
        "info", f"s3://{bucket}/nothing", code=1
    )
    assert "no such" in run("pull", f"s3://{bucket}/nothing", "copy", code=1)
    assert not Path("copy").exists()
    assert "make the bucket first" in run("upload", speech, "s3://no-such-bucket/x", code=1)
    assert "has no bucket or host" in run("ls", "s3://", code=2)
    assert "is a URL, expected a folder" in run("upload", "s3://a/b", "s3://c/d", code=2)
    server.requests.clear()


def test_verify_reads_the_store_and_not_the_cache(
    server: Any, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "ls", url, "--columns", "text")  # now the cache holds all of it
    change_object(server, url, data(2), lambda octets: flip(octets, len(octets) // 2))
    change_object(server, url, "index.bin", lambda octets: octets[:-16])
    scratch = Path("scratch")
    facts = json.loads(output(capsys, "verify", url, "--json", "--cache-dir", scratch, code=1))
    assert [problem["file"] for problem in facts["problems"]] == [data(2), "index.bin"]
    reason = facts["problems"][0]["reason"]
    assert "arrived damaged twice: expected" in reason
    assert "quarantine" not in reason
    assert files(scratch) == {}
    assert "whole: 4 of 4 shards, cached in" in output(capsys, "verify", url, "--cached")


def test_verify_names_objects_that_are_missing(
    server: Any, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = url.split("/")[2]
    for file in (data(0), "index.bin"):
        server.client().delete_object(Bucket=bucket, Key=f"sets/speech/{file}")
    *problems, total = output(capsys, "verify", url, code=1).splitlines()
    assert [line.partition(": ")[0] for line in problems] == [data(0), "index.bin"]
    assert total.startswith("damaged: 2 problems in 2 files; metadata.json promises 7 samples")


def test_verify_needs_no_more_disk_than_its_workers_shards(
    server: Any, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held: list[int] = []

    def measure(environ: dict[str, Any]) -> None:
        if environ["PATH_INFO"].endswith("data.mdb"):
            held.append(sum(map(_size, Path("scratch").glob("*/*/shards/*"))))

    server.intercept = measure
    output(capsys, "verify", url, "--workers", "1", "--cache-dir", "scratch")
    assert held == [0] * SHARDS
    assert list(Path("scratch").iterdir()) == []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def cached_file(url: str, shard: int) -> Path:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    (path,) = Path(S3Retriever(bucket, prefix).cache_dir).glob(f"shards/{shard:05d}-*")
    return path


def test_a_byte_flipped_in_the_cache_is_found_by_verify_and_by_decoding(
    server: Any, url: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "ls", url, "--columns", "text")
    path = cached_file(url, 1)
    payload = DatasetReader.open(speech).shard(1).index.payload_offset[0]
    path.write_bytes(flip(path.read_bytes(), payload + 1000))
    server.requests.clear()

    facts = json.loads(run("verify", url, "--cached", "--json", code=1))
    assert fetched(server) == []
    assert facts["whole"] is False
    assert {problem["file"] for problem in facts["problems"]} == {data(1)}
    assert facts["problems"][0]["reason"].startswith("sha256 is ")
    assert facts["delete"] == [str(path)]
    assert facts["cache"] == json.loads(output(capsys, "info", url, "--json"))["cache"]
    assert (facts["cache"]["shards"], facts["shards"]) == (4, 4)
    # The folder of the cache is as good, without any network.
    printed = output(capsys, "verify", facts["cache"]["folder"], code=1)
    assert printed.rstrip().endswith(f"Delete what is to be downloaded again: {path}")

    with open_dataset(url) as stream, pytest.raises(CorruptRecordError, match="shard_00001"):
        stream[2]
    path.unlink()
    with open_dataset(url) as stream:
        assert np.array_equal(stream[2]["audio"], DatasetReader.open(speech)[2]["audio"])
    assert fetched(server).count(data(1)) == 1
    assert "whole: 4 of 4 shards" in output(capsys, "verify", url, "--cached")


def test_verify_reports_how_much_a_cache_holds(
    url: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing of s3://" in output(capsys, "verify", url, "--cached", code=1)
    output(capsys, "show", url, "0")
    assert "whole: 1 of 4 shards, cached" in output(capsys, "verify", url, "--cached")
    folder = json.loads(output(capsys, "info", url, "--json"))["cache"]["folder"]
    assert "is the cache of a dataset" in output(capsys, "ls", folder, code=2)
    assert "leave --cached" in output(capsys, "verify", speech, "--cached", code=2)


def test_a_repeated_pull_fetches_only_damaged_shards(
    server: Any, url: str, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "pull", url, "copy")
    assert fetched(server) == ["metadata.json", *ALL]
    output(capsys, "pull", url, "copy")
    assert fetched(server) == ["metadata.json"]
    damaged = Path("copy") / data(3)
    damaged.write_bytes(flip(damaged.read_bytes(), 5000))
    facts = json.loads(output(capsys, "pull", url, "copy", "--json"))
    assert fetched(server) == ["metadata.json", data(3)]
    assert facts["fetched_shards"] == 1
    assert files(Path("copy")) == files(speech)


def test_a_pull_through_a_cache_uses_cached_shards_and_keeps_them(
    server: Any, url: str, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output(capsys, "show", url, "0")
    server.requests.clear()
    cache = tmp_path / "cache" / "audiomdb"
    output(capsys, "pull", url, "copy", "--cache-dir", cache)
    assert fetched(server) == ["metadata.json", *ALL[1:]]
    assert files(Path("copy")) == files(speech)
    assert "whole: 4 of 4 shards" in output(capsys, "verify", url, "--cached")
    limits = ("--cache-dir", "small", "--max-cache-bytes", "2MB")
    output(capsys, "pull", url, "limited", *limits, "--workers", "2")
    assert files(Path("limited")) == files(speech)
    assert sum(map(len, files(Path("small")).values())) <= 2 * 10**6

    path = cached_file(url, 1)
    path.write_bytes(flip(path.read_bytes(), 5000))
    message = output(capsys, "pull", url, "third", "--cache-dir", cache, code=1)
    assert f"the cache holds shard_00001 damaged: delete {path}" in message
    assert not (Path("third") / data(1)).exists()
    assert "needs --cache-dir" in output(
        capsys, "pull", url, "x", "--max-cache-bytes", "1MB", code=2
    )


def test_pull_never_installs_a_shard_that_is_damaged_in_the_store(
    server: Any, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_object(server, url, data(1), lambda octets: flip(octets, 7000))
    message = output(capsys, "pull", url, "copy", "--workers", "1", code=1)
    assert f"{data(1)} of 'speech' arrived damaged twice" in message
    assert "what has arrived is kept: give the same command again to go on" in message
    assert (Path("copy") / data(0)).exists()
    assert not (Path("copy") / data(1)).exists()
    assert not Path("copy/metadata.json").exists()
    assert fetched(server) == ["metadata.json", data(0), data(1), data(1)]
    change_object(server, url, data(1), lambda octets: flip(octets, 7000))
    output(capsys, "pull", url, "copy")
    assert fetched(server) == ["metadata.json", *ALL[1:]]
    assert not Path("copy/.pull").exists()


def test_a_pull_replaces_nothing_else(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "other") as writer:
        writer.write("a", {"n": 1})
    before = files(tmp_path / "other")
    assert "another dataset" in output(capsys, "pull", url, "other", code=1)
    assert files(tmp_path / "other") == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("Dear")
    assert "holds 'a.txt'" in output(capsys, "pull", url, "letters", code=1)
    assert "is a file" in output(capsys, "pull", url, "letters/a.txt", code=1)
    assert files(tmp_path / "letters") == {"a.txt": b"Dear"}
