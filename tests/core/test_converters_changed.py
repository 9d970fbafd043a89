"""Conversions that are run again after something changed: what is noticed, and how it is said."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.msgpack import Ext

from audiomdb.audio.window import AudioWindow
from audiomdb.converters.files import FolderConverter, ManifestConverter
from audiomdb.errors import ConversionError, OptionsChangedError, SourceChangedError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, ShardReader
from tests.core.conversions import Listed, clip, samples

ROWS = """id,audio_filepath,other,sentence,translation
1,a.wav,b.wav,bonjour,hello
2,b.wav,a.wav,merci,thanks
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with two clips, and a table and a manifest of them."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, name in enumerate(("a.wav", "b.wav")):
        (folder / name).write_bytes(clip(number))
    (folder / "m.csv").write_text(ROWS)
    (folder / "metadata.csv").write_text(ROWS.replace("audio_filepath", "file_name"))
    return folder


def texts(out: Path) -> list[str]:
    with DatasetReader.open(out) as dataset:
        return [sample["text"] for sample in dataset]


class Optional(Listed):
    """A converter with an option of its own, as a contributor writes it."""

    option: Any = None

    def source_options(self) -> Mapping[str, Any]:
        return {"option": self.option, "sample_rate": 7}


@pytest.mark.parametrize(
    ("changed", "was", "now"),
    [
        ({"text_column": "translation"}, "'sentence'", "'translation'"),
        ({"audio_column": "other"}, "'audio_filepath'", "'other'"),
        ({"key_column": "other"}, "None", "'other'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_column_of_a_manifest_is_refused_by_name(
    corpus: Path, tmp_path: Path, changed: dict[str, str], was: str, now: str
) -> None:
    options: dict[str, Any] = {"text_column": "sentence"}
    ManifestConverter(corpus / "m.csv", tmp_path / "out", **options).run()
    (name,) = changed
    with pytest.raises(OptionsChangedError, match=f"with {name}={was}; this run has {name}={now}"):
        ManifestConverter(corpus / "m.csv", tmp_path / "out", **{**options, **changed}).run()
    assert ManifestConverter(corpus / "m.csv", tmp_path / "out", **options).run().reused_shards == 1
    assert texts(tmp_path / "out") == ["bonjour", "merci"]


def test_another_text_column_of_a_folders_table_is_refused_by_name(
    corpus: Path, tmp_path: Path
) -> None:
    FolderConverter(corpus, tmp_path / "out", text_column="sentence").run()
    with pytest.raises(OptionsChangedError, match=r"text_column='sentence'.*'translation'"):
        FolderConverter(corpus, tmp_path / "out", text_column="translation").run()
    assert texts(tmp_path / "out") == ["bonjour", "merci"]


def test_the_same_clips_at_another_place_are_the_same(corpus: Path, tmp_path: Path) -> None:
    ManifestConverter(corpus / "m.csv", tmp_path / "out", text_column="sentence").run()
    (tmp_path / "moved").mkdir()
    (corpus / "m.csv").rename(tmp_path / "moved" / "m.csv")
    moved = ManifestConverter(
        tmp_path / "moved" / "m.csv", tmp_path / "out", text_column="sentence", audio_dir=corpus
    )
    assert moved.run().reused_shards == 1


def test_source_options_of_any_converter_are_compared(tmp_path: Path) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.option = ["a", {"b": 1.5}]
    converter.run()
    assert converter.run().reused_shards == 1
    converter.option = ["a", {"b": 2.5}]
    with pytest.raises(OptionsChangedError, match=r"with option=\['a', {'b': 1\.5}\]; this run"):
        converter.run()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({0: "no", 1: "yes"}, {0: "yes", 1: "no"}),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), datetime(2026, 1, 3, tzinfo=timezone.utc)),
        ((1, b"a"), (1, b"b")),
    ],
)
def test_options_of_many_types_are_kept_and_compared(tmp_path: Path, old: Any, new: Any) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.option = old
    converter.run()
    assert converter.run().reused_shards == 1
    converter.option = new
    with pytest.raises(OptionsChangedError, match="with option="):
        converter.run()


def test_a_source_option_may_share_the_name_of_a_base_option(tmp_path: Path) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.run()
    with pytest.raises(OptionsChangedError, match=r"with sample_rate=None; this run has sample_"):
        Optional(samples(3), tmp_path / "out", sample_rate=16000).run()


