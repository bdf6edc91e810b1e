"""Generating, compiling and keeping the library of a network."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from compiled_networks import PYTHONPATH, TOLERANCE, settings_of
from random_model import SMALLEST, WATER, write_random_weights

from openmm_se3.compiled import cache, library
from openmm_se3.compiled.codegen import rotation_generators
from openmm_se3.compiled.force import compiled_force
from openmm_se3.compiled.library import CompileError, find_compiler, reason_against
from openmm_se3.force import SE3Potential
from openmm_se3.implementation import compile_implementation
from openmm_se3.model_file import load_model
from openmm_se3.nn.kernel import SphericalHarmonics
from openmm_se3.simulation import water_topology
from openmm_se3.single_point import evaluate
from openmm_se3.torchscript.build import (
    build_module,
)
from openmm_se3.torchscript.self_check import random_positions
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM

pytestmark = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler on this machine"
)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_tables_are_not_written(precision: str) -> None:
    """They are a hundred MB in double precision, which OpenMM reads for minutes."""
    network = load_model("water").network(torch.float64)
    module = compiled_force(network, precision)
    few = torch.tensor([1, 0, 0]), torch.arange(3), 0.0
    module.set_atoms(*few)
    bare = len(module.save_to_buffer())
    x = 0.1 * torch.tensor(WATER)  # nm
    expected = module(x)
    assert len(module.save_to_buffer()) > 2 * bare
    module.set_atoms(*few)
    assert len(module.save_to_buffer()) == bare < 12e6
    again = torch.jit.load(io.BytesIO(module.save_to_buffer()))(x)
    assert all(torch.equal(*pair) for pair in zip(expected, again, strict=True))


@pytest.mark.parametrize("degree", range(5))
def test_generators_turn_the_harmonics(degree: int) -> None:
    generators = rotation_generators(degree)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    u /= u.norm(dim=1, keepdim=True)
    own = slice(degree**2, (degree + 1) ** 2)
    harmonics = SphericalHarmonics(max(degree, 1))
    for axis, turn in zip(torch.eye(3, dtype=torch.float64), generators, strict=True):
        velocity = torch.linalg.cross(axis.expand_as(u), u)
        _, change = torch.func.jvp(harmonics, (u,), (velocity,))
        expected = harmonics(u)[:, own] @ turn.T
        torch.testing.assert_close(change[:, own], expected, rtol=0.0, atol=1e-12)
        assert degree == 0 or float(change[:, own].abs().max()) > 0.1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kernel", "full"),
        ("nonlinearity", "norm"),
        ("activation", "relu"),
        ("readout", "linear"),
        ("isolated_atoms", "learned"),
        ("envelope", "none"),
        ("radial_basis", "distance"),
        ("embedding", "one-hot"),
        ("force_mode", "direct"),
    ],
)
@pytest.mark.filterwarnings("ignore:energy is not conserved")
def test_what_cannot_be_compiled_says_so(
    field: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(load_model("water").config, **{field: value})
    assert field in str(reason_against(config))
    assert reason_against(load_model("water").config) is None
    changes = {**SMALLEST, "lmax": 1, field: value}
    unfit = write_random_weights(tmp_path / "unfit", **changes)
    topology = water_topology(1)
    with pytest.raises(CompileError, match=field):
        SE3Potential(unfit, implementation="compiled").createSystem(topology)
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    system = SE3Potential(
        unfit, implementation="auto", precision="double"
    ).createSystem(topology)
    symbols, positions = ["O", "H", "H"], random_positions(3).numpy()
    expected = evaluate(
        load_model(unfit).network(torch.float64), symbols, 10 * positions
    )
    context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    context.setPositions(positions)
    state = context.getState(forces=True)
    forces = state.getForces(asNumpy=True)._value / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
    np.testing.assert_allclose(forces, expected[1], atol=1e-5)


def test_without_a_compiler_only_speed_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_loaded", set())
    monkeypatch.setattr(cache, "_warned", set())
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'error: no headers' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    x = random_positions(3)
    module = build_module(settings_of(3, "single", implementation="auto"))
    assert "no headers" in caplog.text
    assert "going on with TorchScript" in caplog.text
    assert torch.isfinite(module(x)[0]).all()
    with pytest.raises(CompileError, match="no headers"):
        build_module(settings_of(3, "single"))
    assert not list(tmp_path.glob("openmm-se3/*/*"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX")
    with pytest.raises(CompileError, match="install g\\+\\+"):
        build_module(settings_of(3, "single"))


def clang_with_openmp() -> bool:
    if shutil.which("clang++") is None:
        return False
    command = ["clang++", "-fopenmp", "-fsyntax-only", "-x", "c++", "-"]
    code = "#include <omp.h>\n"
    done = subprocess.run(command, input=code, text=True, capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(not clang_with_openmp(), reason="no clang++, or no libomp-dev")
def test_clang_compiles_the_same_network(tmp_path: Path) -> None:
    """In a process of its own: one cannot hold two libraries of one shape.

    In one precision: both are the same templates, and each takes 15 s to compile.
    """
    model = write_random_weights(tmp_path / "small", layers=2, lmax=1)
    used = tmp_path / "used"
    clang = tmp_path / "clang"
    clang.write_text(f'#!/bin/sh\ntouch {used}\nexec clang++ "$@"\n')
    clang.chmod(0o755)
    code = (
        "from compiled_networks import differences, load_model, settings_of\n"
        f"model = load_model({str(model)!r})\n"
        "settings = settings_of(24, 'single', model=model)\n"
        "print(differences(settings, None, calls=3))\n"
    )
    variables = {**os.environ, "CXX": str(clang), "XDG_CACHE_HOME": str(tmp_path)}
    variables["PYTHONPATH"] = PYTHONPATH
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert used.exists()
    assert 0.0 < float(done.stdout) < TOLERANCE["single"]


def test_a_cache_that_cannot_be_kept_costs_only_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", set())
    monkeypatch.setattr(cache, "_warned", set())
    (tmp_path / "cache").write_text("not a folder")
    cause = "cannot be kept in .* XDG_CACHE_HOME"
    with pytest.raises(CompileError, match=cause):
        library.load_library(load_model("water").config, "single")
    assert (
        compile_implementation("auto", load_model("water").config, "single")
        == "torchscript"
    )
    assert re.search(f"{cause}.*going on with TorchScript", caplog.text)


@pytest.mark.parametrize("damage", ["cut off", "changed", "hash missing"])
def test_a_damaged_library_is_compiled_anew(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    network = load_model("water").network(torch.float64)
    kept = cache.cache_folder() / f"{library.load_library(network.config, 'single')}.so"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache.cache_folder()
    folder.mkdir(parents=True)
    for path in (kept, kept.with_suffix(".sha256")):
        shutil.copy(path, folder)
    copy = folder / kept.name
    if damage == "cut off":
        os.truncate(copy, copy.stat().st_size // 2)
    elif damage == "changed":
        copy.write_bytes(b"\x7fELF" + copy.read_bytes()[4:].replace(b"se3", b"se4"))
    else:
        copy.with_suffix(".sha256").unlink()
    calls: list[str] = []
    monkeypatch.setattr(library, "_loaded", set())  # as in a new process
    monkeypatch.setattr(
        library, "_compile", lambda *given: calls.append(f"compiled {given[-1].name}")
    )
    monkeypatch.setattr(
        library, "_load", lambda path: calls.append(f"loaded {path.name}")
    )
    for expected in ([f"compiled {copy.name}"], []):
        calls.clear()
        caplog.clear()
        library.load_compiled_networks()
        assert calls == ([] if expected else [f"loaded {copy.name}"])
        calls.clear()
        library.load_library(network.config, "single")
        assert calls == [*expected, f"loaded {copy.name}"]
        warned = "is damaged; it is compiled anew" in caplog.text
        assert warned == bool(expected and damage != "hash missing")
        for path in (kept, kept.with_suffix(".sha256")):
            shutil.copy(path, folder)


def test_a_libraries_name_depends_on_all_that_it_is_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [
        library._name("shape", ["-DREAL=float"]),
        library._name("shape", ["-DREAL=double"]),
        library._name("another shape", ["-DREAL=float"]),
    ]
    folder = cache.cache_folder()
    shutil.copytree(library.SOURCE, tmp_path / "source")
    with open(tmp_path / "source" / "layer.h", "a") as file:
        file.write("// changed\n")
    for owner, name, value in (
        (library, "SOURCE", tmp_path / "source"),
        (library, "FLAGS", ["-O2"]),
        (torch, "__version__", "9.9"),
        (cache, "processor", lambda: "another"),
    ):
        with monkeypatch.context() as context:
            context.setattr(owner, name, value)
            names.append(library._name("shape", ["-DREAL=float"]))
            apart = name in ("__version__", "processor")
            assert (cache.cache_folder() != folder) == apart
    assert len(set(names)) == len(names)
