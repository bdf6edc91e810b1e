"""Gathers what there is to know about an installation, and survives all of it.

Nothing here imports torch or OpenMM: a wrong pair of versions ends the process that
loads them, so :mod:`openmm_se3.doctor.probe` does it in processes of its own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openmm_se3.compiled.library import find_compiler
from openmm_se3.doctor import probe
from openmm_se3.shipped import damaged_files, shipped_models
from openmm_se3.version import __version__, installed_version

PACKAGES = (
    "torch",
    "openmm",
    "openmmtorch",
    "e3nn",
    "vesin-torch",
    "numpy",
    "mdtraj",
    "openmmml",
    "dgl",
    "lightning-fabric",
    "pyscf",
    "tblite",
    "ase",
)
PROBE_SECONDS = 180.0
RELATIVE_TOLERANCE = 1e-5  # single precision platforms


@dataclasses.dataclass(frozen=True)
class ProbeOutcome:
    """What one process wrote before it ended.

    Attributes:
        lines: The JSON objects that it wrote.
        fault: How it ended if not well, else None.
    """

    lines: list[dict[str, Any]]
    fault: str | None


@dataclasses.dataclass(frozen=True)
class BackendResult:
    """The one-atom force through a backend on a platform.

    Attributes:
        backend: "torchforce" or "pythonforce".
        target: Name of the platform, or "XML" for Reference after a round trip.
        fault: None if energy and force are right, else what went wrong.
    """

    backend: str
    target: str
    fault: str | None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that was found.

    Attributes:
        versions: Version by package; None if not installed.
        gpus: Names of the NVIDIA GPUs that the driver sees.
        environment: What the probe "environment" wrote, as one dictionary.
        environment_fault: How that probe ended if not well, else None.
        results: The one-atom force through each backend on each platform.
        models: Faults of each shipped model's files, by the model's name.
        compiler: Command of the C++ compiler; None without one.
    """

    versions: dict[str, str | None]
    gpus: list[str]
    environment: dict[str, Any]
    environment_fault: str | None
    results: list[BackendResult]
    models: dict[str, list[str]]
    compiler: str | None


def run_probe(*arguments: str) -> ProbeOutcome:
    """Run ``python -m openmm_se3.doctor.probe`` and survive whatever it does."""
    root = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH")
    paths = f"{inherited}{os.pathsep}{root}" if inherited else root
    command = [sys.executable, "-m", probe.__name__, *arguments]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        written = error.stdout or b""
        text = written if isinstance(written, str) else written.decode(errors="replace")
        fault = f"the process did not end within {PROBE_SECONDS:.0f} s"
        return ProbeOutcome(_json_lines(text), fault)
    return ProbeOutcome(_json_lines(done.stdout), _fault(done))


def _json_lines(text: str) -> list[dict[str, Any]]:
    lines = []
    for line in text.splitlines():
        # Libraries write to stdout too, and a crash cuts a line short.
        if line.startswith("{") and line.endswith("}"):
            lines.append(json.loads(line))
    return lines


def _fault(done: subprocess.CompletedProcess[str]) -> str | None:
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the process was ended by {signal.Signals(-done.returncode).name}"
    message = done.stderr.strip().splitlines()
    return message[-1] if message else f"the process ended with code {done.returncode}"


def find_gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that the driver sees, without using torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def try_backend(backend: str, targets: Sequence[str]) -> list[BackendResult]:
    """Try the one-atom force on each target; a crash costs that target only."""
    results = []
    left = list(targets)
    while left:
        outcome = run_probe(backend, *left)
        for line in outcome.lines:
            results.append(BackendResult(backend, line["target"], _wrong(line)))
            left.remove(line["target"])
        if left:
            fault = outcome.fault or "the process ended without a result"
            results.append(BackendResult(backend, left.pop(0), fault))
    return results


def _wrong(line: dict[str, Any]) -> str | None:
    if "error" in line:
        return str(line["error"])
    found = [line["energy"], *line["force"]]
    expected = [probe.EXPECTED_ENERGY, *probe.EXPECTED_FORCE]
    if all(
        math.isclose(x, y, rel_tol=RELATIVE_TOLERANCE)
        for x, y in zip(found, expected, strict=True)
    ):
        return None
    return f"wrong energy or force: {found} instead of {expected} (kJ/mol, nm)"


def gather() -> Evidence:
    """Examine this installation; takes some ten seconds."""
    versions: dict[str, str | None] = {
        "openmm-se3": __version__,
        "python": platform.python_version(),
    }
    versions.update({name: installed_version(name) for name in PACKAGES})
    outcome = run_probe("environment")
    environment: dict[str, Any] = {}
    for line in outcome.lines:
        environment.update(line)
    # Where OpenMM itself does not load there is nothing to try.
    platforms = environment.get("platforms", [])
    backends = []
    if platforms and versions["openmmtorch"] is not None:
        backends.append("torchforce")
    if platforms and environment.get("pythonforce_problem") is None:
        backends.append("pythonforce")
    with ThreadPoolExecutor() as pool:
        results = pool.map(
            lambda backend: try_backend(backend, [*platforms, probe.XML]), backends
        )
    return Evidence(
        versions=versions,
        gpus=find_gpus(),
        environment=environment,
        environment_fault=outcome.fault,
        results=[result for one_backend in results for result in one_backend],
        models={name: damaged_files(path) for name, path in shipped_models().items()},
        compiler=" ".join(find_compiler() or []) or None,
    )
