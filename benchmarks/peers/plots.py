# mypy: disable-error-code="import-not-found, import-untyped"
"""Plots of a run, as PNG and SVG. Needs matplotlib, which the peers' environment has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.figures import FASTEST, LMDB, loading
from benchmarks.peers.measured_tables import CORPORA, decode_rate, load_rate
from benchmarks.peers.results import Finding, Findings
from benchmarks.timing import Spread

__all__ = ["draw"]

_COLOURS = {"ours": "#0b6e4f", "peer": "#8c96a3", "by hand": "#c9a227", "floor": "#d9dde3"}
_INK = "#22272e"


def draw(findings: Findings, folder: Path) -> list[Path]:
    """Draw everything that a run has findings for; returns the PNG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    # Text as text: it can be searched, and files stay small. A fixed salt: the same plot is the
    # same file.
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "audiomdb",
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#9aa3ad",
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for corpus in CORPORA:
        if findings.systems("load", corpus=corpus):
            made.append(_save(_loader(findings, corpus), folder / f"loader-{corpus}"))
        if findings.systems("read", corpus=corpus):
            made.append(_save(_reading(findings, corpus), folder / f"reading-{corpus}"))
    if findings.of("format", part="load"):
        made.append(_save(_formats(findings), folder / "formats"))
    return made


def _loader(findings: Findings, corpus: str) -> Any:  # noqa: ANN401
    """Rate and processor time side by side, fastest on top."""
    found = {
        system: figures
        for system in findings.systems("load", corpus=corpus)
        if (figures := loading(findings, system, corpus)) is not None
    }
    order = sorted(found, key=lambda system: found[system].rate.median)
    floor = found.get(FASTEST)
    figure, (left, right) = _panels(len(order), 2)
    rates = {system: found[system].rate for system in order}
    _bars(findings, left, order, rates, "{:,.0f}")
    left.set_title(f"Whole loader: seconds of audio a second\n{CORPORA[corpus]}", loc="left")
    costs = {system: found[system].cpu for system in order}
    _bars(findings, right, order, costs, "{:.2f}", names=False)
    right.set_title("Processor seconds for an hour of audio\nless is better", loc="left")
    if floor is not None:
        left.axvline(floor.rate.median, color=_INK, linewidth=0.8, linestyle=":", zorder=0)
        right.axvline(floor.cpu.median, color=_INK, linewidth=0.8, linestyle=":", zorder=0)
    return figure


def _reading(findings: Findings, corpus: str) -> Any:  # noqa: ANN401
    """MB/s of encoded bytes, in order and at random, on a logarithmic scale."""
    figure, axes = _panels(len(findings.systems("read", corpus=corpus)), 2)
    titles = ("In order, MB/s", "At random, MB/s")
    for panel, work, title in zip(axes, ("order", "random"), titles, strict=True):

        def value(each: Finding, work: str = work) -> float | None:
            part = each.get(work, {})
            return part["amount"] / part["wall_s"] / 1e6 if "wall_s" in part else None

        spreads = {
            system: spread
            for system in findings.systems("read", corpus=corpus)
            if (spread := findings.spread("read", system, value, corpus=corpus)) is not None
        }
        order = sorted(spreads, key=lambda system: spreads[system].median)
        _bars(findings, panel, order, spreads, "{:,.0f}", logarithmic=True)
        if LMDB in spreads:
            panel.axvline(spreads[LMDB].median, color=_INK, linewidth=0.8, linestyle=":", zorder=0)
        panel.set_title(f"{title}\n{CORPORA[corpus]}", loc="left")
    return figure


def _formats(findings: Findings) -> Any:  # noqa: ANN401
    """Bytes against the rate of decoding and of the whole loader."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, panel = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    sizes = {
        each["format"]: each["found"]["bytes"] / each["found"]["seconds"] * 3600 / 1e6
        for each in findings.of("format", part="write")
    }
    for part, value, marker, name in (
        ("decode", decode_rate, "o", "one thread, stored bytes to float32"),
        ("load", load_rate, "s", "whole loader"),
    ):
        points = []
        for label, size in sizes.items():
            found = [
                value(each["found"]) for each in findings.of("format", format=label, part=part)
            ]
            if found:
                points.append((size, Spread.of(found).median, label))
        colour = _COLOURS["ours"] if part == "load" else _COLOURS["by hand"]
        panel.scatter(
            *zip(*((x, y) for x, y, _ in points), strict=True),
            marker=marker,
            color=colour,
            label=name,
        )
        if part == "load":
            _label(panel, points)
    panel.set_xlim(left=0)
    panel.margins(x=0.14)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:,g}")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("MB for an hour of audio")
    panel.set_ylabel("seconds of audio a second")
    panel.set_title("What a format costs in disk and in decoding", loc="left")
    panel.legend(frameon=False, fontsize=8)
    return figure


def _label(panel: Any, points: Sequence[tuple[float, float, str]]) -> None:  # noqa: ANN401
    """Names above their points; below where a point just above has its name there."""
    named: list[tuple[float, float]] = []
    for x, y, label in sorted(points, key=lambda point: -point[1]):
        crowded = any(abs(x - a) < 0.05 * x and b < 1.5 * y for a, b in named)
        panel.annotate(
            label,
            (x, y),
            xytext=(5, -11 if crowded else 5),
            textcoords="offset points",
            fontsize=8,
        )
        named.append((x, y))


def _panels(rows: int, columns: int) -> Any:  # noqa: ANN401
    import matplotlib.pyplot as plt

    size = (4.8 * columns, 0.9 + 0.26 * rows)
    return plt.subplots(1, columns, figsize=size, layout="constrained")


def _bars(
    findings: Findings,
    panel: Any,  # noqa: ANN401
    order: Sequence[str],
    spreads: Mapping[str, Spread],
    form: str,
    *,
    names: bool = True,
    logarithmic: bool = False,
) -> None:
    places = range(len(order))
    middles = [spreads[system].median for system in order]
    colours = [_COLOURS[findings.kind(system)] for system in order]
    if logarithmic:
        # A bar's length means nothing where there is no zero.
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:,g}")
        panel.hlines(places, min(middles) / 2, middles, color="#e6e9ed", linewidth=1, zorder=0)
        panel.scatter(middles, places, color=colours, s=46, edgecolors=_INK, linewidths=0.4)
    else:
        panel.barh(places, middles, color=colours, height=0.72)
    for place, system in enumerate(order):
        spread = spreads[system]
        panel.plot([spread.low, spread.high], [place, place], color=_INK, linewidth=1)
        text = form.format(spread.median)
        panel.annotate(
            text,
            (spread.high, place),
            xytext=(7 if logarithmic else 4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    panel.set_yticks(places, [findings.name(system) for system in order] if names else [])
    panel.tick_params(axis="y", length=0)
    panel.margins(x=0.16, y=0.03)
    panel.set_xlim(left=min(middles) / 2 if logarithmic else 0)


def _save(figure: Any, path: Path) -> Path:  # noqa: ANN401
    import matplotlib.pyplot as plt

    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=130, metadata={"Software": None})
    plt.close(figure)
    return path.with_suffix(".png")
