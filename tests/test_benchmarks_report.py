import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import report

PUBLISHED = Path(__file__).parents[1] / "docs/benchmarks"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with the published results beside it, and no newer ones."""
    for name in ("RESULTS", "PEER_RESULTS", "REMOTE_RESULTS"):
        monkeypatch.setattr(report, name, tmp_path / "none")
    (tmp_path / "page").mkdir()
    for path in PUBLISHED.glob("*.jsonl"):
        shutil.copy(path, tmp_path / "page")
    return tmp_path / "page.md"


def written(page, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", "--out", str(page), *map(str, arguments)])
    report.main()
    return page.read_text(encoding="utf-8")


def test_a_page_keeps_sections_that_were_not_measured_again(page, monkeypatch):
    before = {path.name: path.read_bytes() for path in page.with_suffix("").glob("*.jsonl")}
    text = written(page, monkeypatch)
    for title in ("## Beside other systems", "## Against floors", "## Remote datasets"):
        assert f"\n{title}\n" in text
    kept = {path.name: path.read_bytes() for path in page.with_suffix("").glob("*.jsonl")}
    assert kept == before


def test_rounds_of_combined_runs_stay_separate(tmp_path):
    searched = {"kind": "search", "system": "files", "found": 3}
    for name, speeds in (("one", (1, 2)), ("two", (5,))):
        rows = [{"kind": "run", "commit": name}, searched]
        rows += [{"kind": "read", "round": at, "found": n} for at, n in enumerate(speeds)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = report._as_one([tmp_path / "one", tmp_path / "two"])
    head, *rows = map(json.loads, text.splitlines())
    assert [part["commit"] for part in (head, *head["parts"])] == ["one", "two"]
    assert [row["found"] for row in rows if row["kind"] == "search"] == [3]
    assert [(row["round"], row["found"]) for row in rows if row["kind"] == "read"] == [
        (0, 1),
        (1, 2),
        (2, 5),
    ]


def test_combined_runs_name_the_commits_of_all_parts(page, tmp_path, monkeypatch):
    published = page.with_suffix("") / "floors.jsonl"
    head, *_ = published.read_text(encoding="utf-8").splitlines()
    again = tmp_path / "again.jsonl"
    figure = {"kind": "figure", "name": "open.x", "title": "new", "value": 1, "unit": "s"}
    run = {**json.loads(head), "commit": "abcdef0", "parts": []}
    again.write_text(f"{json.dumps(run)}\n{json.dumps(figure)}\n", encoding="utf-8")
    text = written(page, monkeypatch, "--floors", published, again)
    floors = text.partition("## Against floors")[2].partition("\n## ")[0]
    commits = {json.loads(head)["commit"], "abcdef0"}
    commits |= {part["commit"] for part in json.loads(head).get("parts", ())}
    assert [commit for commit in commits if commit not in floors] == []
    assert "| new | 1 s |" in floors
