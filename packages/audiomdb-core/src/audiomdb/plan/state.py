"""Represent the progress of a run, so that a checkpoint resumes at the exact next step.

A state identifies the plan, but not the world: it does not depend on ranks, workers or threads, so
a run may resume with other numbers of them. It holds everything that changes the order, in readable
form and as one hash, the plan id. Resuming with other options would repeat some samples and lose
others, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from audiomdb.errors import PlanError
from audiomdb.plan.checks import whole_number

__all__ = ["OptionValue", "PlanState", "plan_id"]

OptionValue: TypeAlias = (
    "str | int | float | bool | list[OptionValue] | dict[str, OptionValue] | None"
)
"""Value of an option: anything that JSON can represent."""

_VERSION = 1
_LONGEST_OPTION = 48
_MOST_BYTES = 1000


class PlanState(msgspec.Struct, frozen=True):
    """The plan of a run and the place of its next step. Readable and under 1 kB as JSON.

    Attributes:
        plan_id: See `plan_id`.
        seed: Seed of the plan.
        epoch: Epoch of the next step.
        next_step: Number of the next step in its epoch or, for batches by seconds, in its chapter.
        chapter: For batches by seconds, the chapter of the next step.
        options: All other options that change the order. Long values are replaced by their hash.
    """

    plan_id: str
    seed: int
    epoch: int
    next_step: int
    chapter: int = 0
    options: Mapping[str, OptionValue] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        fingerprint: str,
        options: Mapping[str, OptionValue],
        *,
        seed: int,
        epoch: int = 0,
        next_step: int = 0,
        chapter: int = 0,
    ) -> PlanState:
        """Make the state of a plan.

        Args:
            fingerprint: Identifies the contents of the dataset, or of all datasets of a mixture.
            options: Options that change the order, besides the seed. They never depend on the
                world.
            seed: Seed of the plan.
            epoch: Epoch of the next step.
            next_step: Number of the next step.
            chapter: Chapter of the next step.

        Raises:
            PlanError: The options make the state larger than 1000 bytes.
        """
        kept = {name: _shortened(options[name]) for name in sorted(options)}
        name = plan_id(fingerprint, {**options, "seed": seed})
        state = cls(name, seed, epoch, next_step, chapter, kept)
        size = len(_json(state.to_dict()))
        if size > _MOST_BYTES:
            raise PlanError(
                f"{len(options)} options make a state of {size} bytes, at most {_MOST_BYTES}; "
                "join some of them under one name"
            )
        return state

    def at(self, epoch: int, next_step: int, *, chapter: int = 0) -> PlanState:
        """Return the state of the same plan at another step."""
        return PlanState(self.plan_id, self.seed, epoch, next_step, chapter, self.options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint, which JSON and `torch.save` can write."""
        return {"version": _VERSION, **msgspec.structs.asdict(self), "options": dict(self.options)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlanState:
        """Return the state from data that `to_dict` made.

        Raises:
            PlanError: The data is not such a state, or is of another version.
        """
        if not isinstance(data, Mapping):
            raise PlanError(f"a plan's state is a dict, as to_dict() made it; not {data!r:.80}")
        version = data.get("version")
        if version != _VERSION:
            raise PlanError(f"a plan's state of version {version!r}; this AudioMDB reads 1")
        names = cls.__struct_fields__
        if missing := [name for name in names if name not in data]:
            raise PlanError(f"the plan's state lacks {', '.join(missing)}; it has {list(data)}")
        for name in ("seed", "epoch", "next_step", "chapter"):
            whole_number(name, data[name])
        if not isinstance(data["options"], Mapping):
            raise PlanError(f"options of the plan's state are {data['options']!r}, expected a dict")
        return cls(**{name: data[name] for name in names})

    def check(self, here: PlanState) -> None:
        """Check that this state can be resumed with the plan of another state.

        Args:
            here: Any state of the plan that is to resume.

        Raises:
            PlanError: The plans differ. The message names each option that differs.
        """
        if self.plan_id == here.plan_id:
            return
        then, now = ({"seed": state.seed, **state.options} for state in (self, here))
        absent = object()
        differences = [
            f"{name} was {_shown(then, name)} and is {_shown(now, name)}"
            for name in sorted({*then, *now})
            if then.get(name, absent) != now.get(name, absent)
        ]
        what = "; ".join(differences) or "all options are equal, so the dataset itself is another"
        raise PlanError(
            f"the state is of another plan, whose order differs: {what}. Go on with the options "
            f"and the data of the state, or begin anew without it"
        )


def plan_id(fingerprint: str, options: Mapping[str, OptionValue]) -> str:
    """Return 32 hex digits that identify an order: a hash of everything that determines it.

    Args:
        fingerprint: Identifies the contents of the dataset, or of all datasets of a mixture.
        options: Everything else that changes the order, which never depends on the world.
    """
    text = _json({"fingerprint": fingerprint, "options": dict(options), "version": _VERSION})
    return _sha256(text)[:32]


def _json(value: object) -> str:
    import json

    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _shortened(value: OptionValue) -> OptionValue:
    text = _json(value)
    if len(text) <= _LONGEST_OPTION:
        return value
    return "sha256:" + _sha256(text)[:16]


def _shown(options: Mapping[str, OptionValue], name: str) -> str:
    return repr(options[name]) if name in options else "not given"
