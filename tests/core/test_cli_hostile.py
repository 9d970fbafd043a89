"""Commands on datasets from strangers: what is printed is what the library says, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.msgpack import Ext

from audiomdb.audio import encode
from audiomdb.cli import main
from tests.commands import output, run_in_terminal
from tests.core.forgeries import array, forge, reference

WAV = encode(np.zeros(800, np.float32), 8000, "wav")
ESCAPE = "\x1b[31m\nfake: line\x9b2J"


def test_info_escapes_types_and_dtypes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["name"] = ESCAPE
        tree["features"] = {
            ESCAPE: {"types": [ESCAPE]},
            "vec": {"types": ["array"], "dtype": ESCAPE, "shape": [None]},
        }

    path = forge(tmp_path / "d", {"k": {"__key__": "k"}}, metadata=change)
    for command in ("info", "ls"):
        printed = output(capsys, command, path)
        assert r"\x1b[31m\nfake: line\x9b2J" in printed
        assert all(line.isprintable() for line in printed.splitlines())


def test_the_progress_bar_of_pull_escapes_the_name(tmp_path: Path) -> None:
    path = forge(
        tmp_path / "d", {"k": {"__key__": "k"}}, metadata=lambda tree: tree.update(name=ESCAPE)
    )
    code = "import sys; from audiomdb.cli import main; assert main(sys.argv[1:]) == 0"
    seen = run_in_terminal(code, "pull", path, tmp_path / "copy")
    assert r"pulling \x1b[31m\nfake: line\x9b2J" in seen
    assert "\x1b[31m" not in seen
    assert "\x9b" not in seen


@pytest.mark.parametrize(
    "facts",
    [
        {"duration": "long"},
        {"duration": []},
        {"duration": float("nan")},
        {"duration": 10**18},
        {"frames": [800]},
        {"frames": array("<i4", [2], bytes(8))},
        {"sample_rate": "x", "channels": 10**9},
    ],
)
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_show_survives_false_audio_facts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    facts: dict[str, Any],
    json_too: list[str],
) -> None:
    tree = {"__key__": "k", "audio": reference(0, WAV), **facts}
    path = forge(tmp_path / "d", {"k": tree}, payloads=WAV)
    code = main(["show", str(path), "0", *json_too])
    printed = capsys.readouterr()
    wrong = "frames" in facts
    assert (code, "its frames is" in printed.err) == (int(wrong), wrong)
    if json_too:
        assert json.loads(printed.out)["key"] == "k"
    else:
        assert "encoding" in printed.out


def test_deep_nesting_is_shown_up_to_a_depth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = b"\x82\xa7__key__\xa1k\xa4tags" + b"\x91" * 600 + b"\x01"
    path = forge(tmp_path / "d", {"k": head})
    assert '[["…"]]' in output(capsys, "show", path, "0")
    assert json.loads(output(capsys, "show", path, "0", "--json"))["key"] == "k"


@pytest.mark.parametrize(
    "rejected", [None, 5, [5], [{"key": 1}], [Ext(4, array([["a", "<i4"]], [], bytes(4)).data)]]
)
def test_pull_refuses_a_shard_whose_journal_is_no_list_of_rejections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rejected: Any
) -> None:
    path = forge(
        tmp_path / "d",
        {"k": {"__key__": "k"}},
        index=lambda tree: tree.update(journal={"rejected": rejected}),
        metadata=lambda tree: tree.update(rejected=1),
    )
    printed = output(capsys, "pull", path, tmp_path / "copy", code=1)
    assert "shard_00000: its journal lists no rejected samples" in printed
    assert not (tmp_path / "copy" / "metadata.json").exists()
