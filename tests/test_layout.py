"""The shape of the repository: rooms, owners, floors, versions, and what nobody may write."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from audiomdb import registry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = {path.parent.name: path.parent for path in ROOT.glob("packages/*/pyproject.toml")}
CORE = "audiomdb-core"

SHARED_ROOMS = {"converters", "data", "processors", "retrievers", "uploaders"}

# A module of core imports from its own room and from lower floors, never sideways or upwards.
FLOORS = [
    {
        "causes",
        "checks",
        "machine",
        "lazy",
        "log",
        "notes",
        "progress",
        "quantities",
        "sample",
        "signatures",
        "urls",
    },
    {"audio", "plan", "threads"},
    {"shards"},
    {"cache", "processors", "uploaders"},
    {"converters", "retrievers"},
    {"registry"},
    {"stream"},
    {"cli", "testing"},
]
# What all of them stand on.
GROUND = {"errors", "locks"}
FLOOR_OF = {room: number for number, rooms in enumerate([GROUND, *FLOORS], -1) for room in rooms}

# Each of these is imported in one package only.
OWNERS = {
    "boto3": "audiomdb-s3",
    "botocore": "audiomdb-s3",
    "datasets": "audiomdb-hf",
    "huggingface_hub": "audiomdb-hf",
    "torch": "audiomdb-torch",
    "torchdata": "audiomdb-torch",
    "transformers": "audiomdb-whisper",
}

# Importing the whole of core loads none of these; where it needs one, it imports it on use.
HEAVY = [
    *OWNERS,
    *("cloudpickle", "hypothesis", "loky", "miniaudio", "multiprocessing.pool", "pandas"),
    *("psutil", "pyarrow", "pytest", "scipy", "tqdm", "urllib3"),
]

# Of the standard library, in versions of Python later than the oldest one supported.
LATER = {"annotationlib"}

# Where the name to import is not the name to install.
DISTRIBUTIONS = {"huggingface_hub": "huggingface-hub", "zlib_ng": "zlib-ng"}

LONGEST_FILE = 500


class Module(NamedTuple):
    """A file of the library: the package that ships it, its import name and its path."""

    package: str
    name: str
    path: Path

    @property
    def room(self) -> str:
        return room_of(self.name)

    @property
    def tree(self) -> ast.Module:
        return tree_of(self.path)

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"

    def imports(self) -> Iterator[tuple[str, str]]:
        """Place and full name of everything the module imports, inside functions too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield self.at(node.lineno), alias.name
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.at(node.lineno)}: import by full name"
                for alias in node.names:
                    yield self.at(node.lineno), f"{node.module}.{alias.name}"

    def exports(self) -> list[str] | None:
        """What `__all__` says, or None where there is none."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names: list[str] = ast.literal_eval(node.value)
                return names
        return None


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(name: str) -> str:
    return name.split(".")[1]


def source_of(package: str) -> Path:
    return PACKAGES[package] / "src" / "audiomdb"


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for package in sorted(PACKAGES):
        for path in sorted(source_of(package).rglob("*.py")):
            parts = path.relative_to(source_of(package)).with_suffix("").parts
            name = ".".join(("audiomdb", *(part for part in parts if part != "__init__")))
            found.append(Module(package, name, path))
    return tuple(found)


def importable_modules() -> list[Module]:
    """All but the conformance kit, which stands on pytest, and scripts that run on import."""
    return [m for m in modules() if m.room != "testing" and not m.name.endswith(".__main__")]


def project_of(folder: Path) -> dict[str, Any]:
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def requirements_of(folder: Path) -> list[str]:
    project = project_of(folder)
    extras = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(need for needs in extras.values() for need in needs)]


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def tracked_files() -> list[Path]:
    """Files that git knows or would add; without git, everything outside dot folders."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = {ROOT / name for name in listing.stdout.split("\0") if name}
    else:
        found = {path for path in ROOT.rglob("*") if not hidden(path)}
    return sorted(path for path in found if path.is_file())


def hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts[:-1])


def test_the_five_packages_are_here() -> None:
    names = ("core", "hf", "s3", "torch", "whisper")
    assert set(PACKAGES) == {f"audiomdb-{name}" for name in names}


def test_closed_rooms_have_an_init_and_belong_to_core() -> None:
    wrong = []
    for module in modules():
        inside = module.path.relative_to(source_of(module.package)).parts
        closed = len(inside) > 1 and inside[0] not in SHARED_ROOMS
        if closed and (module.package != CORE or not (module.path.parent / "__init__.py").exists()):
            wrong.append(module.at(1))
    assert not wrong, "\n".join(wrong)


