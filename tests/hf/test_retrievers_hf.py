"""What `HFUploader` uploaded is read by `HFRetriever`, through the Hub's client and a stand-in."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audiomdb._hf_http import Answer, asked_to_wait_s
from audiomdb.retrievers.hf import HFRetriever
from audiomdb.shards import DatasetReader, read_metadata
from tests.hf.client import failure, run

KEYS = "print(json.dumps([sample['__key__'] for sample in retriever.open()]))"
STATS = "print(retriever.open()[0]['__key__'], retriever.cache_stats.fetched_bytes)"


def test_an_uploaded_hub_dataset_is_read_fetching_each_file_once(
    hub: Any, dataset: Path, tmp_path: Path
) -> None:
    code = """
        import sys
        from audiomdb.uploaders.hf import HFUploader

        HFUploader("user/digits", subdir="train").upload_dir(sys.argv[1])
    """
    hub.run(code, dataset)
    hub.requests.clear()
    code = """
        reader = retriever.open()
        for sample in reader:
            print(sample["__key__"], sample["text"], sample["audio"].tolist())
        print([column for column in reader.index])
    """
    with DatasetReader.open(dataset) as reader:
        rows = [f"{s['__key__']} {s['text']} {s['audio'].tolist()}" for s in reader]
        assert run(hub, tmp_path, code, subdir="train/").splitlines() == [
            *rows,
            str([*reader.index]),
        ]
    asked = [request.partition("/train/")[2] for request in hub.requests if "/resolve/" in request]
    shards = [f"shard_0000{number}/data.mdb" for number in range(3)]
    assert sorted(asked) == ["index.bin", "metadata.json", *shards]


def test_making_a_retriever_reads_nothing_and_loads_no_client() -> None:
    code = """
        import pickle, sys
        from audiomdb.retrievers.hf import HFRetriever

        retriever = pickle.loads(pickle.dumps(HFRetriever("mozilla/common_voice")))
        print(retriever, sorted({"huggingface_hub", "httpx2", "requests"} & sys.modules.keys()))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "HFRetriever('mozilla/common_voice') []\n"


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("huggingface_hub", "hub._settled_arguments()"),
        ("huggingface_hub.errors", "with suppress(AudioMDBError): hub._ask('metadata.json')"),
    ],
)
def test_a_process_forked_while_a_thread_imports_the_client_can_import_it(
    name: str, work: str
) -> None:
    program = Path(__file__).parents[1] / "core" / "programs" / "forked_late.py"
    before = (
        "from contextlib import suppress; from audiomdb.errors import AudioMDBError; "
        "from audiomdb.retrievers.hf import HFRetriever; "
        "hub = HFRetriever('user/x')"
    )
    command = [sys.executable, str(program), name, before, work]
    # A child that is forked while a thread connects may never do so itself: the C library's
    # getaddrinfo has locks of its own. This is about imports.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env=environment
    )
    assert found.stdout.split() == ["7"], found.stderr


def test_a_cut_download_goes_on_where_it_broke_off(hub: Any, large: Path, tmp_path: Path) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("GET /xet-bridge/", cut=200_000, times=2)
    printed = run(hub, tmp_path, STATS)
    shard = read_metadata(large).shards[0].bytes
    assert printed.split() == ["clip-0", str(shard + (large / "metadata.json").stat().st_size)]
    seen = hub.seen("/xet-bridge/")
    assert [e.headers.get("range") for e in seen] == [None, "bytes=200000-", "bytes=400000-"]
    assert sum(exchange.sent for exchange in seen) == shard
    assert len(hub.seen("/resolve/")) == 2, "the Hub was asked for the metadata, and for the shard"


def test_a_download_goes_on_in_another_process(hub: Any, large: Path, tmp_path: Path) -> None:
    def go_down() -> None:
        hub.fail("data.mdb", 503, b"", times=99)

    hub.add_dataset("user/digits", large)
    hub.fail("GET /xet-bridge/", cut=200_000, then=go_down)
    assert "DownloadInterruptedError" in failure(hub, tmp_path)
    hub.faults.clear()
    assert run(hub, tmp_path, STATS).startswith("clip-0 ")
    sent = [e.headers.get("range") for e in hub.seen("/xet-bridge/") if e.sent]
    assert sent == [None, "bytes=200000-"]


