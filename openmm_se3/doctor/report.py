"""Shows an examination in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openmm_se3.doctor.collect import Evidence
from openmm_se3.doctor.diagnosis import Finding, concerns_other_hardware
from openmm_se3.doctor.probe import XML

NOT_FOUND = ": cannot open shared object file: No such file or directory"


def show(
    evidence: Evidence,
    problems: Sequence[Finding],
    hints: Sequence[Finding],
    console: Console,
) -> None:
    """Print what was found, then every problem with its fix."""
    for table in (
        _versions(evidence),
        _machine(evidence),
        _load_failures(evidence),
        _backends(evidence),
    ):
        if table.row_count:
            console.print(table)
    faults = [(result.backend, result.fault) for result in evidence.results]
    for backend, fault in dict.fromkeys(faults):
        if fault is not None:
            _line(console, f"{backend} fails: ", "bold", fault)
    for title, style, findings in (
        ("Wrong", "bold red", problems),
        ("Worth knowing", "bold yellow", hints),
    ):
        for finding in findings:
            # One line each, however long: the terminal may wrap, a copy must not.
            _line(console, f"{title}: ", style, finding.cause)
            _line(console, "  fix: ", "bold", finding.fix)
    if not problems:
        console.print(Text("All is well.", style="bold green"))


def _line(console: Console, label: str, style: str, text: str) -> None:
    console.print(Text.assemble((label, style), text), soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _versions(evidence: Evidence) -> Table:
    table = _table("Versions", "package", "version")
    for package, version in evidence.versions.items():
        table.add_row(package, version or "not installed")
    return table


def _machine(evidence: Evidence) -> Table:
    found = evidence.environment
    table = _table("Machine", "what", "found")
    table.add_row("GPU", ", ".join(evidence.gpus) or "none")
    build = found.get("torch_cuda")
    table.add_row("torch built for", f"CUDA {build}" if build else "CPU only")
    table.add_row("torch uses a GPU", "yes" if found.get("torch_sees_gpu") else "no")
    if "triton_problem" in found:
        table.add_row("implementation triton", found["triton_problem"] or "can be used")
    table.add_row("OpenMM platforms", ", ".join(found.get("platforms", ["unknown"])))
    table.add_row("C++ compiler", evidence.compiler or "none")
    table.add_row("compiled networks", found.get("cache", "unknown"))
    for name, faults in evidence.models.items():
        table.add_row(f"model {name}", "; ".join(faults) or "whole")
    return table


def _load_failures(evidence: Evidence) -> Table:
    table = _table("OpenMM plugins that did not load", "library", "reason", "needed")
    for failure in evidence.environment.get("load_failures", []):
        path, _, reason = failure.removeprefix("Error loading library ").partition(": ")
        reason = reason.replace(NOT_FOUND, " is missing")
        needed = "for a GPU" if concerns_other_hardware(failure) else "yes"
        table.add_row(path.rpartition("/")[2], reason, needed)
    return table


def _backends(evidence: Evidence) -> Table:
    targets = dict.fromkeys(result.target for result in evidence.results)
    headings = ["XML round trip" if name == XML else name for name in targets]
    table = _table("Energy and force of one atom", "backend", *headings)
    for backend in dict.fromkeys(result.backend for result in evidence.results):
        faults = {
            result.target: result.fault
            for result in evidence.results
            if result.backend == backend
        }
        cells = [
            Text("not tried")
            if target not in faults
            else Text("right", style="green")
            if faults[target] is None
            else Text("fails", style="bold red")
            for target in targets
        ]
        table.add_row(backend, *cells)
    return table
