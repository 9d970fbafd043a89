"""docs/api.md lists what is promised, and the documentation keeps to that."""

import importlib
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
API = runpy.run_path(str(ROOT / "docs" / "api.py"))
MODULES = [module for modules in API["PUBLIC"].values() for module in modules]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(path for path in ROOT.glob("examples/**/*") if path.suffix in (".py", ".md")),
]


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == API["page"](), "run: python docs/api.py"


@pytest.mark.parametrize("module", MODULES)
def test_a_public_module_has_all_its_names(module):
    imported = importlib.import_module(module)
    assert [name for name in imported.__all__ if not hasattr(imported, name)] == []


def test_documentation_and_examples_import_public_modules_only():
    found = {
        (page.relative_to(ROOT).as_posix(), module)
        for page in PAGES
        for module in re.findall(
            r"^\s*(?:from|import) (audiomdb\.[\w.]+)",
            page.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    assert found, "the pages have examples"
    assert sorted(use for use in found if use[1] not in MODULES) == []