def test_helpers_of_a_shared_room_are_private() -> None:
    # `data` is shared in name only: all of it belongs to one package.
    rooms = SHARED_ROOMS - {"data"}
    promised = re.findall(r"^### (\S+)$", (ROOT / "docs/api.md").read_text("utf-8"), re.MULTILINE)
    used = {
        name.rpartition(".")[0]
        for module in modules()
        for _, name in module.imports()
        if name.startswith("audiomdb.") and (module.package, module.room) != (CORE, room_of(name))
    }
    wrong = [
        module.at(1)
        for module in modules()
        if module.room in rooms
        and not module.name.rpartition(".")[2].startswith("_")
        and module.name not in {*promised, *used}
    ]
    assert not wrong, "begin their names with an underscore:\n" + "\n".join(wrong)


def test_each_file_of_the_namespace_has_one_owner() -> None:
    owners: dict[Path, list[str]] = {}
    for package in PACKAGES:
        source = source_of(package)
        for path in [*source.rglob("*.py"), *source.rglob("py.typed")]:
            owners.setdefault(path.relative_to(source), []).append(package)
    assert {str(path): names for path, names in owners.items() if len(names) > 1} == {}


def test_the_owner_of_a_room_says_that_it_is_typed() -> None:
    # pyright looks for the marker in the folder itself: a namespace's covers the modules beside it.
    owners = {
        module.room: module.package
        for module in modules()
        if module.name in {f"audiomdb.{module.room}", f"audiomdb.{module.room}.base"}
        and module.path.parent != source_of(module.package)
    }
    marked = {
        str(path.parent.relative_to(source_of(package))): package
        for package in PACKAGES
        for path in source_of(package).rglob("py.typed")
    }
    assert marked == {".": CORE, **owners}


def test_licences_are_identical() -> None:
    # Copies, not links: a linked file breaks a wheel that is built from its sdist.
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for folder in PACKAGES.values():
        assert not (folder / "LICENSE").is_symlink()
        assert (folder / "LICENSE").read_text(encoding="utf-8") == text, folder.name


def test_versions_move_in_lockstep() -> None:
    version = project_of(ROOT)["version"]
    for folder in (ROOT, *PACKAGES.values()):
        assert project_of(folder)["version"] == version, folder.name
        for need in requirements_of(folder):
            if need.startswith("audiomdb-"):
                assert need.endswith(f"=={version}"), f"{folder.name}: {need}"
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_meta_package_brings_every_package_and_no_module() -> None:
    needs = {need.partition("==")[0] for need in project_of(ROOT)["dependencies"]}
    assert needs == set(PACKAGES)
    assert not (ROOT / "src").exists()


def test_packages_agree_on_the_oldest_python() -> None:
    oldest = {project_of(folder)["requires-python"] for folder in (ROOT, *PACKAGES.values())}
    assert oldest == {">=3.10"}


def test_entry_points_lead_to_names_that_exist() -> None:
    known = {module.name: module for module in modules()}
    wrong = []
    for package, folder in PACKAGES.items():
        project = project_of(folder)
        groups = [project.get("scripts", {}), *project.get("entry-points", {}).values()]
        for target in (target for group in groups for target in group.values()):
            name, _, attribute = target.partition(":")
            module = known.get(name)
            if not module or module.package != package or attribute not in (module.exports() or ()):
                wrong.append(f"{package}: {target}")
    assert not wrong, "\n".join(wrong)


def test_the_registry_names_the_package_of_every_entry_point() -> None:
    registered = {
        name: package
        for package, folder in PACKAGES.items()
        for points in project_of(folder).get("entry-points", {}).values()
        for name in points
        if package != CORE
    }
    assert registered == registry.PACKAGES


