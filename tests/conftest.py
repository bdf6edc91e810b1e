from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A few atoms give several threads nothing to do but to wait for each other.  Must be
# set before the numerical libraries are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Every shape of network would be compiled first, for half a minute each; what is about
# compiled networks asks for them.
os.environ.setdefault("OPENMM_SE3_IMPLEMENTATION", "torchscript")
# A shell that starts the tests in the background lets them ignore Ctrl-C, nohup lets
# them ignore SIGHUP; so would their subprocesses, in which both are tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """Seed every test alike and undo a change of torch's default precision."""
    torch.manual_seed(0)
    np.random.seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back() -> Iterator[None]:
    """Return freed memory to the system, which training tells the C library to keep."""
    yield
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def nothing_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which compiled networks failed, which a process remembers."""
    monkeypatch.setattr("openmm_se3.torchscript.build._failed", set())


@pytest.fixture(autouse=True, scope="session")
def few_calls() -> Iterator[None]:
    """Compare a System's module with its network in four calls, as of many atoms.

    Twenty take as long as all the rest of ``createSystem``.  Tests of one module over
    many calls make them themselves, and tests/torchscript/test_export.py sees that
    users' modules are compared in all.
    """
    from openmm_se3.torchscript import build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "CALLS", build.FEW_CALLS)
        yield


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a network with random weights; not to be changed."""
    from random_model import write_random_weights

    return write_random_weights(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def smallest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the cheapest network, with random weights; not to be changed."""
    from random_model import SMALLEST, write_random_weights

    folder = tmp_path_factory.mktemp("models") / "smallest"
    return write_random_weights(folder, **SMALLEST)


@pytest.fixture(scope="session")
def exported_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the cheapest network as export writes it; not to be changed."""
    from random_model import SMALLEST, write_random_model

    folder = tmp_path_factory.mktemp("models") / "exported"
    return write_random_model(folder, **SMALLEST)


@pytest.fixture
def model_copy(exported_model: Path, tmp_path: Path) -> Path:
    """A copy of a model folder, to be spoilt."""
    return Path(shutil.copytree(exported_model, tmp_path / "model"))


@pytest.fixture(params=["torchscript", "compiled"])
def implementation_and_model(
    request: pytest.FixtureRequest, smallest_model: Path
) -> tuple[str, str]:
    """An implementation and a model for it: the cheapest, or one compiled anyway."""
    models = {"torchscript": str(smallest_model), "compiled": "water"}
    return request.param, models[request.param]


@pytest.fixture(scope="session")
def waters() -> tuple[Any, np.ndarray]:
    """Topology of three water molecules and distorted positions [9, 3], A."""
    from analytic_water import water_positions

    from openmm_se3.simulation import water_topology

    rng = np.random.default_rng(2)
    positions = water_positions(3, seed=5)
    return water_topology(3), positions + rng.normal(scale=0.03, size=positions.shape)