def test_a_file_that_changes_while_it_is_read_is_read_anew(
    hub: Any, large: Path, tmp_path: Path
) -> None:
    path = "shard_00000/data.mdb"
    repository = hub.add_dataset("user/digits", large)
    files = repository["main"]
    right = files[path]
    files[path] = right._replace(content=bytes(len(right.content)))
    hub.fail("GET /xet-bridge/", cut=200_000, then=lambda: files.update({path: right}))
    hub.fail("GET /xet-bridge/", 403, b"expired")
    code = "print(retriever.open()[0]['text'], retriever.cache_stats.corrupt)"
    assert run(hub, tmp_path, code).split() == ["0", "0"]
    asked = (e for e in hub.seen(path) if e.server == "hub")
    ranges = [exchange.headers.get("range") for exchange in asked]
    assert ranges == [None, "bytes=200000-", None]


def test_a_piece_of_a_file_is_read_and_no_more(hub: Any, large: Path, tmp_path: Path) -> None:
    hub.add_dataset("user/digits", large)
    code = """
        path = "shard_00000/data.mdb"
        first = retriever.open_remote(path, stop=100_000)
        second = retriever.open_remote(path, start=200_000, stop=300_000, validator=first.validator)
        other = retriever.open_remote(path, start=200_000, stop=300_000, validator="another")
        without = retriever.open_remote(path, start=200_000, stop=300_000)
        for remote in (first, second, other, without):
            print(remote.start, sum(map(len, remote.chunks)), remote.size, remote.validator)
            remote.chunks.close()
    """
    whole = (large / "shard_00000" / "data.mdb").read_bytes()
    size, sha256 = len(whole), read_metadata(large).shards[0].sha256
    assert run(hub, tmp_path, code).splitlines() == [
        f"0 100000 {size} {sha256}",
        f"200000 100000 {size} {sha256}",
        f"0 {size} {size} {sha256}",
        f"0 {size} {size} {sha256}",
    ]


def test_a_store_that_ignores_ranges_is_read_from_the_start(
    hub: Any, large: Path, tmp_path: Path
) -> None:
    hub.add_dataset("user/digits", large)
    whole = (large / "shard_00000" / "data.mdb").read_bytes()
    hub.fail("GET /xet-bridge/", cut=200_000)
    hub.fail("GET /xet-bridge/", 200, whole)
    assert run(hub, tmp_path, "print(retriever.open()[0]['text'])") == "0\n"


def test_a_file_that_has_shrunk_is_read_from_the_start(
    hub: Any, large: Path, tmp_path: Path
) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("GET /xet-bridge/", cut=200_000)
    hub.fail("GET /xet-bridge/", 416, b"")
    assert run(hub, tmp_path, "print(retriever.open()[0]['text'])") == "0\n"


def test_a_silent_connection_is_given_up(hub: Any, large: Path, tmp_path: Path) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("GET /xet-bridge/", stall=True)
    code = "print(retriever.open()[0]['text'], retriever.cache_stats.retries >= 1)"
    assert run(hub, tmp_path, code, read_timeout_s=2.0).split() == ["0", "True"]


def test_connections_are_used_again(hub: Any, dataset: Path, tmp_path: Path) -> None:
    hub.add_dataset("user/digits", dataset)
    run(hub, tmp_path / "first", KEYS)  # the client may have some open already
    hub.connections = 0
    run(hub, tmp_path / "second", KEYS)
    assert hub.connections == 0


def test_the_token_goes_to_the_hub_alone(hub: Any, large: Path, tmp_path: Path) -> None:
    hub.add_dataset("user/digits", large).private = True
    run(hub, tmp_path, KEYS)
    tokens = {(e.server, e.headers.get("authorization")) for e in hub.exchanges}
    assert tokens == {("hub", "Bearer hf_test"), ("store", None)}


@pytest.mark.parametrize(
    ("status", "headers", "waits_s"),
    [
        (429, {"RateLimit": '"resolvers";r=0;t=55'}, 55),
        (503, {"Retry-After": "7"}, 7),
        (429, {"Retry-After": "86400"}, 300),
        (500, {}, 0),
    ],
)
def test_a_busy_hub_is_asked_again_when_it_says(
    hub: Any, large: Path, tmp_path: Path, status: int, headers: dict[str, str], waits_s: int
) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("/resolve/", status, b"", headers)
    code = """
        import unittest.mock
        import audiomdb._hf_pause as module

        class Clock:
            now = 0.0

            def monotonic(self):
                return self.now

            def sleep(self, seconds):
                self.now += seconds

        with unittest.mock.patch.object(module, "time", Clock()) as clock:
            retriever.open()
        print(round(clock.now))
    """
    assert run(hub, tmp_path, code) == f"{waits_s}\n"


