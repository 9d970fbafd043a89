import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.corpus import RECORDINGS
from benchmarks.peers import measuring
from benchmarks.peers.figures import cpu_per_hour, loading, rate
from benchmarks.peers.jobs.padding import ours as padding
from benchmarks.peers.jobs.shuffling import quality
from benchmarks.peers.plan import SHORT, Plan, in_rounds
from benchmarks.peers.registry import ENVIRONMENTS
from benchmarks.peers.report import section
from benchmarks.peers.results import read_findings
from benchmarks.peers.running import Runner
from benchmarks.peers.system import Settings, clip_name
from benchmarks.peers.targets import found_targets

SYSTEMS = {
    "dr_flac-2": ("bare dr_flac, 2 threads", "floor", [1.0, 2.0, 1.0]),
    "audiomdb": ("AudioMDB", "ours", [1.1, 2.5, 1.2]),
    "litdata": ("litdata", "peer", [3.0, 6.0, 4.0]),
    "loose": ("torch Dataset, loose files", "by hand", [4.0, 8.0, 5.0]),
}
SETTINGS = {"workers": 0, "threads": 2, "decoder": ""}


@pytest.fixture
def findings(tmp_path):
    systems = {name: {"name": n, "kind": k, "notes": ""} for name, (n, k, _) in SYSTEMS.items()}
    sizes = {"rounds": 3, "write_rounds": 1, "utterances": 2, "digits": 2}
    machine = ("cpu", "cores", "memory_gib", "system", "file_system", "python", "commit")
    lines = [
        {"kind": "run", "systems": systems, "sizes": sizes, "peers": {"litdata": "1"}}
        | dict.fromkeys(machine, "x")
    ]
    for name, (_, _, walls) in SYSTEMS.items():
        for number, wall_s in enumerate(walls):
            found = {
                "wall_s": wall_s,
                "cpu_s": 2 * wall_s,
                "seconds": 3600.0,
                "frames": [10, 10],
                "expected_frames": 10,
                "first_batch_s": None if name == "dr_flac-2" else wall_s,
            }
            about = {"corpus": "speech", "system": name, "round": number, "settings": SETTINGS}
            lines.append({"kind": "load", **about, "found": found})
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_findings(path)


def test_ratios_are_taken_within_a_round(findings):
    found = loading(findings, "audiomdb", "speech")
    # 1 / 1.1, 2 / 2.5, 1 / 1.2: the second round was slow for everybody.
    assert found.ratio.median == pytest.approx(1 / 1.2)
    assert (found.ratio.low, found.ratio.high) == pytest.approx((0.8, 1 / 1.1))
    assert found.rate.median == pytest.approx(3000)
    assert found.cpu_ratio.median == pytest.approx(1.2)


def test_ratios_from_turns_are_preferred_over_those_of_all_systems(findings):
    about = {"corpus": "speech", "round": 0, "settings": SETTINGS}
    for system, wall_s in (("dr_flac-2", 9.0), ("audiomdb", 10.0), ("litdata", 30.0)):
        clips = {"frames": [10], "expected_frames": 10, "first_batch_s": None}
        found = {"wall_s": wall_s, "cpu_s": wall_s, "seconds": 3600.0, **clips}
        findings.by_work["turns"].append({**about, "system": system, "found": found})
    found = loading(findings, "audiomdb", "speech")
    assert found.ratio.median == pytest.approx(0.9)
    assert found.rate.median == pytest.approx(3000)
    assert loading(findings, "litdata", "speech").ratio.median == pytest.approx(0.3)
    targets = {target.what: target.value for target in found_targets(findings)}
    assert targets["speech: whole loader, of the best peer"] == pytest.approx(3)
    page = "\n".join(section(findings, "plots"))
    assert "The ratios of AudioMDB, litdata are those of\n1 rounds of these" in page


def test_the_best_peer_is_no_floor(findings):
    targets = {target.what: target for target in found_targets(findings)}
    beside = targets["speech: whole loader, of the best peer"]
    assert beside.beside == "litdata"
    # 3 / 1.1, 6 / 2.5, 4 / 1.2: of the medians it would be 4 / 1.2.
    assert beside.value == pytest.approx(3 / 1.1)
    assert beside.met
    assert targets["speech: whole loader, of a bare loop"].met is False


def test_an_inexact_epoch_counts_the_clips_it_delivered():
    found = {
        "wall_s": 2.0,
        "cpu_s": 1.0,
        "seconds": 100.0,
        "frames": [9, 20],
        "expected_frames": 10,
    }
    assert rate(found) == pytest.approx(100)
    assert cpu_per_hour(found) == pytest.approx(18)


