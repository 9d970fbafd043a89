"""Everything that is checked, each check in an environment of its own.

`nox` runs what has to pass before a change is merged. `nox -l` lists the rest, `nox -s tests --
-k name` hands arguments to pytest, and `nox -R -s types` uses the environment of the last run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
# The tests come last: what pytest counted is then the last thing on the screen.
nox.options.sessions = ["lint", "types", "wheels", "tests"]

# uv does not read pip's settings: tell it where pip was told to look for wheels. A place with a CPU
# build of torch saves gigabytes.
if os.environ.get("PIP_FIND_LINKS"):
    os.environ.setdefault("UV_FIND_LINKS", os.environ["PIP_FIND_LINKS"])

PACKAGES = sorted(path.parent.name for path in Path("packages").glob("*/pyproject.toml"))
SUPPORTED = ["3.10", "3.11", "3.12", "3.13", "3.14"]

# Nothing of this may come with the core package alone.
HEAVY = ["boto3", "datasets", "huggingface_hub", "miniaudio", "pandas", "scipy", "torch"]
HEAVY += ["transformers", "zlib_ng"]


def installed_pythons() -> list[str]:
    """Supported versions that start here, oldest first.

    A name on the path is not enough: the shims of version managers answer for versions that are
    not active, and nox fails on a missing interpreter when the environment says CI.
    """
    found = []
    for version in SUPPORTED:
        program = shutil.which(f"python{version}")
        if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
            found.append(version)
    return found or [f"{sys.version_info.major}.{sys.version_info.minor}"]


def install_everything(session: nox.Session, *groups: str) -> None:
    """Install all packages editable, beside the tools of the dependency groups."""
    arguments = ["-c", "constraints.txt"]
    for group in groups:
        arguments += ["--group", group]
    for package in PACKAGES:
        extras = "[fast,testing]" if package == "audiomdb-core" else ""
        arguments += ["-e", f"packages/{package}{extras}"]
    session.install(*arguments)


def modules_of(package: str) -> list[str]:
    """Import names of all modules that a package brings, the conformance kit's aside."""
    source = Path("packages", package, "src")
    names = [path.relative_to(source).with_suffix("").parts for path in source.rglob("*.py")]
    return sorted(
        ".".join(name[:-1] if name[-1] == "__init__" else name)
        for name in names
        if "testing" not in name and name[-1] != "__main__"
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint rules."""
    session.install("--group", "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the library and of its tests."""
    install_everything(session, "test", "frameworks", "types")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test, with all packages and their dependencies."""
    install_everything(session, "test", "frameworks")
    session.run("pytest", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Each package as a user gets it: built through its sdist, alone beside core, imported."""
    work = Path(session.create_tmp()).resolve()
    dist = work / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("uv", "build", "--quiet", "--all-packages", "--out-dir", str(dist))

    def wheel(package: str) -> str:
        (path,) = dist.glob(f"{package.replace('-', '_')}-[0-9]*.whl")
        return str(path)

    def clean_environment(name: str, *requirements: str) -> Path:
        environment = work / name
        python = str(Path(session.bin, "python"))
        session.run("uv", "venv", "--quiet", "--clear", "--python", python, str(environment))
        target = ("--python", str(environment), "-c", "constraints.txt")
        session.run("uv", "pip", "install", "--quiet", *target, *requirements)
        return environment / "bin"

    def imports(programs: Path, *arguments: str) -> None:
        # -I: neither the working directory nor PYTHONPATH may lend a module.
        command = (str(programs / "python"), "-I", ".ci/installed.py", *arguments)
        session.run(*command, external=True, log=False)

    core = wheel("audiomdb-core")
    programs = clean_environment("core", core)
    imports(programs, *modules_of("audiomdb-core"), "--absent", *HEAVY)
    with session.chdir(work):
        shutil.rmtree("audiomdb-quickstart", ignore_errors=True)
        session.run(str(programs / "audiomdb"), "quickstart", external=True)

    backends = [package for package in PACKAGES if package != "audiomdb-core"]
    for package in backends:
        programs = clean_environment(package, core, wheel(package))
        imports(programs, *modules_of(package))

    every = [wheel(package) for package in PACKAGES]
    programs = clean_environment("audiomdb", *every, wheel("audiomdb"))
    imports(programs, *(name for package in PACKAGES for name in modules_of(package)))


@nox.session(python=installed_pythons())
def core(session: nox.Session) -> None:
    """Core's tests on every Python found here, without torch and without the accelerator."""
    session.install("--group", "test", "-e", "packages/audiomdb-core[testing]")
    session.run("pytest", "tests/core", "packages/audiomdb-core", *session.posargs)


@nox.session(python=installed_pythons()[0])
def lowest(session: nox.Session) -> None:
    """Core's tests with the oldest versions that its dependencies allow."""
    oldest = ("--resolution", "lowest-direct", "--only-binary", ":all:")
    editable = ("--no-binary", "audiomdb-core", "-e", "packages/audiomdb-core[testing]")
    session.install(*oldest, "--group", "test", *editable)
    session.run("pytest", "tests/core", "packages/audiomdb-core", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Figures against floors; `-- --full` measures at the sizes of docs/benchmarks.md."""
    session.install("-c", "constraints.txt", "-e", "packages/audiomdb-core[fast]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Figures beside other libraries; `-- --full` measures at the sizes of docs/benchmarks.md."""
    packages = ("-e", "packages/audiomdb-core[fast]", "-e", "packages/audiomdb-torch")
    folder = Path("benchmarks/peers")
    # Starting is measured too: nobody should have to compile first.
    compiled = ("--compile-bytecode", "-c", "constraints.txt")
    session.install(*compiled, "-r", str(folder / "requirements.txt"), *packages)
    python = str(Path(session.bin, "python"))
    alone = Path(session.create_tmp()).resolve() / "mosaic"
    requirements = ("-r", str(folder / "requirements-mosaic.txt"))
    if not alone.exists():
        session.run("uv", "venv", "--quiet", "--python", python, str(alone))
    target = ("--python", str(alone), *compiled)
    session.run("uv", "pip", "install", "--quiet", *target, *requirements)
    others = ("--python", f"mosaic={alone / 'bin/python'}")
    session.run("python", "-m", "benchmarks.peers", *session.posargs, *others)


@nox.session
def remote(session: nox.Session) -> None:
    """Figures of remote datasets; `-- --full --peers` beside other libraries, as published."""
    server = ("cheroot", "flask", "flask-cors", "moto[s3]>=5")
    packages = ("-e", "packages/audiomdb-core[fast]", "-e", "packages/audiomdb-s3")
    session.install("-c", "constraints.txt", *packages, *server)
    arguments = list(session.posargs)
    if "--peers" in arguments:
        arguments.remove("--peers")
        environment = Path(session.create_tmp()).resolve() / "peers"
        python = str(Path(session.bin, "python"))
        session.run("uv", "venv", "--quiet", "--clear", "--python", python, str(environment))
        # The versions that the session `peers` has.
        folder = Path("benchmarks/peers")
        limits = ("-c", "constraints.txt", "-c", str(folder / "requirements.txt"))
        peers = ("-r", str(folder / "requirements-mosaic.txt"), "litdata")
        target = ("--python", str(environment), *limits)
        session.run("uv", "pip", "install", "--quiet", *target, *peers)
        arguments += ["--peers-python", str(environment / "bin/python")]
    session.run("python", "-m", "benchmarks.remote", *arguments)
