"""What names the cache of a retriever: its class, and the arguments that say what is read."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import CacheError
from audiomdb.retrievers._naming import retriever_name
from tests.core.caches import CopyRetriever


class Folder(CopyRetriever):
    def __init__(self, store: str, log: Any = os.devnull, **kwargs: Any) -> None:
        super().__init__(Path(store), **kwargs)
        self.log = log


class Other(Folder):
    pass


@dataclass(frozen=True)
class Place:
    region: str


def test_a_cache_is_named_by_class_and_arguments() -> None:
    def name(*args: Any, **kwargs: Any) -> str:
        return retriever_name(Folder, args, kwargs)

    same = name("bucket")
    assert same.startswith("Folder-")
    assert name(store="bucket") == name("bucket", log=os.devnull) == same
    assert name("bucket", cache_dir="x", workers=9, max_cache_bytes=1, prefetch=3) == same
    assert name("other") != same
    assert retriever_name(Other, ("bucket",), {}) != same
    assert name(Path("bucket")) == same
    assert name("b", log=Place("eu")) != name("b", log=Place("us"))
    assert name("b", more={"x": [1], "y": {2, 3}}) == name("b", more={"y": {3, 2}, "x": (1,)})


def test_an_argument_without_stable_text_needs_a_cache_directory(tmp_path: Path) -> None:
    class Client:
        def __repr__(self) -> str:
            return f"<Client with password secret at {id(self):#x}>"

    refused = r"Folder was made with log= of class Client, .*cache_dir="
    with pytest.raises(CacheError, match=refused) as caught:
        _ = Folder("x", Client()).cache_dir
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert Folder("x", Client(), cache_dir=tmp_path).cache_dir.startswith(str(tmp_path))


def test_an_option_that_a_later_release_adds_keeps_the_name() -> None:
    class Store(Folder):
        def __init__(self, share: str, **kwargs: Any) -> None:
            super().__init__(share, **kwargs)

    before = retriever_name(Store, ("x",), {})

    def with_more(self: Store, share: str, *, region: str | None = None, **kwargs: Any) -> None: ...

    Store.__init__ = with_more  # type: ignore[method-assign]
    assert retriever_name(Store, ("x",), {}) == before
    assert retriever_name(Store, ("x",), {"region": None}) == before
    assert retriever_name(Store, ("x",), {"region": "north"}) != before


def test_access_options_do_not_change_the_cache_name() -> None:
    def name(**kwargs: Any) -> str:
        access = frozenset({"token"})
        return retriever_name(Folder, ("x",), kwargs, access=access)

    assert name(token="old") == name(token="new") == name()
    assert name(place="north") != name()