def test_the_page_of_a_run_has_every_loader(findings):
    page = "\n".join(section(findings, "plots"))
    assert "| litdata | 0 workers, 2 threads | 900 (600 to 1200) | 0.33 (0.25 to 0.33) |" in page
    assert "![Loader rates](plots/loader-speech.svg)" in page
    assert all(name in page for name, _, _ in SYSTEMS.values())


def test_each_round_has_every_name_once_and_begins_elsewhere():
    turns = list(in_rounds(3, ["a", "b", "c"]))
    assert [number for number, _ in turns] == [0] * 3 + [1] * 3 + [2] * 3
    rounds = [[name for number, name in turns if number == wanted] for wanted in range(3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert {names[0] for names in rounds} == {"a", "b", "c"}


def searching(tmp_path, *systems):
    offered = dict.fromkeys(ENVIRONMENTS, sys.executable)
    return Plan(Runner(offered, tmp_path / "run.jsonl"), SHORT, tmp_path, tmp_path, systems)


def test_the_fastest_try_of_several_counts(tmp_path):
    plan = searching(tmp_path, "audiomdb")
    for threads, wall_s in ((1, 2.0), (2, 1.03), (3, 1.01), (4, 1.0), (2, 1.015)):
        plan.tried("audiomdb", "speech", Settings(threads=threads), wall_s)
    assert [each.threads for each in plan.fastest("audiomdb", "speech")] == [4, 3, 2, 1]
    assert plan.settings("audiomdb", "speech") == Settings(threads=4)


def test_the_peers_that_come_near_the_fastest_are_its_rivals(tmp_path):
    plan = searching(tmp_path, "audiomdb", "dr_flac-2", "litdata", "webdataset", "loose", "mosaic")
    assert plan.rivals("speech") == []
    walls = {"audiomdb": 1.0, "dr_flac-2": 0.9, "litdata": 3.0, "webdataset": 3.2, "loose": 3.1}
    for system, wall_s in walls.items():
        plan.tried(system, "speech", Settings(threads=2), wall_s)
        plan.tried(system, "speech", Settings(threads=1), 2 * wall_s)
    assert sorted(plan.rivals("speech")) == ["litdata", "loose"]
    assert plan.rivals("digits") == []


class Asked(Runner):
    """Runs nothing, and remembers what it was asked for."""

    def __init__(self, folder):
        super().__init__(dict.fromkeys(ENVIRONMENTS, sys.executable), folder / "run.jsonl")
        self.works = {}

    def job(self, _, system, *, given, **__):
        self.works[system] = given.get("works")
        return {}


def test_a_system_is_read_in_the_ways_that_are_its_own(tmp_path):
    systems = ("files", "loose", "spdl", "spdl-fast", "audiomdb", "audiomdb-views")
    runner = Asked(tmp_path)
    plan = Plan(runner, replace(SHORT, utterances=2), tmp_path, RECORDINGS, systems)
    measuring.read(plan)
    encoded = ["cold", "order", "shuffled", "random"]
    assert runner.works == {
        "files": [*encoded, "decoded"],
        "loose": [*encoded, "decoded"],
        "spdl": ["decoded"],
        "audiomdb": [*encoded, "decoded"],
        "audiomdb-views": encoded,
    }


def test_a_clip_has_one_name_in_every_system():
    assert {clip_name(key) for key in ("a/b/clip_1.flac", "clip_1", "clip_1.x.wav")} == {"clip_1"}


def test_an_order_without_mixing_has_no_quality():
    # Shards one after another, in another order than stored, clips shuffled inside of neither.
    order = np.arange(4 * 128).reshape(4, 128)[[2, 0, 3, 1]].ravel()
    found = quality(order, 128)
    assert found["shift"] == 0
    assert found["correlation"] == pytest.approx(1)
    assert found["largest_share"] == 1
    assert (found["mean_alive"], found["most_alive"]) == (1, 1)


def test_an_order_of_all_shards_at_once_has_the_best_quality():
    order = np.random.default_rng(1).permutation(16 * 256)
    found = quality(order, 256)
    assert found["most_alive"] == 16
    assert found["largest_share"] < 0.2
    assert found["shift"] > 4


def test_batches_by_seconds_hold_no_more_than_they_may():
    found = padding("audiomdb", 500, 60.0, [10, 20], [1, 4], 1)
    assert [(case["buckets"], case["slots"]) for case in found["cases"]] == [
        (10, 1),
        (10, 4),
        (20, 1),
        (20, 4),
    ]
    assert all(case["over"] == 0 and 0 < case["padding"] < 0.3 for case in found["cases"])
