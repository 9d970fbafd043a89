"""README and guides are right: their examples run, and their commands are those that are checked.

The blocks of a page are one program, in order; its lines have the numbers that they have in the
page. A comment right above a block may say otherwise:

    <!-- not run: reason -->   it is left out
    <!-- file: path -->        it is written to that file; a pyproject.toml counts as installed
    <!-- needs: module -->     it is left out where that module is not installed
    <!-- command: name -->     it is for continuous integration
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audiomdb.converters.files import FolderConverter
from tests.hf.conftest import running_hub  # noqa: F401 (a fixture)
from tests.hf.hub import Hub
from tests.packages import register
from tests.s3.conftest import S3Server

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
PAGES = [README, *GUIDES, ROOT / "docs/profiling.md"]
RECORDINGS = ROOT / "packages/audiomdb-core/src/audiomdb/cli/data/fsdd"

FENCE = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"(?P<kind>not run|file|needs|command): (?P<what>\S.*)")

FILLED_IN = {"train_step"}
"""Names that stand for the reader's own code."""

PRELUDE = """
import multiprocessing; multiprocessing.set_start_method("fork")
def train_step(batch): assert len(batch)
""".strip()
"""On the first lines of each program, where a page has its title.

Pages leave out `if __name__ == "__main__":`, which a script needs where workers are not forked."""

ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
"""What a conversion with a processor takes for one worker, which then is the program itself: others
would import torch and transformers anew, which costs more than all else on the page."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `line` is that of its first line of code, from 1."""

    page: Path
    line: int
    language: str
    comment: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    def says(self, kind: str) -> str | None:
        """What its comment has to say of this kind."""
        found = COMMENT.fullmatch(self.comment)
        return found["what"] if found and found["kind"] == kind else None

    @property
    def is_run(self) -> bool:
        """Python or shell that carries no reason against running it."""
        if self.says("not run") or self.says("command"):
            return False
        module = self.says("needs")
        if module is not None and importlib.util.find_spec(module) is None:
            return False
        return self.says("file") is not None or self.language in ("python", "sh")

    @property
    def program(self) -> str:
        """The same in Python, on as many lines at most."""
        file = self.says("file")
        if file is not None:
            return f"__import__('pathlib').Path({file!r}).write_text({self.code!r})"
        if self.language == "sh":
            commands = f"set -e\n{self.code}"
            return f"__import__('subprocess').run({commands!r}, shell=True, check=True)"
        return self.code


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"],
            comment=match["comment"] or "",
            code=match["code"],
        )
        for match in FENCE.finditer(text)
    ]


