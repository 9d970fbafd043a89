"""Progress is shown to whoever watches a terminal, and costs others nothing."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from audiomdb.progress import Progress, progress
from audiomdb.shards import DatasetWriter
from tests.commands import run_in_terminal
from tests.core.conversions import clip


def test_without_a_terminal_nothing_is_printed_and_tqdm_not_imported() -> None:
    code = (
        "import sys; from audiomdb.progress import progress\n"
        "with progress(3, description='reading') as bar:\n"
        "    for _ in range(3): bar.update()\n"
        "assert 'tqdm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


class OnlyWrites:
    """What programs put in the place of stderr to have it in their log."""

    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, OnlyWrites(), closed_stream()])
@pytest.mark.parametrize("show", [None, True])
def test_any_replacement_for_stderr_leaves_the_job_running(
    stream: Any, show: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(3, show=show) as bar:
        bar.update(3)


def test_a_terminal_shows_count_rate_and_description() -> None:
    seen = run_in_terminal(
        "from audiomdb.progress import progress\n"
        "with progress(3, description='reading') as bar:\n"
        "    for _ in range(3): bar.update()\n"
    )
    last = seen.rstrip().rsplit("\r", 1)[-1]
    assert "reading: 100%" in last
    assert "3/3" in last
    assert "clips/s" in last


def test_a_terminal_of_unknown_size_shows_the_bar_too() -> None:
    # A fresh pseudo-terminal is 0 by 0, where tqdm left alone draws an empty line.
    seen = run_in_terminal(
        "import os\nassert os.get_terminal_size(2) == (0, 0)\n"
        "from audiomdb.progress import progress\n"
        "with progress(2) as bar: bar.update(2)\n"
    )
    assert "2/2" in seen


def test_bytes_are_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2_000_000, unit="B", show=True) as bar:
        bar.update(2_000_000)
    assert "2.00M/2.00M" in capsys.readouterr().err


def test_show_false_wins_over_a_terminal() -> None:
    seen = run_in_terminal(
        "from audiomdb.progress import progress\n"
        "with progress(2, show=False) as bar: bar.update(2)\n"
    )
    assert seen == ""


def test_an_unknown_total_still_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(None, unit="shards", show=True) as bar:
        bar.update(7)
    assert "7 shards" in capsys.readouterr().err


def test_closing_twice_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress(1, show=True)
    bar.close()
    bar.close()
    assert capsys.readouterr().err


def test_no_thread_and_no_process_lock_is_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with progress(1, show=True) as bar:
        bar.update()
        assert threading.active_count() == before
    assert capsys.readouterr().err


def test_several_threads_may_update_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(4000, show=True) as bar:

        def work() -> None:
            for _ in range(1000):
                bar.update()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "4000/4000" in capsys.readouterr().err


def test_silent_progress_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as bar:
        bar.update(3)
        bar.close()
    assert capsys.readouterr() == ("", "")


UPLOAD = """
import sys
from audiomdb.uploaders.local import LocalUploader

shown = {"None": None, "True": True, "False": False}[sys.argv[3]]
LocalUploader(sys.argv[2], progress=shown).upload_dir(sys.argv[1])
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "digits", samples_per_shard=2) as writer:
        for number in range(6):
            writer.write(f"clip-{number}", {"text": "x" * 500})
    return tmp_path / "digits"


def test_an_upload_shows_a_bar_of_bytes_unless_it_is_turned_off(
    dataset: Path, tmp_path: Path
) -> None:
    seen = run_in_terminal(UPLOAD, dataset, tmp_path / "first", None)
    last = seen.rstrip().rsplit("\r", 1)[-1]
    assert "uploading digits: 100%" in last
    total = sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file())
    assert f"{total / 1000:.0f}k/{total / 1000:.0f}k" in last
    assert run_in_terminal(UPLOAD, dataset, tmp_path / "second", False) == ""


def test_without_a_terminal_an_upload_shows_a_bar_only_on_request(
    dataset: Path, tmp_path: Path
) -> None:
    for shown in (None, True):
        target = str(tmp_path / str(shown))
        command = [sys.executable, "-c", UPLOAD, str(dataset), target, str(shown)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("uploading digits: 100%" in done.stderr) is bool(shown)
        assert shown or done.stderr == ""


def test_a_message_of_a_command_does_not_end_up_behind_its_bar(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for number in range(3):
        (recordings / f"clip-{number}.wav").write_bytes(clip(number))
    (recordings / "notes.md").touch()
    seen = run_in_terminal(
        "import sys\nfrom audiomdb.cli import main\n"
        "assert main(['convert', 'folder', sys.argv[1], sys.argv[2]]) == 0\n",
        recordings,
        tmp_path / "out",
    )
    bar, _, rest = seen.partition("\r\x1b[Kaudiomdb: ")  # clears the line first
    assert "0/3" in bar
    message, _, rest = rest.partition("\r\n")
    assert message.endswith("skipped 1 file: 1 .md")
    assert "3/3" in rest
