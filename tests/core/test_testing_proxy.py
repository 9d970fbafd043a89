"""The network that fails: what each fault does to a client of a real server."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from audiomdb.testing import Fault, FaultProxy, MemoryServer, ProxyProcess, ProxyStats

BODY = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def server() -> Iterator[MemoryServer]:
    with MemoryServer() as server:
        server.files["a/file"] = BODY
        server.files["other"] = b"other"
        yield server


@pytest.fixture(params=["thread", "process"])
def proxy(request: Any, server: MemoryServer) -> Iterator[FaultProxy | ProxyProcess]:
    kind = FaultProxy if request.param == "thread" else ProxyProcess
    with kind(server.url()) as proxy:
        yield proxy


@pytest.fixture
def thread_proxy(server: MemoryServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.url()) as proxy:
        yield proxy


def get(proxy: Any, path: str = "a/file", timeout: float = 5, **headers: str) -> bytes:
    request = urllib.request.Request(f"{proxy.url}/{path}", headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


def test_the_proxy_forwards_bytes_unchanged_and_counts_them(proxy: Any) -> None:
    assert get(proxy) == BODY
    stats = proxy.stats
    assert (stats.connections, stats.requests, stats.faults) == (1, 1, 0)
    assert len(BODY) < stats.answer_bytes < len(BODY) + 1000
    assert 0 < stats.request_bytes < 1000
    proxy.reset_stats()
    assert proxy.stats == ProxyStats()


def test_a_kept_connection_counts_as_one(proxy: Any) -> None:
    connection = http.client.HTTPConnection(*proxy.address)
    for _ in range(3):
        connection.request("GET", "/other")
        assert connection.getresponse().read() == b"other"
    connection.close()
    assert (proxy.stats.connections, proxy.stats.requests) == (1, 3)


def test_every_request_takes_longer_by_the_latency(thread_proxy: FaultProxy) -> None:
    thread_proxy.latency_s = 0.02
    started = time.monotonic()
    for _ in range(5):
        get(thread_proxy, "other")
    assert time.monotonic() - started >= 5 * 0.02


def test_connections_share_what_the_line_carries(thread_proxy: FaultProxy) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rate = 20e6
    thread_proxy.bytes_per_second = rate
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: get(thread_proxy), range(4))) == [BODY] * 4
    assert time.monotonic() - started >= 4 * len(BODY) / rate - 0.05


def test_settings_may_change_while_it_runs(proxy: Any) -> None:
    proxy.bytes_per_second = 1e9
    proxy.latency_s = 0.001
    assert (proxy.bytes_per_second, proxy.latency_s) == (1e9, 0.001)
    assert get(proxy, "other") == b"other"


@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_connection_breaks_after_so_many_bytes(proxy: Any, kind: Any) -> None:
    proxy.fail(kind, after=100_000, times=1)
    expected = http.client.IncompleteRead if kind == "close" else ConnectionResetError
    with pytest.raises(expected):
        get(proxy)
    assert proxy.stats.faults == 1
    assert proxy.stats.answer_bytes == 100_000
    assert get(proxy) == BODY


def test_a_stalled_connection_stays_open_and_says_nothing(proxy: Any) -> None:
    proxy.fail("stall", after=1000)
    with pytest.raises(TimeoutError):
        get(proxy, timeout=0.1)
    proxy.heal()
    assert get(proxy) == BODY


def test_a_refused_connection_ends_without_a_byte(proxy: Any) -> None:
    proxy.fail("refuse", times=2)
    for _ in range(2):
        with pytest.raises((ConnectionError, urllib.error.URLError)):
            get(proxy)
    assert proxy.stats.answer_bytes == 0
    assert get(proxy) == BODY


def test_a_network_that_is_down_stays_down_until_it_is_healed(proxy: Any) -> None:
    proxy.fail("down", after=500_000)
    with pytest.raises((OSError, http.client.HTTPException)):
        get(proxy)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - URLError or ConnectionError
            get(proxy, "other")
    assert proxy.stats.answer_bytes <= 500_000
    proxy.heal()
    assert get(proxy) == BODY


def test_one_byte_is_flipped(proxy: Any) -> None:
    proxy.fail("flip", after=50_000, times=1)
    found = get(proxy)
    wrong = [place for place, byte in enumerate(found) if byte != BODY[place]]
    assert len(found) == len(BODY)
    assert len(wrong) == 1
    assert 49_000 < wrong[0] < 50_000


def test_the_proxy_answers_in_the_servers_place(proxy: Any) -> None:
    proxy.fail("status", status=503, body=b"slow down", times=1)
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(proxy)
    with caught.value as error:
        assert (error.code, error.reason, error.read()) == (
            503,
            "Service Unavailable",
            b"slow down",
        )
    assert get(proxy) == BODY


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_with_a_body_is_taken_before_it_is_refused(
    thread_proxy: FaultProxy, server: MemoryServer, chunked: bool
) -> None:
    thread_proxy.fail("status", status=507)
    connection = http.client.HTTPConnection(*thread_proxy.address)
    body = iter([bytes(100_000)] * 10) if chunked else bytes(1_000_000)
    connection.request("PUT", "/new", body, encode_chunked=chunked)
    assert connection.getresponse().status == 507
    connection.close()
    assert "new" not in server.files


def test_only_requests_that_match_fail(proxy: Any) -> None:
    proxy.fail("status", status=500, match="a/file")
    assert get(proxy, "other") == b"other"
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(proxy)
    caught.value.close()


def test_bytes_are_counted_from_the_request_that_matched(thread_proxy: FaultProxy) -> None:
    thread_proxy.fail("close", after=2000, match="a/file")
    connection = http.client.HTTPConnection(*thread_proxy.address)
    for _ in range(30):  # more than 2000 bytes altogether
        connection.request("GET", "/other")
        assert connection.getresponse().read() == b"other"
    connection.request("GET", "/a/file")
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()


def test_a_short_body_looks_whole(proxy: Any) -> None:
    proxy.fail("short", after=1234, times=1)
    assert get(proxy) == BODY[:1234]
    assert get(proxy) == BODY


def test_the_server_does_not_see_that_a_range_was_asked_for(proxy: Any) -> None:
    assert get(proxy, Range="bytes=1000-") == BODY[1000:]
    proxy.fail("ignore_range", times=1)
    assert get(proxy, Range="bytes=1000-") == BODY
    assert get(proxy, Range="bytes=1000-") == BODY[1000:]


def test_the_then_callback_runs_before_the_client_notices_a_fault(thread_proxy: FaultProxy) -> None:
    struck = []
    thread_proxy.fail("close", after=10, times=1, then=lambda: struck.append(1))
    with pytest.raises(http.client.HTTPException):
        get(thread_proxy)
    assert struck == [1]


def test_other_protocols_run_through_it() -> None:
    class Echo(BaseHTTPRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                self.wfile.write(line.upper())

    from socketserver import ThreadingTCPServer
    from threading import Thread

    with ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        with FaultProxy(("127.0.0.1", server.server_address[1])) as proxy:
            with socket.create_connection(proxy.address) as client:
                lines = client.makefile("rwb", buffering=0)
                for _ in range(3):
                    lines.write(b"hello\n")
                    assert lines.readline() == b"HELLO\n"
                lines.close()
            assert proxy.url.startswith("tcp://127.0.0.1:")
            assert proxy.stats.requests == 3
        server.shutdown()
        thread.join()


def test_closing_ends_connections_and_threads(server: MemoryServer) -> None:
    import threading

    before = threading.active_count()
    proxy = FaultProxy(server.url())
    proxy.fail("stall", after=0)
    with socket.create_connection(proxy.address) as client:
        client.sendall(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        proxy.close()
        proxy.close()
        client.settimeout(5)
        with suppress(ConnectionResetError):  # where it was not even read
            assert client.recv(10) == b""
    assert not [t for t in threading.enumerate() if t.name.startswith("fault-proxy")]
    assert threading.active_count() <= before + 1  # the server's own handler may still end


def test_a_server_that_is_not_there_is_a_connection_that_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    with FaultProxy(address) as proxy, socket.create_connection(proxy.address) as client:
        client.settimeout(5)
        assert client.recv(10) == b""


@pytest.mark.parametrize("target", ["127.0.0.1:80", "s3://bucket", "http://"])
def test_a_target_has_a_host_and_a_port(target: str) -> None:
    for kind in (FaultProxy, ProxyProcess):
        with pytest.raises(ValueError, match="host and port"):
            kind(target)


@pytest.mark.parametrize("kind", [FaultProxy, ProxyProcess])
@pytest.mark.parametrize("options", [{"latency_s": -1}, {"bytes_per_second": 0}])
def test_impossible_lines_are_refused(
    kind: Any, options: dict[str, float], server: MemoryServer
) -> None:
    (name, number), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name} is {number}, expected"):
        kind(server.url(), **options)
    with kind(server.url()) as proxy:
        with pytest.raises(ValueError, match=f"{name} is {number}, expected"):
            setattr(proxy, name, number)
        assert get(proxy) == BODY


def test_impossible_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'rest', expected one of close, reset, "):
        Fault(kind="rest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="after is -1"):
        Fault(kind="close", after=-1)
    with pytest.raises(ValueError, match="times is 0"):
        Fault(kind="close", times=0)