def program_of(page: Path) -> str:
    """What a page tells to type, each line where the page has it."""
    lines = PRELUDE.splitlines()
    if page == README and hasattr(os, "sched_setaffinity"):
        lines.append(ONE_CORE)
    for block in blocks(page):
        if block.is_run:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.program.splitlines()
    return "\n".join([*lines, ""])


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def recordings(folder: Path) -> None:
    """A folder `recordings` and a `manifest.jsonl`: one take of each digit and speaker."""
    (folder / "recordings").mkdir()
    head, *table = (RECORDINGS / "metadata.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in table if row.split(",")[0].endswith("_0.wav")]
    listed = "\n".join([head, *rows, ""])
    (folder / "recordings/metadata.csv").write_text(listed, encoding="utf-8")
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for row in rows:
            name, text, speaker, _ = row.split(",")
            shutil.copyfile(RECORDINGS / name, folder / "recordings" / name)
            entry = {"audio_filepath": f"recordings/{name}", "text": text, "speaker": speaker}
            manifest.write(json.dumps(entry) + "\n")


def whisper_model(folder: Path) -> None:
    """An extractor, and a tokenizer whose only tokens are bytes, under a model's name.

    transformers takes a folder of that name for the model.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
    special += ["<|translate|>", "<|notimestamps|>"]
    tokens = [*sorted(ByteLevel.alphabet()), *special]
    files = {
        "preprocessor_config.json": json.dumps({"feature_size": 80}),
        "vocab.json": json.dumps({token: number for number, token in enumerate(tokens)}),
        "merges.txt": "",
        "tokenizer_config.json": "{}",
    }
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def hub_table(folder: Path) -> bytes:
    """A few recordings as the Hub has datasets: a Parquet file."""
    pyarrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    clips = sorted((folder / "recordings").glob("*.wav"))[:4]
    rows = [
        {
            "audio": {"bytes": clip.read_bytes(), "path": clip.name},
            "sentence": clip.stem.split("_")[0],
        }
        for clip in clips
    ]
    target = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), target)
    content: bytes = target.getvalue().to_pybytes()
    return content


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is the same for all pages: recordings, a dataset of them, a model, a table."""
    folder = tmp_path_factory.mktemp("small")
    recordings(folder)
    FolderConverter(folder / "recordings", folder / "shards", samples_per_shard=20).run()
    whisper_model(folder / "openai/whisper-small")
    (folder / "table").write_bytes(hub_table(folder))
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, tmp_path: Path, small: Path, s3: S3Server
) -> dict[str, str]:
    """The folder, the stores and the settings that the pages take for granted."""
    for name in ("recordings", "manifest.jsonl", "openai"):
        copy: Any = shutil.copytree if (small / name).is_dir() else shutil.copyfile
        copy(small / name, tmp_path / name)
    shutil.copytree(small / "shards", tmp_path / "speech_data")
    programs = tmp_path / "programs"
    programs.mkdir()
    command = programs / "audiomdb"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m audiomdb.cli "$@"\n')
    command.chmod(0o755)
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    hub: Hub = request.getfixturevalue("running_hub")
    hub.forget()
    hub.add_dataset("mozilla/common_voice", small / "shards")
    table = {"data/train-00000-of-00001.parquet": (small / "table").read_bytes()}
    hub.add("mozilla-foundation/common_voice_17_0", table)
    taken = {name: text for name, text in os.environ.items() if name[:3] not in ("AWS", "HF_")}
    settings = {
        **taken,
        **keys,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_CONFIG_FILE": str(tmp_path / "no-such-file"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-such-file"),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    client = _client(s3)
    for bucket in client.list_buckets()["Buckets"]:
        for item in client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
            client.delete_object(Bucket=bucket["Name"], Key=item["Key"])
    for name in ("bucket", "my-bucket", "my-dataset"):
        client.create_bucket(Bucket=name)
    for path in (small / "shards").rglob("*"):
        if path.is_file():
            key = f"music_data/{path.relative_to(small / 'shards').as_posix()}"
            client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
    return settings


def _client(s3: S3Server) -> Any:
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.session.Session(**keys, region_name="us-east-1").client("s3", endpoint_url=s3.url)


def install(project: dict[str, Any], folder: Path) -> None:
    """Make the entry points of a project in the working directory known."""
    text = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in project["entry-points"].items()
    )
    register(folder, project["name"], project["version"], text)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_examples_of_a_page_run_one_after_another(
    page: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    for block in blocks(page):
        file = block.says("file")
        if file is not None and file.endswith("pyproject.toml"):
            install(tomllib.loads(block.code)["project"], tmp_path)
    # A file of its own, as a reader has it: worker processes start from it.
    script = tmp_path / f"{page.stem.lower()}_examples.py"
    script.write_text(program_of(page), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, f"{page_name(page)}\n{result.stdout[-8000:]}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_fence_of_a_page_is_understood(page: Path) -> None:
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))
    assert any(block.is_run for block in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    unclear = [
        f"{block.place}: {block.comment or block.language!r}"
        for block in blocks(page)
        if (block.comment and not COMMENT.fullmatch(block.comment))
        or (not block.comment and block.language not in ("python", "sh", "text", "json"))
    ]
    assert unclear == []


def test_each_example_of_the_readme_can_be_copied_alone() -> None:
    unknown = [
        f"{block.place}: {name}"
        for block in blocks(README)
        if block.language == "python"
        for name in sorted(names_it_lacks(block.code))
    ]
    assert unknown == []


def names_it_lacks(code: str) -> set[str]:
    """Names that a program uses and neither makes, imports nor finds in Python."""
    used: set[str] = set()
    made = {*vars(builtins), *FILLED_IN}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    return used - made


@pytest.mark.parametrize("name", ["quickstart", "tests"])
def test_each_command_is_one_line_that_starts_from_nothing(name: str) -> None:
    (block,) = [block for block in blocks(README) if block.comment == f"command: {name}"]
    (line,) = block.code.splitlines()
    # Debian's and Ubuntu's Python refuse pip outside a virtual environment (PEP 668).
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "<!-- command: tests -->" in script
    assert "nox" not in script, "the command itself stands in the README alone"
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=page_name
)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_leads_to_every_guide() -> None:
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in GUIDES if f"](docs/guides/{page.name}" not in text] == []
