"""`convert NAME`: what an installed package converts, with its options and its help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audiomdb.cli import main
from audiomdb.shards import DatasetReader
from tests.packages import install

# Before Python 3.14, a name that only type checkers import can be used in no other way.
TAPES = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"

TAPES += """
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional
from audiomdb.converters.base import BaseConverter

if TYPE_CHECKING:
    from decks import Reel

class TapeConverter(BaseConverter):
    \"\"\"Converts tapes.

    Nothing else.

    Args:
        tape: The tape, 100% without
            its box.
        output_dir: See `BaseConverter`.
        speed: Speed in cm/s, 100% by default.
        sides (list): Sides to read.
        layer: Layer to read.
        name: Who recorded it.
    \"\"\"

    def __init__(
        this,
        tape: str | Reel,
        output_dir: str,
        *,
        speed: float = 9.5,
        loud: bool = False,
        sides: list[str] | None = None,
        layer: Literal["top", "bottom"] = "top",
        deck="3",
        box: Optional[Path] = None,
        tracks: Sequence[int] = (),
        notes: dict[str, int | str] | None = None,
        name: str | None = None,
        **options,
    ):
        super(TapeConverter, this).__init__(output_dir, **options)
        if speed > 100:
            raise ValueError(f"speed is {speed}, expected at most 100")
        this.fields = {"tape": tape, "speed": speed, "loud": loud, "sides": sides, "by": name}
        this.fields |= {"layer": layer, "deck": deck, "box": box, "tracks": list(tracks)}
        this.fields |= {"notes": notes}

    def sample_iterator(self):
        for number in range(9):
            yield f"take-{number}", self.fields

class LabelledConverter(TapeConverter):
    @classmethod
    def from_source(cls, source, output_dir, *, box=0, **options):
        return cls(f"{source} of box {box}", output_dir, **options)

class PlainConverter(BaseConverter):
    def sample_iterator(self):
        yield "a", {}

class EmptyConverter(TapeConverter):
    def sample_iterator(self):
        return iter(())

class QueryConverter(PlainConverter):
    def __init__(self, database, query, **options):
        super().__init__(**options)
