"""What a timing depends on, written beside every timing."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import openmm
import torch


def processor_name() -> str:
    """Return the processor's name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def describe() -> dict[str, str | int | float]:
    """Return processor, threads, load and versions."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count() or 0,
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "openmm": openmm.Platform.getOpenMMVersion(),
    }


def describe_line() -> str:
    """Return :func:`describe` as one line."""
    return ", ".join(f"{key} {value}" for key, value in describe().items())


def peak_memory(process: int | str = "self") -> float:
    """Return the most memory that a process has had, MiB; Linux only.

    That of ``getrusage`` starts from the process that started this one.

    Args:
        process: Its number, or "self".
    """
    return _status(process, "VmHWM")


def reset_peak_memory() -> float:
    """Let the peak of this process start again from the memory it has now, MiB.

    Returns:
        What it has now.

    Raises:
        OSError: The system does not let a process do this.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _status("self", "VmRSS")


def _status(process: int | str, name: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.M)
    return int(found[1]) / 1024.0 if found else 0.0
