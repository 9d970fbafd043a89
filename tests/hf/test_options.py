"""Options of the Hub's classes: what is refused where it is given, and what names a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import InvalidURLError
from audiomdb.retrievers.hf import HFRetriever
from audiomdb.uploaders.hf import HFUploader
from tests.hf.hub import Hub


@pytest.mark.parametrize("kind", [HFRetriever, HFUploader])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"repo_id": None}, "repo_id is None, expected text"),
        ({"subdir": None}, "subdir is None, expected text"),
        ({"subdir": Path("a")}, "subdir is .*, expected text"),
        ({"revision": 3}, "revision is 3, expected text or None"),
        ({"endpoint": 3}, "endpoint is 3, expected text or None"),
    ],
)
def test_names_are_text(kind: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        kind(**{"repo_id": "user/digits", **options})


@pytest.mark.parametrize("kind", [HFRetriever, HFUploader])
@pytest.mark.parametrize(
    ("repo_id", "text"),
    [
        ("https://huggingface.co/datasets/user/digits", "/user/digits' is a URL: .*retriever_for"),
        ("hf://datasets/user/digits", "'hf://datasets/user/digits' is a URL"),
        ("hf://me:secret@datasets/digits", r"'hf://me:\*\*\*@datasets/digits' is a URL"),
        ("", "repo_id is empty, expected 'user/name'"),
    ],
)
def test_a_repository_is_given_by_its_name(kind: Any, repo_id: str, text: str) -> None:
    with pytest.raises(InvalidURLError, match=text):
        kind(repo_id)


def test_a_token_with_a_character_that_none_has_is_named(hub: Hub, dataset: Path) -> None:
    code = """
        import sys
        from audiomdb.errors import AudioMDBError
        from audiomdb.retrievers.hf import HFRetriever
        from audiomdb.uploaders.hf import HFUploader
        copied = "hf_secret\N{HORIZONTAL ELLIPSIS}"
        for request in (
            lambda: HFRetriever("user/digits", token=copied).open(),
            lambda: HFUploader("user/digits", token=copied).upload_dir(sys.argv[1]),
        ):
            try:
                request()
            except AudioMDBError as error:
                print(error)
    """
    reading, writing = hub.run(code, str(dataset)).splitlines()
    for said in (reading, writing):
        assert "no token has such a character: copy it again" in said
        assert "secret" not in said


def test_a_password_of_a_hub_is_not_shown(hub: Hub) -> None:
    code = """
        import sys
        from audiomdb.errors import AudioMDBError
        from audiomdb.retrievers.hf import HFRetriever
        retriever = HFRetriever("user/digits", endpoint=sys.argv[1])
        print(retriever)
        try:
            retriever.open()
        except AudioMDBError as error:
            print(error)
    """
    shown = hub.run(code, hub.url.replace("://", "://me:secret@"))
    assert "me:***@" in shown
    assert "secret" not in shown


@pytest.mark.parametrize("name", ["private", "card", "progress"])
def test_a_text_is_no_bool(name: str) -> None:
    wrong: dict[str, Any] = {name: "false"}
    with pytest.raises(TypeError, match=f"{name} is 'false', expected True or False"):
        HFUploader("user/digits", **wrong)


@pytest.mark.parametrize("seconds", [0, -1.0, "20", float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"read_timeout_s is .*, expected a number of seconds"):
        HFRetriever("user/digits", read_timeout_s=seconds)


def test_each_hub_has_a_cache_of_its_own_however_it_is_given(hub: Any) -> None:
    code = """
        import sys
        from audiomdb.retrievers.hf import HFRetriever
        hub, public = sys.argv[1], "https://huggingface.co/"
        for endpoint in (None, hub, hub + "/", public):
            print(HFRetriever("user/digits", endpoint=endpoint, cache_dir="x").cache_dir)
        print(HFRetriever("user/digits", subdir="/a/", cache_dir="x").cache_dir)
        print(HFRetriever("user/digits", subdir="./a", cache_dir="x").cache_dir)
    """
    environment, argument, slash, public, folder, same = hub.run(code, hub.url).split()
    assert environment == argument == slash != public
    assert folder == same != environment