"""

ENTRY_POINTS = """
[audiomdb.converters]
tape = {module}:TapeConverter
labelled = {module}:LabelledConverter
plain = {module}:PlainConverter
empty = {module}:EmptyConverter
query = {module}:QueryConverter
folder = {module}:PlainConverter
gone = {module}:Gone
"""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def added(name: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(install(tmp_path / name, name, TAPES, ENTRY_POINTS))

    return added


@pytest.fixture
def tapes(add: Callable[[str], None]) -> None:
    add("tapes")


def said(capsys: pytest.CaptureFixture[str], code: int, *args: object) -> str:
    assert main(["convert", *map(str, args)]) == code
    printed = capsys.readouterr()
    return " ".join((printed.err or printed.out).split())


def converted(output: Path, *args: object) -> dict[str, object]:
    assert main(["convert", *map(str, args), str(output)]) == 0
    with DatasetReader.open(output) as reader:
        return dict(reader[0])


@pytest.mark.usefixtures("tapes")
def test_the_options_of_a_converter_are_those_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = converted(tmp_path / "a", "tape", "b-side", "--limit", 3)
    assert "3 samples" in capsys.readouterr().out
    assert sample["tape"] == "b-side"
    own = ("speed", "loud", "sides", "by")
    assert [sample[name] for name in own] == [9.5, False, None, None]
    options = ["--speed", 19, "--loud", "true", "--sides", '["A", "B"]', "--source-name", "Theo"]
    sample = converted(tmp_path / "b", "tape", "x", *options, "--name", "reels")
    assert [sample[name] for name in own] == [19, True, ["A", "B"], "Theo"]
    capsys.readouterr()
    assert main(["convert", "tape", "x", str(tmp_path / "c"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 9
    with DatasetReader.open(tmp_path / "b") as reader:
        assert reader.metadata.name == "reels"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (["--speed", "19"], {"speed": 19.0}),
        (["--sides", "A,B", "--sides", "2"], {"sides": ["A,B", "2"]}),
        (["--sides", '["A", "B"]', "--sides", "C"], {"sides": ["A", "B", "C"]}),
        (["--tracks", "1", "--tracks", "2"], {"tracks": [1, 2]}),
        (["--layer", "bottom"], {"layer": "bottom"}),
        (["--deck", "1.0"], {"deck": "1.0"}),
        (["--deck", "true"], {"deck": "true"}),
        (["--box", "2024"], {"box": "2024"}),
        (["--box", "null"], {"box": None}),
        (["--notes", '{"a": 1}'], {"notes": {"a": 1}}),
    ],
)
@pytest.mark.usefixtures("tapes")
def test_an_option_arrives_as_its_annotation_or_default_says(
    given: list[str], stored: dict[str, object], tmp_path: Path
) -> None:
    sample = converted(tmp_path / "a", "tape", "x", *given)
    assert {name: sample[name] for name in stored} == stored
    assert [type(sample[name]) for name in stored] == [type(value) for value in stored.values()]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("layer", "side", "expected one of top, bottom"),
        ("loud", "null", "expected true or false"),
        ("tracks", "first", "expected a whole number"),
        ("notes", "[1]", "expected a JSON object"),
    ],
)
@pytest.mark.usefixtures("tapes")
def test_a_value_of_another_type_than_the_option_has_is_refused(
    option: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, 2, "tape", "x", tmp_path / "a", f"--{option}", value)
    assert f"argument --{option}: {value!r}: {expected}" in text


@pytest.mark.usefixtures("tapes")
def test_help_of_an_installed_converter_comes_from_its_docstring(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, 0, "tape", "--help")
    for part in (
        "usage: audiomdb convert tape [options] SOURCE OUTPUT Converts tapes.",
        "SOURCE The tape, 100% without its box.",
        "options of TapeConverter:",
        "--speed NUMBER Speed in cm/s, 100% by default. (default: 9.5)",
        "--loud true|false (default: false)",
        "--sides VALUE Sides to read. May be repeated.",
        "--layer top|bottom Layer to read. (default: top)",
        "--source-name VALUE Who recorded it.",
        "--on-error {raise,skip}",
    ):
        assert part in text
    for option in ("--progress", "--executor", "--tape", "--output-dir"):
        assert option not in text


@pytest.mark.usefixtures("tapes")
def test_a_converter_class_may_define_from_source(tmp_path: Path) -> None:
    assert converted(tmp_path / "a", "labelled", "x", "--box", 7)["tape"] == "x of box 7"


@pytest.mark.usefixtures("tapes")
def test_the_list_of_sources_imports_no_package(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, 0, "--help")
    assert "tape what the package tapes 1.5 reads" in text
    assert text.count("folder audio files in a folder") == 1
    assert "tapes" not in sys.modules


@pytest.mark.usefixtures("tapes")
def test_wrong_options_and_broken_converters_are_reported_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert "did you mean --speed?" in said(capsys, 2, "tape", "x", out, "--sped", "3")
    text = said(capsys, 2, "tape", "x", out, "--speed", "fast")
    assert "argument --speed: 'fast': expected a number" in text
    text = said(capsys, 2, "tape", "x", out, "--speed", "200")
    assert "speed is 200.0, expected at most 100" in text
    assert "SOURCE, OUTPUT" in said(capsys, 2, "tape")
    assert "are required: --query" in said(capsys, 2, "query", "x", out)
    text = said(capsys, 1, "plain", "x", out)
    assert "the first argument of PlainConverter is output_dir, expected the source" in text
    text = said(capsys, 1, "gone", "x", out)
    assert "the package tapes 1.5 names tapes:Gone as the converter of 'gone'" in text
    assert "invalid choice: 'vinyl'" in said(capsys, 2, "vinyl", "x", out)
    assert not out.exists()


@pytest.mark.usefixtures("tapes")
def test_a_source_without_samples_is_told_from_one_of_rejected_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, 1, "empty", "x", tmp_path / "out")
    assert text.endswith("nothing was stored: the source has no samples")


def test_two_packages_for_one_kind_of_source_are_refused_by_name(
    add: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add("tapes")
    add("reels")
    text = said(capsys, 1, "tape", "x", tmp_path / "out")
    assert "several packages convert 'tape': " in text
    assert "tapes 1.5 (tapes:TapeConverter)" in text


def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [])
    assert "(pip install audiomdb-hf)" in said(capsys, 0, "--help")
    text = said(capsys, 2, "hf", "user/digits", tmp_path / "out", "--data-split", "test")
    assert text.endswith("pip install audiomdb-hf")
    for arguments in (["--help"], ["--data-split", "test", "user/digits", tmp_path / "out"], []):
        assert said(capsys, 2, "hf", *arguments).endswith("pip install audiomdb-hf")