def test_source_options_that_cannot_be_stored_are_refused_before_any_work(tmp_path: Path) -> None:
    converter = Optional(samples(3), tmp_path / "out")
    converter.option = tmp_path
    with pytest.raises(ConversionError, match=r"Optional\.source_options returned .*plain values"):
        converter.run()
    assert not (tmp_path / "out").exists()


def test_a_corrected_label_is_noticed(corpus: Path, tmp_path: Path) -> None:
    def run() -> int:
        return FolderConverter(corpus, tmp_path / "out", text_column="sentence").run().reused_shards

    run()
    assert run() == 1
    table = corpus / "metadata.csv"
    table.write_text(ROWS.replace("audio_filepath", "file_name").replace("thanks", "thankz"))
    with pytest.raises(SourceChangedError, match=r"shard_00000 .* or what they hold differs\. Del"):
        run()
    (tmp_path / "out" / "shard_00000" / "data.mdb").unlink()
    (tmp_path / "out" / "shard_00000" / "lock.mdb").unlink()
    (tmp_path / "out" / "shard_00000").rmdir()
    assert run() == 0
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset["b.wav"]["translation"] == "thankz"


def test_a_corrected_text_file_is_noticed(corpus: Path, tmp_path: Path) -> None:
    (corpus / "metadata.csv").unlink()
    (corpus / "a.txt").write_text("seven")
    FolderConverter(corpus, tmp_path / "out").run()
    (corpus / "a.txt").write_text("eight")
    with pytest.raises(SourceChangedError):
        FolderConverter(corpus, tmp_path / "out").run()


ARRAY = np.arange(800, dtype=np.int16)
VALUES: dict[str, tuple[Any, Any]] = {
    "text": ("seven", "eight"),
    "integer": (1, 2),
    "kind of number": (1, 1.0),
    "boolean": (True, 1),
    "nothing": (None, 0),
    "float": (0.5, 0.25),
    "in a list": (["a", ["b"]], ["a", ["c"]]),
    "in a dict": ({"a": {"b": 1}}, {"a": {"b": 2}}),
    "order of names": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "few bytes": (b"abc", b"abd"),
    "many bytes": (bytes(1000), bytes(999) + b"x"),
    "view": (memoryview(bytes(1000)), memoryview(bytes(999) + b"x")),
    "few elements": (ARRAY[:3], ARRAY[1:4]),
    "elements": (ARRAY, ARRAY[::-1]),
    "dtype": (ARRAY, ARRAY.view(np.uint16)),
    "shape": (ARRAY, ARRAY.reshape(2, 400)),
    "scalar": (np.float32(1), np.float32(2)),
    "audio": ({"audio": clip(1)}, {"audio": clip(2)}),
    "array of audio": (
        {"audio": ARRAY, "sample_rate": 8000},
        {"audio": ARRAY[::-1], "sample_rate": 8000},
    ),
    "rate": ({"audio": ARRAY, "sample_rate": 8000}, {"audio": ARRAY, "sample_rate": 8001}),
}


@pytest.mark.parametrize(("old", "new"), VALUES.values(), ids=VALUES)
def test_another_value_of_the_same_size_is_noticed(tmp_path: Path, old: Any, new: Any) -> None:
    fields = [
        value if isinstance(value, dict) and "audio" in value else {"field": value}
        for value in (old, new)
    ]
    Listed([("k", fields[0])], tmp_path / "out").run()
    assert Listed([("k", dict(fields[0]))], tmp_path / "out").run().reused_shards == 1
    with pytest.raises(SourceChangedError):
        Listed([("k", fields[1])], tmp_path / "out").run()


