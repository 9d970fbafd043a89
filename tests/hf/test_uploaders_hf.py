from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb._hf_card import merge_card
from audiomdb._hf_url import HubFolder
from audiomdb.shards import DatasetWriter, Feature, read_metadata
from tests.commands import files
from tests.hf.hub import HubFile, Repository

UPLOAD = """
    import json, sys
    from audiomdb.uploaders.hf import HFUploader

    options = json.loads(sys.argv[2])
    report = HFUploader(options.pop("repo_id", "user/digits"), **options).upload_dir(sys.argv[1])
    print(report.files, report.sent_files)
"""


def upload(hub: Any, folder: Path, **options: Any) -> tuple[int, int]:
    """Files of the dataset, and how many of them were sent."""
    files, sent = hub.run(UPLOAD, folder, json.dumps(options)).split()
    return int(files), int(sent)


def failure(hub: Any, folder: Path, **options: Any) -> str:
    return str(hub.failure(UPLOAD, folder, json.dumps(options)))


def test_a_dataset_arrives_byte_for_byte_with_a_card(hub: Any, dataset: Path) -> None:
    assert upload(hub, dataset, private=True) == (8, 8)
    repository = hub.repositories["user/digits"]
    contents = repository.contents()
    card = contents.pop("README.md").decode()
    assert contents == files(dataset)
    assert repository.private
    assert card.startswith("---\n")
    assert "digits, 6 samples" in card
    assert "| text | str |" in card


def test_metadata_comes_in_the_last_commit(hub: Any, dataset: Path) -> None:
    upload(hub, dataset)
    *before, last = hub.repositories["user/digits"].commits
    assert all("metadata.json" not in commit for commit in before)
    assert len(before[-1]) == 7
    assert "metadata.json" in last


def test_a_second_upload_makes_no_commit(hub: Any, dataset: Path) -> None:
    upload(hub, dataset)
    commits = len(hub.repositories["user/digits"].commits)
    hub.requests.clear()
    assert upload(hub, dataset) == (8, 0)
    assert len(hub.repositories["user/digits"].commits) == commits
    assert not [request for request in hub.requests if "/large/" in request]


def test_only_what_has_changed_is_sent(hub: Any, dataset: Path) -> None:
    upload(hub, dataset)
    there = hub.repositories["user/digits"]["main"]
    hub.add("user/digits", {"shard_00001/data.mdb": bytes(len(there["shard_00001/data.mdb"][0]))})
    assert upload(hub, dataset) == (8, 1)
    contents = hub.repositories["user/digits"].contents()
    assert contents["shard_00001/data.mdb"] == (dataset / "shard_00001/data.mdb").read_bytes()


def test_a_repository_may_hold_several_datasets_and_branches(hub: Any, dataset: Path) -> None:
    upload(hub, dataset, subdir="./train/", revision="next")
    upload(hub, dataset, subdir="dev", revision="next")
    repository = hub.repositories["user/digits"]
    assert repository.contents("main") == {}
    contents = repository.contents("next")
    card = contents.pop("README.md").decode()
    assert contents == {**files(dataset, "train/"), **files(dataset, "dev/")}
    assert card.index("In `train/`: digits") < card.index("In `dev/`: digits")
    assert card.count("---\n") == 2


def test_a_pull_request_is_no_branch_to_be_made(hub: Any, dataset: Path) -> None:
    repository = hub.add("user/digits", {})
    repository.commit("refs/pr/1", {})
    assert upload(hub, dataset, revision="refs/pr/1") == (8, 8)
    assert repository.contents("refs/pr/1").keys() > files(dataset).keys()
    assert repository.contents() == {}
    assert hub.seen("/branch/") == []


def test_text_that_a_person_added_to_the_card_stays(hub: Any, dataset: Path) -> None:
    upload(hub, dataset)
    card = hub.repositories["user/digits"].contents()["README.md"].decode()
    edited = card.replace("tags: [", "license: mit\ntags: [").replace("6 samples", "9 samples")
    hub.add("user/digits", {"README.md": (edited + "\nRecorded at home.\n").encode()})
    upload(hub, dataset)
    now = hub.repositories["user/digits"].contents()["README.md"].decode()
    assert now == card.replace("tags: [", "license: mit\ntags: [") + "\nRecorded at home.\n"


