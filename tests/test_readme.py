"""The README is right: its examples run, and its commands are the ones this repository checks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RECORDINGS = ROOT / "packages/audiomdb-core/src/audiomdb/cli/data/fsdd"

FENCE = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"not run: \S.*")


@dataclass(frozen=True)
class Block:
    """One fenced block of the README; `line` is that of its first line of code, from 1."""

    line: int
    language: str
    comment: str
    code: str

    @property
    def is_run(self) -> bool:
        """Python that carries no reason against running it."""
        return self.language == "python" and not NOT_RUN.fullmatch(self.comment)


def blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8")
    return [
        Block(
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"],
            comment=match["comment"] or "",
            code=match["code"],
        )
        for match in FENCE.finditer(text)
    ]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: `recordings/` and `manifest.jsonl`."""
    folder = tmp_path_factory.mktemp("readme")
    recordings = folder / "recordings"
    recordings.mkdir()
    table = (RECORDINGS / "metadata.csv").read_text(encoding="utf-8").splitlines()
    # One take of each digit and speaker: enough for every example, and quick.
    rows = [row for row in table[1:] if row.split(",")[0].endswith("_0.wav")]
    (recordings / "metadata.csv").write_text("\n".join([table[0], *rows, ""]), encoding="utf-8")
    lines = []
    for row in rows:
        name, text, speaker, _ = row.split(",")
        shutil.copyfile(RECORDINGS / name, recordings / name)
        entry = {"audio_filepath": f"recordings/{name}", "text": text, "speaker": speaker}
        lines.append(json.dumps(entry) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_every_fence_of_the_readme_is_understood() -> None:
    fences = re.findall(r"^```", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks())


def test_every_python_block_is_run_or_says_why_not() -> None:
    unclear = [
        f"README.md:{block.line}: {block.comment!r} must be <!-- not run: reason -->"
        for block in blocks()
        if block.language == "python" and block.comment and block.is_run
    ]
    assert unclear == []
    assert any(block.is_run for block in blocks())


def test_the_examples_run_one_after_another(workplace: Path) -> None:
    # Each is a script of its own, as its reader has it: worker processes start from the file.
    environment = {**os.environ, "XDG_CACHE_HOME": str(workplace / "cache")}
    for block in blocks():
        if not block.is_run:
            continue
        script = workplace / f"line_{block.line}.py"
        script.write_text(block.code, encoding="utf-8")
        result = subprocess.run(
            [sys.executable, script.name],
            cwd=workplace,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, f"README.md:{block.line}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("name", ["quickstart", "tests"])
def test_each_command_is_one_line_that_starts_from_nothing(name: str) -> None:
    (block,) = [block for block in blocks() if block.comment == f"command: {name}"]
    (line,) = block.code.splitlines()
    # Debian's and Ubuntu's Python refuse pip outside a virtual environment (PEP 668).
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "<!-- command: tests -->" in script
    assert "nox" not in script, "the command itself stands in the README alone"
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_links_of_the_readme_lead_to_files() -> None:
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
