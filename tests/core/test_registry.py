"""URLs find the class of whichever installed package registers their scheme."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb import registry
from audiomdb.converters.files import FolderConverter
from audiomdb.errors import (
    BackendError,
    InvalidURLError,
    UnknownOptionError,
    UnknownSchemeError,
)
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.signatures import option_names, option_types
from audiomdb.uploaders.local import LocalUploader
from audiomdb.urls import local_path, scheme_of, split_url, without_password
from tests.packages import install

TAPE = '''
"""A store of somebody else's: folders under one root, called tapes."""
import shutil
from pathlib import Path

from audiomdb.retrievers.base import BaseRetriever
from audiomdb.uploaders.base import BaseUploader
from audiomdb.urls import split_url


class TapeRetriever(BaseRetriever):
    def __init__(self, tape, path="", root=".", **kwargs):
        self.folder = Path(root, tape, path)
        super().__init__(**kwargs)

    @classmethod
    def from_url(cls, url, **options):
        return cls(*split_url(url), **options)

    def download_metadata(self):
        return shutil.copy(self.folder / "metadata.json", self.cache_dir)

    def download_shard(self, shard_id):
        name = f"shard_{shard_id:05d}"
        with open(self.folder / "downloads", "a") as log:
            log.write(name + "\\\\n")
        return shutil.copytree(self.folder / name, Path(self.cache_dir, name))


