"""Is OpenMM's TorchForce plugin fit for use here, and if not, why and what mends it?

The plugin (openmmtorch) is built for one minor version of torch and a few of OpenMM.
Beside others it does not fail with an error: it aborts the process.  So versions are
compared before anything of it is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import logging
import re
from pathlib import Path
from types import ModuleType

import openmm
import torch

from openmm_se3.version import installed_version

TORCH_SERIES = (2, 9)
OPENMM_FROM = (8, 4)
OPENMM_BELOW = (8, 6)
KERNEL = "CalcTorchForce"
# The plugin's wheels for Python 3.10 and 3.13 are linked to this one of CUDA 13, those
# for 3.11 and 3.12 to that of CUDA 12, which torch loads.
NVRTC = "cu13/lib/libnvrtc.so.13"

FIX_TORCH = 'pip install "torch>=2.9,<2.10"'
FIX_OPENMM = 'pip install "openmm>=8.4,<8.6"'
FIX_PLUGIN = 'pip install "openmmtorch==1.5"'
FIX_CUDA_LIBRARIES = (
    "install PyPI's own build of torch, whose version ends in +cu12x: "
    'pip install --force-reinstall "torch>=2.9,<2.10"'
)
FIX_NVRTC = 'pip install "nvidia-cuda-nvrtc>=13,<14"'
FIX_PYTHON_FORCE = 'pip install "openmm>=8.5,<8.6"'
FIX_PLUGIN_DIRECTORY = (
    "unset OPENMM_PLUGIN_DIR if it is set, and pip install --force-reinstall "
    '--no-deps "openmmtorch==1.5"'
)


class PluginError(RuntimeError):
    """OpenMM cannot run a model here through the backend that was asked for."""


def _series(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def version_problem() -> str | None:
    """Compare versions; importing a plugin that does not fit may end the process."""
    plugin = installed_version("openmmtorch")
    if plugin is None:
        return f"the plugin openmmtorch is not installed; fix: {FIX_PLUGIN}"
    torch_version = torch.__version__
    if _series(torch_version) != TORCH_SERIES:
        return (
            f"openmmtorch {plugin} is built for torch 2.9 and aborts or fails with "
            f"torch {torch_version}; fix: {FIX_TORCH}"
        )
    openmm_version = openmm.Platform.getOpenMMVersion()
    if not OPENMM_FROM <= _series(openmm_version) < OPENMM_BELOW:
        age = "old" if _series(openmm_version) < OPENMM_FROM else "new"
        return (
            f"openmm {openmm_version} is too {age} for openmmtorch {plugin}; "
            f"fix: {FIX_OPENMM}"
        )
    if torch.version.cuda is None:
        return (
            f"torch {torch_version} is built without CUDA, but the plugin links "
            f"libtorch_cuda, also where there is no GPU; fix: {FIX_CUDA_LIBRARIES}"
        )
    return None


def _load_nvrtc() -> None:
    """Load CUDA 13's compiler where it is installed, for the plugin to find it."""
    spec = importlib.util.find_spec("nvidia")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        library = Path(folder) / NVRTC
        if library.is_file():
            # What is wrong with it the plugin's own error tells.
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _import_openmmtorch() -> ModuleType:
    # openmmtorch imports the old name simtk.openmm, which logs a warning that means
    # nothing to whoever runs this package.
    def not_about_simtk(record: logging.LogRecord) -> bool:
        return "simtk" not in record.getMessage()

    _load_nvrtc()
    root = logging.getLogger()
    root.addFilter(not_about_simtk)
    try:
        return importlib.import_module("openmmtorch")
    finally:
        root.removeFilter(not_about_simtk)


def _load_failed_libraries() -> list[str]:
    """Load the plugin's libraries that failed because torch was not there yet.

    They link torch's libraries, so they fail if ``import openmm`` came before
    ``import torch``.  Returns what still fails.
    """
    failures = []
    for failure in openmm.Platform.getPluginLoadFailures():
        match = re.match(r"Error loading library (.*OpenMMTorch\w*\.\w+): ", failure)
        if match:
            try:
                openmm.Platform.loadPluginLibrary(match[1])
            except openmm.OpenMMException as error:
                failures.append(str(error))
    return failures


def load_problem() -> str | None:
    """Import the plugin and load its libraries; return cause and fix if that fails."""
    try:
        _import_openmmtorch()
    except (ImportError, OSError) as error:
        fix = FIX_CUDA_LIBRARIES if "cannot open" in str(error) else FIX_PLUGIN
        if Path(NVRTC).name in str(error):
            fix = FIX_NVRTC
        return f"openmmtorch cannot be loaded ({error}); fix: {fix}"
    failures = _load_failed_libraries()
    if not openmm.Platform.getPlatformByName("Reference").supportsKernels([KERNEL]):
        reference = [text for text in failures if "TorchReference" in text]
        cause = reference[0] if reference else "its libraries were not found"
        fix = FIX_CUDA_LIBRARIES if reference else FIX_PLUGIN_DIRECTORY
        return f"OpenMM did not load the plugin openmmtorch ({cause}); fix: {fix}"
    return None


@functools.cache
def torchforce_problem() -> str | None:
    """Say why TorchForce cannot be used, or make it ready.

    Returns:
        Cause and fix in one line, or None when TorchForce runs on the Reference and CPU
        platforms.
    """
    return version_problem() or load_problem()


def pythonforce_problem() -> str | None:
    """Return cause and fix in one line if this OpenMM has no PythonForce, else None."""
    if hasattr(openmm, "PythonForce"):
        return None
    version = openmm.Platform.getOpenMMVersion()
    return (
        f"openmm {version} has no PythonForce, which came with 8.5; "
        f"fix: {FIX_PYTHON_FORCE}"
    )


def load_openmmtorch() -> ModuleType:
    """Import openmmtorch, ready for use whatever was imported first.

    Raises:
        PluginError: TorchForce cannot be used here; the message says why and the fix.
    """
    problem = torchforce_problem()
    if problem is not None:
        raise PluginError(f"TorchForce cannot be used: {problem}")
    return _import_openmmtorch()