def test_line_ends_of_a_card_stay_as_they_are(hub: Any, dataset: Path) -> None:
    written = b"# Mine\r\n\r\nby \xc3\x89va\r\n"
    repository = hub.add("user/digits", {"README.md": written})
    upload(hub, dataset)
    assert repository.contents()["README.md"].startswith(written.rstrip())


def test_a_card_that_is_not_text_is_named(hub: Any, dataset: Path) -> None:
    hub.add("user/digits", {"README.md": "# by \xc9va".encode("latin-1")})
    text = failure(hub, dataset)
    assert "UploadError: the README.md of datasets/user/digits is not UTF-8" in text
    assert "card=False" in text.rpartition("UploadError")[2]
    assert upload(hub, dataset, card=False)[1] == 1


def test_a_card_without_our_part_is_extended_or_left_alone(hub: Any, dataset: Path) -> None:
    hub.add("user/digits", {"README.md": b"# Mine\n"})
    upload(hub, dataset, card=False)
    assert hub.repositories["user/digits"].contents()["README.md"] == b"# Mine\n"
    upload(hub, dataset)
    assert hub.repositories["user/digits"].contents()["README.md"].startswith(b"# Mine\n\n<!--")


class Losing(Repository):
    """Loses a shard as soon as another file is there."""

    def __init__(self, adding: str) -> None:
        self._adding = adding
        super().__init__()

    def commit(self, branch: str, files: dict[str, HubFile]) -> str:
        if self._adding in files:
            files.pop("shard_00001/data.mdb", None)
        return super().commit(branch, files)


@pytest.mark.parametrize(
    ("adding", "published"), [("shard_00000/data.mdb", False), ("metadata.json", True)]
)
def test_a_shard_that_is_not_there_in_the_end_is_an_error(
    hub: Any, dataset: Path, adding: str, published: bool
) -> None:
    repository = hub.repositories["user/digits"] = Losing(adding)
    error = failure(hub, dataset)
    assert re.search(r"UploadError: .*shard_00001/data\.mdb arrived not at all", error)
    assert ("metadata.json" in repository.contents()) == published


def test_a_shard_changed_since_conversion_keeps_metadata_back(
    hub: Any, dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, tmp_path / "changed")
    path = tmp_path / "changed" / "shard_00001" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    error = failure(hub, tmp_path / "changed")
    assert re.search(r"CorruptShardError: .*shard_00001/data\.mdb has sha256", error)
    assert hub.repositories["user/digits"].contents() == {}


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (401, "", "hf auth login"),
        (403, "", "write access"),
        (404, "RepoNotFound", "check the name"),
        (403, "GatedRepo", "accept the conditions"),
        (412, "", "somebody else"),
        (400, "", "run again"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: Any, dataset: Path, status: int, code: str, advice: str
) -> None:
    hub.refuse("/commit/", status, code)
    error = failure(hub, dataset)
    assert "audiomdb.errors.UploadError: cannot upload to datasets/user/digits: " in error
    assert advice in error


def test_an_invalid_repository_name_is_refused(hub: Any, dataset: Path) -> None:
    error = failure(hub, dataset, repo_id="a/b/c")
    assert "UploadError" in error
    assert "'user/name'" in error


def test_a_hub_out_of_reach_is_an_upload_error(hub: Any, dataset: Path) -> None:
    hub.hang_up = True
    error = failure(hub, dataset)
    assert "UploadError: cannot upload to datasets/user/digits: " in error
    assert "out of reach" in error


