"""Compile the network for this machine, once, and load it.

The source is compiled with the machine's own C++ compiler when a shape of network is
first used, which takes about half a minute, and kept in the user's cache.  Its name is
a hash of everything that went into it, so that nothing stale is ever loaded.  Weights
are data: all models of one shape share one library.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from openmm_se3.compiled import cache
from openmm_se3.compiled.cache import (
    CompileError,
    cache_folder,
    hash_file,
    is_whole,
    logger,
    make_folder,
    require_private,
    warn_once,
)
from openmm_se3.compiled.codegen import shape_header
from openmm_se3.config import ModelConfig
from openmm_se3.files import atomic_write, sha256

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

T = TypeVar("T")
_loaded: set[str] = set()
# Why a library could not be compiled, by its path and the compiler: it is not tried
# again for every System.
_failed: dict[tuple[Path, tuple[str, ...]], str] = {}
# A thread that needs a library waits while another one compiles it.
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


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
        warn_once(f"{error}; going on with {instead}, which is slower")
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
            or what it makes cannot be kept or trusted.
    """
    reason = reason_against(config)
    if reason is not None:
        raise CompileError(reason)
    header = shape_header(config)
    options = [f"-DREAL={'double' if precision == 'double' else 'float'}"]
    options += ["-DTRAINING"] * training
    namespace = _name(header, options)
    with _locks[namespace]:
        path = cache_folder() / f"{namespace}.so"
        if namespace not in _loaded:
            require_private(path.parent)
            if not is_whole(path):
                _make_library(header, options, path)
        _load(path)
    return namespace


def load_compiled_networks() -> None:
    """Load every network that was compiled here before.

    A System that was serialized with a compiled TorchForce in it names the network's
    library and does not hold it.
    """
    for path in sorted(cache_folder().glob("openmm_se3_*.so")):
        # Without a hash it is of an earlier version of this program.
        if path.stem in _loaded or not hash_file(path).is_file():
            continue
        try:
            require_private(path.parent)
            if is_whole(path):
                _load(path)
            else:
                warn_once(f"{path} is damaged; it is compiled anew when next used")
        except CompileError as error:
            warn_once(str(error))


def _load(path: Path) -> None:
    if path.stem in _loaded:
        return
    require_private(path)
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise CompileError(f"{path} cannot be loaded: {error}; delete it") from error
    _loaded.add(path.stem)


def _name(header: str, options: list[str]) -> str:
    parts = [
        *(path.read_text() for path in sorted(SOURCE.iterdir())),
        header,
        torch.__version__,
        " ".join(FLAGS + options),
        cache.processor(),
    ]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"openmm_se3_{digest[:16]}"


def _make_library(header: str, options: list[str], path: Path) -> None:
    """Compile a library into the cache.

    Raises:
        CompileError: There is no compiler, it fails, or what it makes cannot be kept,
            now or when it was tried before.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompileError(NO_COMPILER)
    attempt = path, tuple(compiler)
    if attempt in _failed:
        raise CompileError(_failed[attempt])
    make_folder(path.parent)
    logger.warning(
        "compiling the network for this machine: once for this shape, about half a "
        "minute (kept in %s)",
        path.parent,
    )
    try:
        _compile(compiler, header, options, path)
    except OSError as error:
        _failed[attempt] = f"the compiled network cannot be kept: {error}"
        raise CompileError(_failed[attempt]) from error
    except CompileError as error:
        _failed[attempt] = str(error)
        raise


def _compile(compiler: list[str], header: str, options: list[str], path: Path) -> None:
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
            f"-DOPERATORS={path.stem}",
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
        with atomic_write(hash_file(path)) as temporary:
            temporary.write_text(sha256(built))
        with atomic_write(path) as temporary:
            shutil.copyfile(built, temporary)
        for file in (path, hash_file(path)):
            file.chmod(0o644)  # whatever the umask lets others do


NO_COMPILER = "no C++ compiler found; fix: install g++, or name another in CXX"


def find_compiler() -> list[str] | None:
    """Return the command of the C++ compiler: CXX, g++ or clang++; None without one."""
    for candidate in (os.environ.get("CXX", ""), "g++", "clang++"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    return None