def test_core_imports_only_from_lower_floors() -> None:
    here = [module for module in modules() if module.package == CORE]
    assert {module.room for module in here} - FLOOR_OF.keys() == set(), "add the room to FLOORS"
    wrong = [
        f"{place}: {module.room} imports {name}"
        for module in here
        for place, name in module.imports()
        if name.startswith("audiomdb.")
        and room_of(name) != module.room
        and FLOOR_OF.get(room_of(name), len(FLOORS)) >= FLOOR_OF[module.room]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_package_imports_core_and_itself_only() -> None:
    owners = {module.name: module.package for module in modules()}
    wrong = []
    for module in modules():
        for place, name in module.imports():
            if name.startswith("audiomdb."):
                owner = owners.get(name) or owners.get(name.rpartition(".")[0])
                if owner not in {CORE, module.package}:
                    wrong.append(f"{place}: {name} of {owner}")
    assert not wrong, "\n".join(wrong)


def test_a_package_imports_only_what_it_declares() -> None:
    wrong = []
    for module in modules():
        needs = requirements_of(PACKAGES[module.package])
        declared = {re.split(r"[^\w-]", need, maxsplit=1)[0] for need in needs}
        for place, name in module.imports():
            top = name.partition(".")[0]
            if top == "audiomdb" or top in sys.stdlib_module_names | LATER:
                continue
            owner = OWNERS.get(top, module.package)
            if owner != module.package or DISTRIBUTIONS.get(top, top) not in declared:
                wrong.append(f"{place}: {name}")
    assert not wrong, "\n".join(wrong)


def test_importing_the_whole_of_core_loads_nothing_heavy() -> None:
    lines = ["import sys"]
    lines += [f"import {module.name}" for module in importable_modules() if module.package == CORE]
    lines += [f"sys.stdout.write(' '.join(sorted(sys.modules.keys() & set({HEAVY!r}))))"]
    assert run_python("\n".join(lines)).split() == []


def test_a_module_says_what_is_public() -> None:
    wrong = []
    for module in modules():
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        exports = module.exports()
        if exports is None:
            wrong.append(f"{module.at(1)}: __all__ is missing")
            continue
        wrong += [
            f"{module.at(node.lineno)}: {node.name} is not in __all__ and has no underscore"
            for node in module.tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and not node.name.startswith("_")
            and node.name not in exports
        ]
    assert not wrong, "\n".join(wrong)


def test_every_exported_name_exists_once() -> None:
    lines = ["import importlib"]
    for module in importable_modules():
        names = module.exports() or []
        assert len(names) == len(set(names)), module.at(1)
        lines += [
            f"module = importlib.import_module({module.name!r})",
            f"missing = [name for name in {names!r} if not hasattr(module, name)]",
            f"assert not missing, f'{module.name} has no {{missing}}'",
        ]
    run_python("\n".join(lines))


def test_the_library_neither_pickles_nor_prints() -> None:
    wrong = []
    for module in modules():
        wrong += [
            f"{place}: import of {name}"
            for place, name in module.imports()
            if name.partition(".")[0] in {"dill", "marshal", "pickle", "shelve"}
        ]
        # The command line talks to a person; everything else talks to its caller.
        if module.room != "cli":
            wrong += [
                f"{module.at(node.lineno)}: print"
                for node in ast.walk(module.tree)
                if isinstance(node, ast.Name) and node.id == "print"
            ]
    assert not wrong, "\n".join(wrong)


def test_a_message_goes_to_the_logger_of_a_room() -> None:
    wrong = []
    for module in modules():
        for call in ast.walk(module.tree):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            if name == "logger" and ast.literal_eval(call.args[0]) not in FLOOR_OF:
                wrong.append(f"{module.at(call.lineno)}: {ast.unparse(call)}")
            if name.endswith("getLogger") and module.room not in {"cli", "log"}:
                wrong.append(f"{module.at(call.lineno)}: use audiomdb.log")
    assert not wrong, "\n".join(wrong)


def test_no_module_waits_for_a_lazy_import_while_it_is_imported() -> None:
    """See `audiomdb.lazy`: two threads that import could wait for each other."""
    lazy = {
        (module.name, key.value)
        for module in modules()
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "lazily"
        for key in ast.walk(call)
        if isinstance(key, ast.Constant)
    }
    assert lazy, "packages name them in a call of `lazily`"
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.ImportFrom):
                found = [alias.name for alias in node.names if (node.module, alias.name) in lazy]
                assert not found, f"{module.at(node.lineno)}: from the module that defines {found}"


def test_no_module_evaluates_its_annotations() -> None:
    # They use syntax that Python 3.10 would stumble over at run time.
    wrong = [
        module.at(1)
        for module in modules()
        if "__future__.annotations" not in {name for _, name in module.imports()}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_python_file_is_longer_than_a_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked_files()
        if path.suffix == ".py"
        and (lines := path.read_text(encoding="utf-8").count("\n")) > LONGEST_FILE
    }
    assert long == {}


def test_no_lock_file_is_tracked() -> None:
    # It would record the registry it was made with (docs/decisions/0002-no-lock-file.md).
    locks = {"Pipfile.lock", "pdm.lock", "poetry.lock", "pylock.toml", "uv.lock"}
    assert [path for path in tracked_files() if path.name in locks] == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    folders = "|".join(["home", "mnt", "root", "Users", "work", "workspace"])
    machine = re.compile(rf"(?<![\w.:*-])/(?:{folders})/")
    wrong = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            lines = content.decode("utf-8", errors="replace").splitlines()
            wrong += [
                f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
                for number, line in enumerate(lines, start=1)
                if machine.search(line)
            ]
    assert not wrong, "\n".join(wrong)


def test_tests_lie_in_folders_without_init() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