def test_the_readme_is_right(hub: Any, tmp_path: Path) -> None:
    import datasets

    from audiomdb.audio import encode

    clip = {"bytes": encode(np.zeros(800, np.float32), 16_000, "flac"), "path": None}
    rows = datasets.Dataset.from_dict({"audio": [clip], "text": ["silence"]})
    rows.to_parquet(tmp_path / "train.parquet")
    hub.add("user/speech", {"train.parquet": (tmp_path / "train.parquet").read_bytes()})
    readme = (Path(__file__).parents[2] / "packages/audiomdb-hf/README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    setup = f"import os\nos.chdir({str(tmp_path)!r})\nos.environ['XDG_CACHE_HOME'] = '.'\n"
    assert hub.run(setup + example) == "silence (800,)\n"
    assert hub.repositories["user/speech-shards"].contents() == {
        **files(tmp_path / "speech"),
        "README.md": hub.repositories["user/speech-shards"].contents()["README.md"],
    }


@pytest.mark.parametrize("revision", [None, "to/come"])
def test_the_card_says_how_to_read_the_dataset(
    hub: Any, dataset: Path, tmp_path: Path, revision: str | None
) -> None:
    upload(hub, dataset, subdir="train", revision=revision)
    card = hub.repositories["user/digits"].contents(revision or "main")["README.md"].decode()
    with_torch, without = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    setup = f"import os\nos.environ['XDG_CACHE_HOME'] = {str(tmp_path)!r}\n"
    without = without.replace("...", "print(sample['text'])")
    assert hub.run(setup + without).split() == list("012345")
    pytest.importorskip("torch")
    # Worker processes would look for what runs here, which has no file.
    with_torch = with_torch.replace("num_workers=2", "num_workers=0")
    with_torch = with_torch.replace("...", "print(*batch['text'])")
    assert sorted(hub.run(setup + with_torch).split()) == list("012345")


def test_a_url_leads_to_a_branch_and_a_folder(hub: Any, dataset: Path) -> None:
    code = """
        import sys
        from audiomdb.registry import uploader_for

        uploader_for("hf://datasets/user/digits@a%2Fb/train", private=True).upload_dir(sys.argv[1])
    """
    hub.run(code, dataset)
    repository = hub.repositories["user/digits"]
    assert repository.private
    assert repository.contents("a/b").keys() == {*files(dataset, "train/"), "README.md"}


def test_importing_the_uploader_loads_no_client() -> None:
    code = "import audiomdb.uploaders.hf, sys; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize(
    ("samples", "category"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**13, "n>1T")]
)
def test_a_card_names_the_size_as_the_hub_does(dataset: Path, samples: int, category: str) -> None:
    import msgspec

    metadata = msgspec.structs.replace(read_metadata(dataset), samples=samples)
    assert f"size_categories: [{category}]" in merge_card(None, metadata, HubFolder("user/digits"))


def test_field_names_cannot_break_the_card(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "odd") as writer:
        writer.write("a", {"a|b": 1, "<!-- c": np.zeros((2, 3), np.float32), "d\n---": "x"})
    card = merge_card(None, read_metadata(tmp_path / "odd"), HubFolder("user/odd"))
    assert "| a\\|b | int |" in card
    assert "| &lt;!-- c | array (2, 3) float32 |" in card
    assert "| d --- | str |" in card


