"""Ratios, goals, tables and the figure of measured sizes.

``results`` is what ``compare.py`` keeps, by number of atoms: "settings", "machine" and
"rows", and in the rows, by contender, either "seconds" and the rest or, in "over",
which limit it went over and where.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, OURS
from matplotlib import rc_context
from matplotlib.figure import Figure
from sizes import PERIODIC, VACUUM

from openmm_se3.plot_style import BLUE, GRAY, GREEN, ORANGE, STYLE, legend_above, save
from openmm_se3.simulation.progress import ns_per_day

DT_FS = 0.5
Results = dict[int, dict[str, Any]]
STYLES = {
    "compiled": (BLUE, "o"),
    "torchscript": (BLUE, "s"),
    "full": (BLUE, "D"),
    "mace": (ORANGE, "^"),
    "mace-compiled": (ORANGE, ">"),
    "symmetrix": (ORANGE, "<"),
    "ani": (GREEN, "P"),
    "aimnet2": (GREEN, "X"),
    "tensornet": (GREEN, "v"),
    "nvidia": (GRAY, "D"),
    "dft": ("black", "x"),
    "dft-2": ("black", "+"),
}
FILLED = set(STYLES) - {"torchscript", "full"}  # markers
TIMES = ("seconds", "fastest", "slowest", "cpu_seconds")
CHEAPER = {"seconds": "faster", "memory_mib": "less memory"}


@dataclasses.dataclass(frozen=True)
class Goal:
    """How much cheaper ours is to be than the cheapest of some others.

    Attributes:
        atoms: At which size.
        against: The others.
        ratio: Theirs over ours.
        what: "seconds" or "memory_mib".
    """

    atoms: int
    against: tuple[str, ...]
    ratio: float
    what: str = "seconds"


PEERS = ("mace", "tensornet")
GOALS = (
    Goal(3, PEERS, 40.0),
    Goal(24, PEERS, 12.0),
    Goal(192, PEERS, 6.0),
    Goal(5184, PEERS, 4.0),
    Goal(5184, PEERS, 4.0, "memory_mib"),
    Goal(3, ("nvidia",), 40.0),
    Goal(24, ("nvidia",), 25.0),
    Goal(192, ("nvidia",), 25.0),
    Goal(24, ("dft",), 25_000.0),
)


def cost(results: Results, atoms: int, name: str, what: str) -> float | None:
    """Return what a step costs; None where it was not measured.

    Memory is the peak of the process above its peak with one molecule, MiB; that of
    clusters is lost in what libraries take.
    """
    row = results.get(atoms, {}).get("rows", {}).get(name, {})
    if "seconds" not in row:
        return None
    if what == "seconds":
        return float(row["seconds"])
    base = results.get(3, {}).get("rows", {}).get(name, {})
    if atoms not in PERIODIC or "peak_memory_mib" not in base:
        return None
    return float(row["peak_memory_mib"] - base["peak_memory_mib"])


def times_ours(results: Results, atoms: int, name: str, what: str) -> float | None:
    """Return how many times ours, compiled, a contender costs; None if not measured."""
    own, other = (cost(results, atoms, key, what) for key in (OURS, name))
    return None if own is None or other is None or own <= 0.0 else other / own


def reached(results: Results, goal: Goal) -> tuple[float | None, list[str]]:
    """Return the ratio to the cheapest, and which of the others were not measured."""
    ratios = {
        name: times_ours(results, goal.atoms, name, goal.what) for name in goal.against
    }
    found = [ratio for ratio in ratios.values() if ratio is not None]
    missing = [name for name, ratio in ratios.items() if ratio is None]
    return (min(found) if found else None), missing


def goal_table(results: Results) -> list[str]:
    """Return the goals with what was measured, in Markdown."""
    lines = ["| atoms | than | goal | measured | reached |", "|---:|---|---:|---:|---|"]
    for goal in GOALS:
        ratio, missing = reached(results, goal)
        others = " and ".join(CONTENDERS[name].label for name in goal.against)
        shown = "-" if ratio is None else f"{ratio:,.3g}"
        verdict = "" if ratio is None else "yes" if ratio >= goal.ratio else "no"
        if missing and ratio is not None:
            verdict += f" (without {', '.join(CONTENDERS[n].label for n in missing)})"
        lines.append(
            f"| {goal.atoms:,} | {others} | {goal.ratio:,g} x {CHEAPER[goal.what]} | "
            f"{shown} | {verdict} |"
        )
    return lines


def time_table(results: Results) -> list[str]:
    """Return a line for each size and contender, in Markdown."""
    lines = [
        "| atoms | threads | contender | platform | ms/step | fastest | slowest | "
        "CPU ms | ns/day | MiB | x time | x memory |",
        "|---:|---:|---|---|" + "---:|" * 8,
    ]
    for atoms, result in sorted(results.items()):
        for name, contender in CONTENDERS.items():
            if name not in result["rows"]:
                continue
            row = result["rows"][name]
            threads = contender.threads or result["settings"]["threads"]
            head = f"| {atoms:,} | {threads} | {contender.label} "
            if "over" in row:
                lines.append(f"{head}| {row['over']} |" + " |" * 8)
                continue
            memory = cost(results, atoms, name, "memory_mib")
            ratios = (times_ours(results, atoms, name, what) for what in CHEAPER)
            cells = [
                row["platform"],
                *(f"{1e3 * row[key]:,.4g}" for key in TIMES),
                f"{ns_per_day(1, DT_FS, row['seconds']):.3g}",
                "" if memory is None else f"{memory:,.0f}",
                *("" if ratio is None else f"{ratio:,.3g}" for ratio in ratios),
            ]
            lines.append(f"{head}| {' | '.join(cells)} |")
    return lines


def notes(results: Results, what: str) -> list[str]:
    """Return what the numbers depend on, in Markdown."""
    networks = {
        name: row["network"]
        for result in results.values()
        for name, row in result["rows"].items()
        if "network" in row
    }
    last = next(reversed(results.values()))
    kept = last["settings"]
    loads = [result["machine"]["load_average"] for result in results.values()]
    facts = last["machine"]
    lines = [f"{CONTENDERS[name].label}: {text}" for name, text in networks.items()]
    lines += [
        "Networks of others have random weights unless said, which change nothing in "
        "the time of a step.",
        f"Medians of up to {kept['rounds']} interleaved rounds; {what}; ns/day for "
        f"steps of {DT_FS:g} fs.",
        "CPU ms: processor time of a step, all threads together. MiB: peak of the "
        "process above its peak with one molecule. x: times ours, "
        "compiled.",
        f"Limits: {kept['limits']['gigabytes']:g} GB, {kept['limits']['seconds']:g} s "
        "to get ready or for a round; what went over one is not tried at larger sizes.",
        f"{facts['processor']}, {facts['cores']} cores, no GPU used, load average "
        f"{min(loads):g} to {max(loads):g}, python {facts['python']}, torch "
        f"{facts['torch']}, openmm {facts['openmm']}.",
    ]
    return [f"- {line}" for line in lines]


def report(results: Results, molecule: str = "") -> str:
    """Return everything in Markdown; the goals are those of water."""
    water = (
        f"clusters in vacuum up to {VACUUM[-1]} atoms, the liquid in a periodic box "
        f"from {PERIODIC[0]} on"
    )
    parts = [time_table(results), notes(results, molecule or water)]
    if not molecule:
        parts.insert(0, goal_table(results))
    return "\n\n".join(
        ["# Time of a step beside others", *("\n".join(part) for part in parts)]
    )


def draw(results: Results, path: Path) -> None:
    """Draw the time of a step against the number of atoms."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        for name, contender in CONTENDERS.items():
            color, marker = STYLES[name]
            label: str | None = contender.label
            # A gap parts clusters from boxes.
            for sizes in (VACUUM, PERIODIC):
                rows = {
                    atoms: results[atoms]["rows"][name]
                    for atoms in sizes
                    if cost(results, atoms, name, "seconds") is not None
                }
                if not rows:
                    continue
                seconds = [row["seconds"] for row in rows.values()]
                axes.errorbar(
                    list(rows),
                    [1e3 * value for value in seconds],
                    yerr=[
                        [1e3 * (r["seconds"] - r["fastest"]) for r in rows.values()],
                        [1e3 * (r["slowest"] - r["seconds"]) for r in rows.values()],
                    ],
                    color=color,
                    marker=marker,
                    markersize=4.5,
                    markerfacecolor=color if name in FILLED else "white",
                    linewidth=1.2,
                    elinewidth=0.8,
                    label=label,
                )
                label = None
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="atoms: clusters of water up to 48, boxes from 192 on",
            ylabel="time of an MD step, ms",
        )
        ticks = sorted(results)
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
        legend_above(axes, columns=3)
        save(path, figure)
