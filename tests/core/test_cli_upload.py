"""`upload` to a folder that holds something already."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from audiomdb.cli import main
from audiomdb.shards import DatasetWriter, read_metadata, verify_dataset
from audiomdb.shards.folder_lock import lock_folder
from audiomdb.uploaders.local import LocalUploader
from tests.commands import files, output


def dataset(folder: Path, level: float = 0.5, *, clips: int = 4) -> Path:
    with DatasetWriter(folder, samples_per_shard=2) as writer:
        for number in range(clips):
            audio = np.full(400, level, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
    return folder


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return dataset(tmp_path / "digits")


def test_a_dataset_of_another_name_is_replaced_only_on_request(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = dataset(tmp_path / "music", 0.25, clips=6)
    before = files(target)
    for place in (str(target), target.as_uri()):
        message = output(capsys, "upload", digits, place, code=1)
        assert f"{target} holds the dataset 'music', and 'digits' is to go there" in message
        assert "--replace" in message
        assert files(target) == before
    output(capsys, "upload", digits, target, "--replace")
    assert read_metadata(target) == read_metadata(digits)


def test_an_older_version_is_replaced_only_on_request(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = dataset(tmp_path / "elsewhere" / "digits", 0.25)
    (target / "README.md").write_text("kept")
    before = files(target)
    message = output(capsys, "upload", digits, target, code=1)
    assert f"{target} holds another version of the dataset 'digits'" in message
    assert files(target) == before
    output(capsys, "upload", digits, target, "--replace")
    assert files(target).items() >= files(digits).items()
    assert (target / "README.md").read_text() == "kept"


@pytest.mark.parametrize("file", ["song.mp3", "shard_00000/notes.txt", ".partial/x", "shard_1/x"])
@pytest.mark.parametrize("options", [(), ("--replace",)], ids=["", "replace"])
def test_a_folder_of_other_files_is_refused_and_one_of_them_named(
    file: str,
    options: tuple[str, ...],
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "mine"
    (target / file).parent.mkdir(parents=True)
    (target / file).write_text("mine")
    message = output(capsys, "upload", digits, target, *options, code=1)
    named = file if file.startswith("shard_00000") else file.partition("/")[0]
    assert f"{target} holds {named!r} and no dataset" in message
    assert files(target) == {file: b"mine"}


def test_an_upload_that_was_stopped_anywhere_goes_on(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "disk"
    target.mkdir()
    output(capsys, "upload", digits, target)
    (target / "metadata.json").rename(target / ".metadata.json.tmp")
    (target / "index.bin").rename(target / ".index.bin.tmp")
    shard = target / "shard_00001"
    (shard / "data.mdb").rename(shard / ".data.mdb.tmp")
    (shard / "lock.mdb").unlink()
    assert "2 files had been there" in output(capsys, "upload", digits, target)
    assert files(target) == files(digits)
    assert verify_dataset(target) == []


def test_metadata_that_cannot_be_read_is_replaced_on_request_only(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "website"
    target.mkdir()
    (target / "metadata.json").write_text('{"title": "no dataset"}')
    message = output(capsys, "upload", digits, target, code=1)
    assert f"{target} holds something that cannot be read as a dataset" in message
    assert files(target) == {"metadata.json": b'{"title": "no dataset"}'}
    output(capsys, "upload", digits, target, "--replace")
    assert files(target) == files(digits)


def test_the_help_tells_when_to_replace(capsys: pytest.CaptureFixture[str]) -> None:
    printed = " ".join(output(capsys, "upload", "--help").split())
    assert "may be an older version of this one, is replaced only with --replace" in printed


def test_shards_of_an_unfinished_conversion_are_replaced_only_on_request(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = dataset(tmp_path / "music", 0.25, clips=6)
    for name in ("metadata.json", "index.bin"):
        (target / name).unlink()
    before = files(target)
    message = output(capsys, "upload", digits, target, code=1)
    assert f"{target} holds shard_00000/data.mdb, which is not of the dataset 'digits'" in message
    assert "a conversion or an upload that has not ended" in message
    assert files(target) == before
    output(capsys, "upload", digits, target, "--replace")
    assert list(verify_dataset(target)) == []


def test_shards_of_the_same_size_are_told_apart(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "other", samples_per_shard=2) as writer:
        for number in range(4):
            audio = np.full(400, 0.5, np.float32)
            writer.write(f"clap-{number}", {"audio": audio, "sample_rate": 16_000})
    target = tmp_path / "other"
    sizes = {name: len(content) for name, content in files(target).items()}
    assert sizes["shard_00000/data.mdb"] == len(files(digits)["shard_00000/data.mdb"])
    (target / "metadata.json").unlink()
    assert "is not of the dataset 'digits'" in output(capsys, "upload", digits, target, code=1)


def test_a_replacement_that_was_stopped_goes_on(
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = dataset(tmp_path / "elsewhere" / "digits", 0.25, clips=6)

    def stopped(self: LocalUploader, full_path: str, rel_path: str) -> None:
        if rel_path == "shard_00001/data.mdb":
            raise KeyboardInterrupt
        copy(self, full_path, rel_path)

    copy = LocalUploader.upload_file
    with monkeypatch.context() as patch:
        patch.setattr(LocalUploader, "upload_file", stopped)
        assert main(["upload", str(digits), str(target), "--replace", "-o", "workers=1"]) == 130
    assert "metadata.json" not in files(target), "who comes now must not meet a mixture"
    third = dataset(tmp_path / "third", 0.75)
    assert "is not of the dataset 'third'" in output(capsys, "upload", third, target, code=1)
    output(capsys, "upload", digits, target)
    assert files(target) == files(digits)


@pytest.mark.parametrize("setting", ["False", "false"])
def test_options_may_be_spelled_as_in_python(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    # "False" as text would be true, and show a bar.
    assert "uploading" not in output(
        capsys, "upload", digits, tmp_path / "another", "-o", f"progress={setting}"
    )
    assert "uploading" in output(
        capsys, "upload", digits, tmp_path / "third", "-o", "progress=True"
    )


def test_upload_leaves_a_folder_alone_while_another_process_writes_to_it(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = dataset(tmp_path / "music", 0.25)
    before = files(target)
    lock, _ = lock_folder(target)
    message = output(capsys, "upload", digits, target, "--replace", code=1)
    assert "another process is writing to" in message
    assert files(target) == before
    os.close(lock)


def test_a_boolean_option_accepts_only_true_or_false(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ("progress=no", "progress=1", "progress="):
        message = output(capsys, "upload", digits, tmp_path / "copy", "-o", setting, code=2)
        assert message.endswith("expected true or false\n")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("setting", ["prefetch=many", "prefetch=1.5", "prefetch=true", "prefetch="])
def test_a_number_option_accepts_only_numbers(
    digits: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    message = output(capsys, "info", digits, "-o", setting, code=2)
    assert message.endswith(f"--option '{setting}': expected a whole number\n")


def test_an_option_of_the_command_itself_cannot_be_given_twice(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cache_dir", "workers"):
        message = output(capsys, "pull", digits, tmp_path / "copy", "-o", f"{name}=1", code=2)
        assert f"--option {name} is what --{name.replace('_', '-')} is for here" in message