def test_the_wait_that_a_server_asks_for_may_be_a_date() -> None:
    date = "Wed, 21 Oct 2015 07:28:30 GMT"
    assert asked_to_wait_s({"Retry-After": date}, 1445412480) == 30
    assert asked_to_wait_s({"Retry-After": date}, time.time()) == 0
    assert asked_to_wait_s({"Retry-After": "soon"}, 0) is None
    assert asked_to_wait_s({"Retry-After": f"1 Jan 2026 00:00:00 {'9' * 30}"}, 0) is None
    assert asked_to_wait_s({"RateLimit": '"api";r=3;t=55'}, 0) is None
    assert asked_to_wait_s({}, 0) is None


@pytest.mark.parametrize(
    ("status", "headers", "span"),
    [
        (206, {"Content-Range": "bytes 5-9/10"}, (5, 10)),
        (206, {"Content-Range": f"bytes {'9' * 5000}-9/10"}, None),
        (206, {"Content-Range": f"bytes 5-9/{'9' * 5000}"}, None),
        (200, {"Content-Length": "10"}, (0, 10)),
        (200, {"Content-Length": "9" * 5000}, (0, None)),
    ],
)
def test_a_size_that_no_file_has_counts_as_not_stated(
    status: int, headers: dict[str, str], span: tuple[int, int | None] | None
) -> None:
    response = SimpleNamespace(status_code=status, headers=headers, history=[])
    assert Answer(response).span == span


def test_an_answer_without_a_content_range_closes_its_connection(
    hub: Any, large: Path, tmp_path: Path
) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("GET /xet-bridge/", 206, b"a part")
    code = """
        import unittest.mock
        from audiomdb import _hf_http

        answers, closed = [], []

        class Noted(_hf_http.Answer):
            def __init__(self, *args):
                super().__init__(*args)
                answers.append(self)

            def close(self):
                closed.append(self)
                super().close()

        shard = retriever.metadata.shards[0]
        with unittest.mock.patch.object(_hf_http, "Answer", Noted):
            remote = retriever.open_remote(
                f"{shard.path}/data.mdb", start=9, validator=shard.sha256
            )
            remote.chunks.close()
        assert len(answers) == 2 and closed == answers
        print(remote.start, remote.size == shard.bytes)
    """
    assert run(hub, tmp_path, code) == "0 True\n"