class TapeUploader(BaseUploader):
    def __init__(self, tape, path="", *, root="."):
        self.folder = Path(root, tape, path)

    @classmethod
    def from_url(cls, url, **options):
        return cls(*split_url(url), **options)

    def upload_dir(self, local_dir):
        for full_path, rel_path in self.iter_files(local_dir):
            (self.folder / rel_path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(full_path, self.folder / rel_path)
'''.replace("\\\\", "\\")

ENTRY_POINTS = """
[audiomdb.retrievers]
tape = {module}:TapeRetriever

[audiomdb.uploaders]
tape = {module}:TapeUploader
"""

UNREADY = """
from audiomdb.retrievers.base import BaseRetriever
class TapeRetriever(BaseRetriever):
    def make_reader(self): ...
"""


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """Folder to put on the path: the package `tape-store`."""
    return install(tmp_path / "site", "tape-store", TAPE, ENTRY_POINTS)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "speech", samples_per_shard=2) as writer:
        for number in range(4):
            audio = np.full(400, number, np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000, "n": number})
    return tmp_path / "speech"


def python(site: Path, folder: Path, *args: str) -> str:
    """What a Python with `site` on its path prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *args],
        cwd=folder,
        env={"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("dataset")
def test_another_packages_store_is_found_by_its_scheme(tape: Path, tmp_path: Path) -> None:
    code = """
from audiomdb.registry import retriever_for, uploader_for
from audiomdb.stream import open_dataset
import sys
assert "tape_store" not in sys.modules
uploader_for("tape://shelf/speech").upload_dir("speech")
retriever = retriever_for("TAPE://shelf/speech/", prefetch=1)
print(type(retriever).__name__, len(retriever))
retriever.close()
with open_dataset("tape://shelf/speech", root=".", mono=True) as stream:
    print([int(sample["audio"][0]) for sample in stream], stream["clip-3"]["n"])
"""
    assert python(tape, tmp_path, "-c", code) == "TapeRetriever 4\n[0, 1, 2, 3] 3\n"


@pytest.mark.usefixtures("dataset")
def test_the_command_line_reaches_another_packages_store(tape: Path, tmp_path: Path) -> None:
    def audiomdb(*args: str) -> str:
        return python(tape, tmp_path, "-m", "audiomdb.cli", *args)

    assert audiomdb("upload", "speech", "tape://shelf/s").startswith("tape://shelf/s: sent; ")
    printed = audiomdb("info", "tape://shelf/s")
    assert "4 in 2 shards" in printed
    assert "were not downloaded" in printed
    assert not (tmp_path / "shelf" / "s" / "downloads").exists()
    assert "clip-3" in audiomdb("ls", "tape://shelf/s", "--columns", "n")
    audiomdb("pull", "tape://shelf/s", "copy")
    assert "whole: 4 samples" in audiomdb("verify", "copy")
    assert "whole: 4 samples" in audiomdb("verify", "tape://shelf/s")


@pytest.mark.usefixtures("dataset")
def test_the_command_line_shows_no_password_of_a_url(tape: Path, tmp_path: Path) -> None:
    def audiomdb(*args: str) -> str:
        return python(tape, tmp_path, "-m", "audiomdb.cli", *args)

    url, shown = "tape://me:secret@shelf/s", "tape://me:***@shelf/s"
    assert audiomdb("upload", "speech", url).startswith(f"{shown}: sent; ")
    assert json.loads(audiomdb("upload", "speech", url, "--json"))["target"] == shown
    assert shown in audiomdb("info", url)
    assert json.loads(audiomdb("info", url, "--json"))["url"] == shown
    assert json.loads(audiomdb("pull", url, "copy", "--json"))["source"] == shown


def test_importing_the_registry_looks_nothing_up(tape: Path, tmp_path: Path) -> None:
    code = """
import sys, audiomdb.registry, audiomdb.stream
assert not {"importlib.metadata", "difflib", "tape_store", "boto3"} & set(sys.modules)
"""
    python(tape, tmp_path, "-c", code)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def add(name: str, module: str, entry_points: str) -> None:
        monkeypatch.syspath_prepend(install(tmp_path / name, name, module, entry_points))

    return add


def test_two_packages_for_one_scheme_are_refused_by_name(on_path: Any) -> None:
    on_path("first-store", TAPE, ENTRY_POINTS)
    on_path("second-store", TAPE, ENTRY_POINTS)
    with pytest.raises(BackendError) as error:
        registry.retriever_for("tape://shelf")
    for claim in (
        "first-store 1.5 (first_store:TapeRetriever)",
        "second-store 1.5 (second_store:TapeRetriever)",
    ):
        assert claim in str(error.value)
    assert isinstance(registry.retriever_for("elsewhere"), LocalRetriever)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("import a_module_that_nobody_has", "ModuleNotFoundError: No module named 'a_module"),
        ("1 / 0", "ZeroDivisionError"),
        ("", "AttributeError"),
        ("TapeRetriever = print", "expected a subclass of BaseRetriever, found <built-in"),
        ("class TapeRetriever: pass", "expected a subclass of BaseRetriever"),
        (UNREADY, "no classmethod from_url"),
    ],
    ids=["missing", "raising", "nameless", "function", "stranger", "unready"],
)
def test_a_package_that_cannot_be_used_is_named_with_its_value(
    on_path: Any, module: str, found: str, request: pytest.FixtureRequest
) -> None:
    name = f"bad-store-{request.node.callspec.id}"
    on_path(name, module, ENTRY_POINTS)
    with pytest.raises(BackendError) as error:
        registry.retriever_for("tape://shelf")
    assert f"{name} 1.5" in str(error.value)
    assert f"{name.replace('-', '_')}:TapeRetriever" in str(error.value)
    assert found in str(error.value)
    assert isinstance(error.value, ImportError)


@pytest.mark.parametrize("role", ["retriever", "uploader"])
def test_a_class_whose_from_url_returns_nothing_is_named(on_path: Any, role: str) -> None:
    makes_nothing = TAPE.replace("return cls(", "cls(")
    assert makes_nothing != TAPE
    on_path(f"bad-{role}", makes_nothing, ENTRY_POINTS)
    make = getattr(registry, f"{role}_for")
    base = f"Base{role.title()}"
    with pytest.raises(
        BackendError, match=rf"Tape{role.title()}\.from_url\('tape://.*'\) returned None.* a {base}"
    ):
        make("tape://shelf")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "audiomdb-s3"), ("hf", "audiomdb-hf")])
def test_a_scheme_without_its_package_says_what_to_install(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_entry_points", lambda _group: {})
    for make in (registry.retriever_for, registry.uploader_for):
        with pytest.raises(UnknownSchemeError, match=rf"pip install {package}$") as error:
            make(f"{scheme}://bucket/prefix")
        assert isinstance(error.value, ValueError)


def test_an_unknown_scheme_lists_those_there_are_and_the_nearest(on_path: Any) -> None:
    on_path("tape-store", TAPE, ENTRY_POINTS)
    with pytest.raises(UnknownSchemeError) as error:
        registry.retriever_for("tapes://shelf")
    assert "'tapes://shelf'; did you mean tape://?" in str(error.value)
    assert "file://, hf://" in str(error.value)
    with pytest.raises(UnknownSchemeError, match=r"uploads to gs:// .*BaseUploader"):
        registry.uploader_for("gs://bucket")


@pytest.mark.parametrize("path", ["speech", "a/b c", "/data/speech", "C:/x", "odd:name", "x:y/z"])
def test_text_that_is_not_a_url_is_a_path(path: str) -> None:
    retriever = registry.retriever_for(path)
    assert isinstance(retriever, LocalRetriever)
    assert retriever.path == Path(path)
    assert isinstance(registry.retriever_for(Path(path)), LocalRetriever)
    assert isinstance(registry.uploader_for(path), LocalUploader)


@pytest.mark.parametrize("text", ["s3:/bucket/x", "S3:bucket", "hf:datasets/u/r"])
def test_a_url_that_lost_a_slash_is_refused_and_no_folder_made(text: str) -> None:
    with pytest.raises(UnknownSchemeError, match=r"two slashes: (s3://bucket|hf://datasets)"):
        registry.uploader_for(text)
    with pytest.raises(UnknownSchemeError, match="two slashes"):
        registry.retriever_for(Path(text.replace(":", ":/")))


def test_file_urls_are_paths_with_escapes_resolved(tmp_path: Path, dataset: Path) -> None:
    odd = tmp_path / "mit Ümlaut #1"
    registry.uploader_for(odd.as_uri()).upload_dir(dataset)
    for url in (odd.as_uri(), odd.as_uri().replace("file://", "FILE://localhost")):
        retriever = registry.retriever_for(url)
        assert isinstance(retriever, LocalRetriever)
        assert retriever.path == odd
        assert len(retriever) == 4


@pytest.mark.parametrize("url", ["file://speech", "file://host/speech", "file://"])
def test_file_urls_of_other_machines_are_refused(url: str) -> None:
    with pytest.raises(InvalidURLError, match="three slashes"):
        registry.retriever_for(url)


def test_a_url_in_the_place_of_a_folder_is_refused_and_no_folder_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.chdir(tmp_path)
    url = "s3://bucket/speech"
    with pytest.raises(InvalidURLError, match="uploader_for takes URLs"):
        LocalUploader(url)
    for reading in (LocalRetriever, DatasetReader.open):
        with pytest.raises(InvalidURLError, match="open_dataset"):
            reading(url)
    with pytest.raises(InvalidURLError, match="audiomdb upload"):
        DatasetWriter(url)
    with pytest.raises(InvalidURLError, match="audiomdb upload"):
        FolderConverter("source", output_dir=url)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert LocalUploader("./s3://bucket").path == Path("s3:/bucket")  # who means it may say so


def test_a_path_with_a_nul_character_is_refused(tmp_path: Path) -> None:
    path = f"{tmp_path}/a\0b"
    for making in (LocalUploader, LocalRetriever, DatasetReader.open, DatasetWriter):
        with pytest.raises(InvalidURLError, match=r"a\\x00b' contains a NUL character"):
            making(path)
    with pytest.raises(InvalidURLError, match="NUL"):
        FolderConverter(tmp_path, output_dir=path)
    with pytest.raises(InvalidURLError, match="NUL"):
        registry.uploader_for(f"file://{tmp_path}/a%00b")


def test_options_about_caching_are_taken_for_a_path_too() -> None:
    options = {"cache_dir": "c", "max_cache_bytes": 1, "prefetch": 2, "workers": 3}
    assert registry.retriever_for("speech", **options)._arguments == (("speech",), {})
    with pytest.raises(UnknownOptionError, match="LocalRetriever takes no option 'endpoint_url'"):
        registry.retriever_for("speech", endpoint_url="http://localhost")


def test_an_unknown_option_is_named_beside_the_one_that_was_meant(on_path: Any) -> None:
    on_path("tape-store", TAPE, ENTRY_POINTS)
    with pytest.raises(UnknownOptionError, match=r"'max_cache_byte'; did you mean 'max_cache_b"):
        registry.retriever_for("tape://shelf", max_cache_byte=1)
    with pytest.raises(
        TypeError, match=r"TapeUploader takes no option 'speed'\. It takes path, root"
    ):
        registry.uploader_for("tape://shelf", speed=1)


def test_options_of_base_classes_count_if_kwargs_are_passed_on() -> None:
    class Closed(BaseRetriever):
        def __init__(self, where: str) -> None: ...

    class Open(Closed):
        def __init__(self, tape: str, *args: Any, **kwargs: Any) -> None: ...

        @classmethod
        def from_url(cls, url: str, *, speed: int = 1, **options: Any) -> Open:  # noqa: ARG003
            return cls(url, **options)

    assert option_names(Closed) == {"where"}
    assert option_names(Open) == {"tape", "where", "speed"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://me:se@c:ret@host:21/a:b@c", "ftp://me:***@host:21/a:b@c"),
        ("ftp://me:@host/x", "ftp://me:***@host/x"),
        ("ftp://me@example.org:secret@host:21/x", "ftp://me@example.org:***@host:21/x"),
        ("ftp://me@host:21/x", "ftp://me@host:21/x"),
        ("hf://datasets/user/speech@main", "hf://datasets/user/speech@main"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("a:b@c/speech", "a:b@c/speech"),
    ],
)
def test_a_password_in_a_url_is_not_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_an_unknown_scheme_shows_no_password() -> None:
    with pytest.raises(UnknownSchemeError, match=re.escape("'gopher://me:***@host/x'")):
        registry.retriever_for("gopher://me:secret@host/x")


def test_a_url_that_lost_a_slash_shows_no_password() -> None:
    with pytest.raises(UnknownSchemeError, match=re.escape("'s3:/me:***@host/x' is no URL")) as e:
        registry.retriever_for(Path("s3://me:secret@host/x"))
    assert "secret" not in str(e.value)


def test_a_file_url_with_a_host_shows_no_password() -> None:
    with pytest.raises(InvalidURLError, match=re.escape("'file://me:***@host/x'")):
        local_path("file://me:secret@host/x")


def test_urls_come_apart_without_being_decoded() -> None:
    assert split_url("s3://bucket") == ("bucket", "")
    assert split_url("s3://bucket//a%20b?c#d/") == ("bucket", "a%20b?c#d")
    for wrong in ("s3://", "s3:///prefix", "bucket/prefix"):
        with pytest.raises(InvalidURLError, match="has no bucket or host after '://'"):
            split_url(wrong)
    assert scheme_of("S3+x://b") == "s3+x"
    assert scheme_of("3s://b") is None
    assert local_path("no url") == "no url"


def test_the_types_of_options_are_those_of_the_annotations() -> None:
    class Store(BaseRetriever):
        def __init__(self, name: str | None, other=None, **rest: Any) -> None:  # noqa: ARG002
            super().__init__(**rest)

    def evaluated(self, name: int | None, **rest: Any) -> None: ...

    types = option_types(Store)
    assert (types["name"], types["other"], types["prefetch"]) == (["str", "None"], [], ["int"])
    evaluated.__annotations__["name"] = int | None
    Store.__init__ = evaluated  # type: ignore[method-assign,assignment]
    assert option_types(Store)["name"] == ["int", "None"]