def test_hostile_metadata_cannot_break_the_card(dataset: Path) -> None:
    import msgspec

    evil = "x`\n\x9b<!-- /audiomdb . -->\n| a | b"
    metadata = msgspec.structs.replace(
        read_metadata(dataset),
        name=evil,
        processors=(evil,),
        features={"f": Feature((evil,), evil, (None,))},
    )
    card = merge_card(None, metadata, HubFolder("user/odd"))
    assert card.count("<!-- /audiomdb . -->") == 2  # the name is in quotes, before the part
    assert "| f | x` &lt;!-- /audiomdb . --> \\| a \\| b (any) x` &lt;!-- " in card
    assert "Made by `x' < !-- /audiomdb . --> | a | b`." in card
    assert all(line.isprintable() for line in card.split("\n"))
    assert merge_card(card, metadata, HubFolder("user/odd")) == card


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_the_hub_clients_bars_follow_the_progress_option(
    hub: Any, dataset: Path, progress: bool | None, shown: bool
) -> None:
    code = """
        from huggingface_hub.utils import are_progress_bars_disabled

        print(are_progress_bars_disabled())
    """
    environment = dict(hub.client._environment)
    del environment["HF_HUB_DISABLE_PROGRESS_BARS"]
    command = [sys.executable, "-c", textwrap.dedent(UPLOAD) + textwrap.dedent(code)]
    done = subprocess.run(
        [*command, str(dataset), json.dumps({"progress": progress})],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("100%" in done.stderr) is shown, done.stderr
    assert shown or done.stderr == ""
    assert done.stdout.splitlines() == ["8 8", "False"]  # on for others again


def test_no_commit_holds_a_mixture_of_two_datasets(hub: Any, dataset: Path, tmp_path: Path) -> None:
    upload(hub, dataset)
    with DatasetWriter(tmp_path / "another", samples_per_shard=2) as writer:
        for number in range(6):
            writer.write(f"other-{number}", {"number": number})
    upload(hub, tmp_path / "another", card=False)
    *_, replacing, last = hub.repositories["user/digits"].commits
    assert "metadata.json" not in replacing
    assert "README.md" in replacing, "only ours goes"
    there = {name: content for name, (content, *_) in last.items() if name != "README.md"}
    assert {name: there[name] for name in files(tmp_path / "another")} == files(
        tmp_path / "another"
    )


def test_a_large_dataset_comes_in_commits_of_limited_size(
    hub: Any, dataset: Path, tmp_path: Path
) -> None:
    upload(hub, dataset, card=False)
    with DatasetWriter(tmp_path / "larger", samples_per_shard=1) as writer:
        for number in range(101):
            writer.write(f"clip-{number}", {"number": number})
    before = len(hub.repositories["user/digits"].commits)
    assert upload(hub, tmp_path / "larger", card=False) == (204, 201)
    commits = hub.repositories["user/digits"].commits[before - 1 :]
    added = [len(later.items() - earlier.items()) for earlier, later in pairwise(commits)]
    assert added == [100, 100, 1]
    assert ["metadata.json" in commit for commit in commits] == [True, False, False, True]
    assert hub.repositories["user/digits"].contents() == files(tmp_path / "larger")


def test_files_only_the_replaced_dataset_had_are_deleted_with_its_metadata(
    hub: Any, dataset: Path, tmp_path: Path
) -> None:
    upload(hub, dataset)
    hub.add("user/digits", {"shard_00002/notes.txt": b"of nobody", "shard_00009/data.mdb": b"too"})
    with DatasetWriter(tmp_path / "smaller") as writer:
        writer.write("one", {"number": 1})
    upload(hub, tmp_path / "smaller")
    *_, replacing, _ = hub.repositories["user/digits"].commits
    assert not {"metadata.json", "shard_00001/data.mdb", "shard_00002/lock.mdb"} & set(replacing)
    contents = hub.repositories["user/digits"].contents()
    del contents["README.md"]
    assert contents == {
        **files(tmp_path / "smaller"),
        "shard_00002/notes.txt": b"of nobody",
        "shard_00009/data.mdb": b"too",
    }


def test_metadata_that_cannot_be_read_is_replaced_alone(
    hub: Any, dataset: Path, tmp_path: Path
) -> None:
    upload(hub, dataset, card=False)
    hub.add("user/digits", {"metadata.json": b"{}"})
    with DatasetWriter(tmp_path / "smaller") as writer:
        writer.write("one", {"number": 1})
    upload(hub, tmp_path / "smaller", card=False)
    there = hub.repositories["user/digits"].contents()
    assert there == {**files(dataset), **files(tmp_path / "smaller")}


def test_a_file_that_vanishes_is_not_blamed_on_the_hub(
    hub: Any, dataset: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(dataset, tmp_path / "copy")
    code = """
        import os, sys
        from audiomdb.uploaders.hf import HFUploader

        class Losing(HFUploader):
            def _make_repository(self, api):
                super()._make_repository(api)
                os.unlink(f"{sys.argv[1]}/shard_00001/data.mdb")

        Losing("user/digits").upload_dir(sys.argv[1])
    """
    text = hub.failure(code, folder).rpartition("UploadError")[2]
    assert "shard_00001/data.mdb" in text
    assert "a file on this machine" in text
