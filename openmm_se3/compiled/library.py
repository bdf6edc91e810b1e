"""Compile the network for this machine, once, and load it.

The source is compiled with the machine's own C++ compiler when a shape of network is
first used, which takes about half a minute, and kept in the user's cache.  Its name is
a hash of everything that went into it, so that nothing stale is ever loaded.  Weights
are data: all models of one shape share one library.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from openmm_se3.compiled.compiler import NO_COMPILER, find_compiler
from openmm_se3.compiled.generate import shape_header
from openmm_se3.config import ModelConfig
from openmm_se3.files import atomic_write, sha256

ENGINE_VARIABLE = "OPENMM_SE3_ENGINE"  # what the engine "auto" is to mean
SOURCE = Path(__file__).with_name("source")
# Sums may be reordered and a/b computed as a * (1/b), but NaN and infinity keep their
# meaning and the processor its treatment of denormal numbers, unlike -ffast-math.
FLAGS = (
    "-std=c++17 -O3 -march=native -fopenmp -fPIC -shared -Wno-psabi -fno-math-errno "
    "-fno-trapping-math -fno-signed-zeros -fassociative-math -freciprocal-math"
).split()
# The C++ source has code for these networks only.
NEEDED = {
    "kernel": "depthwise",
    "envelope": "smooth",
    "radial_basis": "bessel",
    "nonlinearity": "gate",
    "embedding": "learned",
    "force_mode": "conservative",
    "attention": "bounded",
    "activation": "silu",
    "readout": "mlp",
    "isolated_atoms": "zero",
}

logger = logging.getLogger("openmm_se3")
T = TypeVar("T")
_loaded: set[str] = set()


class CompileError(RuntimeError):
    """The network cannot be compiled here."""


def reason_against(config: ModelConfig) -> str | None:
    """Return why a network has no compiled form, or None."""
    for field, value in NEEDED.items():
        if getattr(config, field) != value:
            return f"only networks with {field}: {value} can be compiled"
    return None


def compiled_or_none(
    make: Callable[[], T], config: ModelConfig, required: bool, instead: str
) -> T | None:
    """Return what ``make`` compiles, or None where that does not work.

    Args:
        make: Compiles something; raises CompileError.
        config: Shape of the network.
        required: It is to be compiled, and nothing else will do.
        instead: What computes the network otherwise, for the warning.

    Raises:
        CompileError: It is required, and that does not work here.
    """
    if not required and reason_against(config) is not None:
        return None
    try:
        return make()
    except CompileError as error:
        if required:
            raise
        logger.warning("%s; going on with %s, which is slower", error, instead)
        return None


def load_library(config: ModelConfig, precision: str, training: bool = False) -> str:
    """Load the library for a shape of network, compiling it if need be.

    Args:
        config: Shape of the network.
        precision: "single" or "double".
        training: The operators that training needs instead of OpenMM's.

    Returns:
        The namespace of ``torch.ops`` that holds its operators.

    Raises:
        CompileError: The network has no compiled form, there is no compiler, it fails,
            or what it makes cannot be kept.
    """
    reason = reason_against(config)
    if reason is not None:
        raise CompileError(reason)
    header = shape_header(config)
    options = [f"-DREAL={'double' if precision == 'double' else 'float'}"]
    options += ["-DTRAINING"] * training
    namespace = _name(header, options)
    path = cache_folder() / f"{namespace}.so"
    if namespace not in _loaded and not _is_whole(path):
        compiler = find_compiler()
        if compiler is None:
            raise CompileError(NO_COMPILER)
        _make_folder(path.parent)
        logger.warning(
            "compiling the network for this machine: once for this shape, about half "
            "a minute (kept in %s)",
            path.parent,
        )
        _compile(compiler, header, options, namespace, path)
    _load(path)
    return namespace


def load_compiled_networks() -> None:
    """Load every network that was compiled here before.

    A System that was serialised with a compiled TorchForce in it names the network's
    library and does not hold it.
    """
    for path in sorted(cache_folder().glob("openmm_se3_*.so")):
        if not _hash_file(path).is_file():  # of an earlier version of this program
            continue
        if not _is_whole(path):
            logger.warning("%s is damaged; it is compiled anew when next used", path)
            continue
        try:
            _load(path)
        except CompileError as error:
            logger.warning("%s", error)


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Tell whether a library is as it was compiled.

    Opening one that was cut off in the middle would end the process.
    """
    try:
        return sha256(path) == _hash_file(path).read_text()
    except OSError:
        return False


def _load(path: Path) -> None:
    if path.stem in _loaded:
        return
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise CompileError(f"{path} cannot be loaded: {error}; delete it") from error
    _loaded.add(path.stem)


def _make_folder(folder: Path) -> None:
    """Make the cache, before half a minute is spent on what could not be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise CompileError(
            f"compiled networks cannot be kept in {folder}, which is not writable; set "
            "XDG_CACHE_HOME to a folder that is"
        )


def cache_folder() -> Path:
    """Return the folder of libraries in XDG_CACHE_HOME or ~/.cache.

    Every torch and every processor has its own: a home may be shared by machines, and
    loading what was compiled for another processor ends the process.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    return Path(root) / "openmm-se3" / f"torch-{torch.__version__}-{processor}"


def _name(header: str, options: list[str]) -> str:
    parts = [
        *(path.read_text() for path in sorted(SOURCE.iterdir())),
        header,
        torch.__version__,
        " ".join(FLAGS + options),
        _processor(),
    ]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"openmm_se3_{digest[:16]}"


def _processor() -> str:
    """Return what -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _compile(
    compiler: list[str], header: str, options: list[str], namespace: str, path: Path
) -> None:
    # torch.utils.cpp_extension knows these too, but looks for CUDA and warns of it.
    root = Path(torch.__file__).parent
    headers = (root / "include", root / "include/torch/csrc/api/include")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shape.h").write_text(header)
        abi = int(torch.compiled_with_cxx11_abi())
        built = Path(folder) / path.name
        command = [
            *compiler,
            *FLAGS,
            f"-DOPERATORS={namespace}",
            *options,
            f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
            f"-I{folder}",
            *(f"-isystem{place}" for place in headers),
            str(SOURCE / "operators.cpp"),
            f"-L{root / 'lib'}",
            *("-ltorch", "-ltorch_cpu", "-lc10", "-o", str(built)),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            last = "\n".join(result.stderr.strip().splitlines()[-5:])
            raise CompileError(f"{command[0]} could not compile the network:\n{last}")
        with atomic_write(_hash_file(path)) as temporary:
            temporary.write_text(sha256(built))
        with atomic_write(path) as temporary:
            shutil.copyfile(built, temporary)