def test_a_link_to_the_store_that_has_expired_is_asked_for_again(
    hub: Any, large: Path, tmp_path: Path
) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("GET /xet-bridge/", 403, b"<Error>expired</Error>")
    assert run(hub, tmp_path, "print(retriever.open()[0]['text'])") == "0\n"
    hub.fail("GET /xet-bridge/", 403, b"", times=99)
    error = failure(hub, tmp_path, "retriever.open()[2]")
    assert "DownloadInterruptedError: " in error
    assert "cannot read datasets/user/digits@" in error
    assert "Signature" not in error
    assert "HF_HUB_DISABLE_XET" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo_id": "user/nothing"}, "DatasetNotFoundError: there is no .* 'user/nothing'"),
        ({"token": False}, "DatasetNotFoundError: .*private repository, log in"),
        ({"token": "hf_old"}, r"DownloadError: cannot read .*Invalid cred.*\(log in \(hf auth"),
        ({"revision": "v2"}, "DatasetNotFoundError: .*no revision 'v2'; .* 'main', 'next'"),
        ({"subdir": "trian"}, "no dataset in .*/trian, .*; subdir= may be 'dev', 'train'"),
        ({"repo_id": "user/speech"}, "no dataset in datasets/user/speech.*HFConverter converts"),
        ({"repo_id": "user/gated"}, "DownloadError: .*accept the conditions .* log in"),
        ({"repo_id": "a/b/c"}, "DownloadError: .*'user/name'"),
        ({"endpoint": "nowhere"}, "DownloadError: .*check endpoint= and HF_ENDPOINT"),
        ({"endpoint": "http://127.0.0.1:9"}, "DownloadInterruptedError: .*out of reach"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(
    hub: Any, dataset: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    repository = hub.add_dataset("user/digits", dataset, "train")
    hub.add_dataset("user/digits", dataset, "dev")
    repository.private = True
    repository.branches["next"] = repository.branches["main"]
    hub.add_dataset("user/gated", dataset).gated = True
    hub.add("user/speech", {"train.parquet": b"", "README.md": b""})
    error = failure(hub, tmp_path, **{"subdir": "train", **options})
    assert error.startswith("audiomdb.errors.")
    assert re.search(message, error), error
    assert "hf_" not in error


def test_a_file_that_the_repository_lacks_is_named(hub: Any, large: Path, tmp_path: Path) -> None:
    del hub.add_dataset("user/digits", large)["main"]["shard_00001/data.mdb"]
    error = failure(hub, tmp_path, "retriever.open()[3]")
    assert "DatasetNotFoundError: no datasets/user/digits@" in error
    assert error.endswith("/shard_00001/data.mdb; upload the dataset again")


def test_a_server_that_names_no_commit_is_no_hub(hub: Any, tmp_path: Path) -> None:
    hub.fail("/resolve/", 200, b"{}")
    assert "X-Repo-Commit" in failure(hub, tmp_path)


def test_offline_mode_is_respected(hub: Any, large: Path, tmp_path: Path) -> None:
    hub.add_dataset("user/digits", large)
    hub.requests.clear()
    code = """
        import unittest.mock
        from huggingface_hub import close_session, constants

        close_session()
        with unittest.mock.patch.object(constants, "HF_HUB_OFFLINE", True):
            retriever.open()
    """
    error = failure(hub, tmp_path, code)
    assert "errors.DownloadError: cannot read" in error
    assert "HF_HUB_OFFLINE is set" in error
    assert hub.requests == []


def test_processes_that_start_together_share_each_download(
    hub: Any, large: Path, tmp_path: Path
) -> None:
    hub.add_dataset("user/digits", large)
    hub.fail("/xet-bridge/", cut=100_000)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(hub.client.start("readers.py", tmp_path, "none")) for _ in range(3)
        ]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        printed = [process.communicate(timeout=120)[0] for process in processes]
    assert printed == ["0123\n"] * 3
    shards = read_metadata(large).shards
    assert sum(e.sent for e in hub.seen("/xet-bridge/")) == sum(shard.bytes for shard in shards)


def test_a_revision_may_hold_a_slash(hub: Any, large: Path, tmp_path: Path) -> None:
    repository = hub.add_dataset("user/digits", large)
    repository.branches["a/b"] = repository.branches.pop("main")
    assert run(hub, tmp_path, "print(len(retriever))", revision="a/b") == "4\n"


def test_the_token_is_no_part_of_the_caches_name(tmp_path: Path) -> None:
    def cache_dir(**options: Any) -> str:
        return HFRetriever("user/digits", cache_dir=tmp_path, **options).cache_dir

    assert cache_dir(token=True) == cache_dir(token=False, read_timeout_s=3) == cache_dir()
    assert cache_dir(revision="v2") != cache_dir() != cache_dir(subdir="train")


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("hf://datasets/user/digits", HFRetriever("user/digits")),
        ("hf://datasets/user/digits/", HFRetriever("user/digits")),
        ("hf://datasets/user/digits@v2", HFRetriever("user/digits", revision="v2")),
        (
            "hf://datasets/user/digits@a%2Fb/dev",
            HFRetriever("user/digits", revision="a/b", subdir="dev"),
        ),
        (
            "hf://datasets/user/digits@refs/pr/1/a/b/",
            HFRetriever("user/digits", revision="refs/pr/1", subdir="a/b"),
        ),
    ],
)
def test_a_url_leads_to_a_dataset(url: str, same: HFRetriever) -> None:
    assert repr(HFRetriever.from_url(url)) == repr(same)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("hf://user/digits", "only repositories of datasets"),
        ("hf://datasets/digits", ""),
        ("hf://datasets/user/digits@", 'written "%2F"'),
        ("s3://bucket", ""),
    ],
)
def test_another_url_is_refused_with_the_form_expected(url: str, why: str) -> None:
    form = r"expected hf://datasets/user/repo\[@revision\]\[/subdir\]"
    with pytest.raises(ValueError, match=f"'{url}' .*{form}.*{why}"):
        HFRetriever.from_url(url)


def test_a_revision_in_both_url_and_options_is_refused() -> None:
    assert "v2" in repr(HFRetriever.from_url("hf://datasets/user/digits", revision="v2"))
    with pytest.raises(TypeError, match="revision"):
        HFRetriever.from_url("hf://datasets/user/digits@v2", revision="v2")