@pytest.mark.parametrize(
    "changed", [{"offset": 0.02}, {"duration": 0.04}, {"path": "longer.wav"}, {"channel": 0}]
)
def test_a_changed_window_is_noticed_and_a_changed_path_is_not(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    for name, seconds in (("a.wav", 0.1), ("b.wav", 0.1), ("longer.wav", 0.2)):
        (tmp_path / name).write_bytes(clip(1, seconds))

    def run(
        path: str = "a.wav",
        offset: float = 0.01,
        duration: float = 0.05,
        channel: int | None = None,
    ) -> int:
        window = AudioWindow(tmp_path / path, offset, duration, channel)
        return Listed([("k", {"audio": window})], tmp_path / "out").run().reused_shards

    run()
    assert run(path="b.wav") == 1
    with pytest.raises(SourceChangedError):
        run(**changed)


def test_files_are_compared_by_size_not_content(corpus: Path, tmp_path: Path) -> None:
    # As the guide says: every file would have to be read again.
    FolderConverter(corpus, tmp_path / "out", text_column="sentence").run()
    (corpus / "a.wav").write_bytes(clip(7))
    converter = FolderConverter(corpus, tmp_path / "out", text_column="sentence")
    assert converter.run().reused_shards == 1
    (corpus / "a.wav").write_bytes(clip(7, 0.2))
    with pytest.raises(SourceChangedError):
        converter.run()


class Locked:
    """Nothing that can be stored."""


def test_unstorable_values_are_compared_by_type(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    strange: list[tuple[Any, Any]] = [
        ("object", {"field": Locked()}),
        ("nested", {"field": [{"in": Locked()}]}),
        ("set", {"field": {"b", "a"}}),
        ("path", {"field": tmp_path}),
        ("integer", {"field": [2**70, -(2**70)]}),
        ("loop", {"field": loop}),
        ("name", {7: "a"}),
        ("names", {"field": {("a", 1): "b"}}),
        ("surrogate", {"field": ["\ud800", {"\ud800": 1}]}),
        ("file", {"audio": "no/such\ud800.wav"}),
        ("key\ud800", {"field": 1}),
        ("no dict", "text"),
        ("none", None),
        (7, {"field": 1}),
        ("objects", {"field": np.array([Locked()])}),
    ]

    def run(items: list[tuple[Any, Any]]) -> int:
        return Listed(items, tmp_path / "out", on_error="skip").run().reused_shards

    run(strange)
    assert run(strange) == 1
    for place, (key, _) in enumerate(strange):
        with pytest.raises(SourceChangedError):
            run([*strange[:place], (key, {"other": 1}), *strange[place + 1 :]])


def journal(out: Path) -> Mapping[str, Any]:
    return ShardReader(out / "shard_00000").index.journal


def test_the_digest_can_be_computed_from_the_page_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(clip(1))
    wav, size = clip(1), len(clip(1))
    descr = msgspec.msgpack.encode(["<i2", [800]])
    header = struct.pack("<H", len(descr)) + descr
    elements = ARRAY.tobytes()
    window = AudioWindow(tmp_path / "a.wav", 0.01, 0.05)
    expected: list[tuple[str, Sample, int, dict[str, Any]]] = [
        ("file", {"audio": tmp_path / "a.wav"}, size, {"audio": Ext(5, struct.pack("<Q", size))}),
        (
            "bytes",
            {"audio": wav, "text": "zwölf", "more": [1, {"a": None}], "few": b"abc"},
            size + 5 + 3,
            {
                "audio": Ext(1, struct.pack("<QQI", 0, size, zlib.crc32(wav))),
                "text": "zwölf",
                "more": [1, {"a": None}],
                "few": b"abc",
            },
        ),
        (
            "array",
            {"audio": ARRAY, "sample_rate": 8000},
            1600,
            {
                "audio": Ext(2, struct.pack("<QQI", 0, 1600, zlib.crc32(elements)) + header),
                "sample_rate": 8000,
            },
        ),
        ("part", {"audio": window}, 1600, {"audio": Ext(5, struct.pack("<Qdd", size, 0.01, 0.05))}),
        (
            "rest",
            {"audio": AudioWindow(tmp_path / "a.wav", 0.01)},
            size,
            {"audio": Ext(5, struct.pack("<Qdd", size, 0.01, float("inf")))},
        ),
        (
            "channel",
            {"audio": AudioWindow(tmp_path / "a.wav", 0.01, 0.05, channel=0)},
            1600,
            {"audio": Ext(5, struct.pack("<QddH", size, 0.01, 0.05, 0))},
        ),
        ("object", {"field": Locked()}, 0, {"field": Ext(6, b"Locked")}),
        ("name", {"field": "\udcff"}, 1, {"field": b"\xed\xb3\xbf"}),
    ]
    Listed([(key, sample) for key, sample, _, _ in expected], tmp_path / "o", on_error="skip").run()
    hashed = b"".join(msgspec.msgpack.encode([key, n, fields]) for key, _, n, fields in expected)
    assert journal(tmp_path / "o")["digest"] == sha256(hashed).hexdigest()
    assert journal(tmp_path / "o")["bytes"] == sum(n for _, _, n, _ in expected)


def test_the_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from audiomdb.shards import DatasetWriter
with DatasetWriter(sys.argv[1], on_error="skip") as writer:
    for n in range(99):
        writer.write(f"{n}", {"text": "x", "tags": {"b", "a"}, "array": np.arange(n), "o": object})
"""
    digests = set()
    for seed in ("1", "2"):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(out)], check=True, env=environment)
        digests.add(journal(out)["digest"])
    assert len(digests) == 1
