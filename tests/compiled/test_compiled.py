"""The compiled network against the network: the reference decides."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from random_model import SMALLEST, WATER, write_random_weights

from openmm_se3.compiled import cache, library
from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.codegen import rotation_generators
from openmm_se3.compiled.force import TABLE_INTERVALS, compiled_force
from openmm_se3.compiled.library import CompileError, find_compiler, reason_against
from openmm_se3.config import ModelConfig
from openmm_se3.force import SE3Potential
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import neighbour_pairs
from openmm_se3.nn.kernel import SphericalHarmonics
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.simulation import water_topology
from openmm_se3.single_point import evaluate
from openmm_se3.torchscript.build import (
    ForceSettings,
    build_module,
    eager_force,
)
from openmm_se3.torchscript.engine import compile_engine
from openmm_se3.torchscript.self_check import random_positions
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM, EV_TO_KJ_PER_MOL

pytestmark = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler on this machine"
)
PYTHONPATH = os.pathsep.join(
    [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
)
TOLERANCE = {"single": 5e-5, "double": 1e-10}  # eV/A, eV an atom
BOX_OF_192 = 2.1 * torch.eye(3, dtype=torch.float64)  # nm; six random_positions a side
TRICLINIC = torch.tensor([[0.9, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.3, 1.1]]).double()


def settings_of(
    n_atoms: int, precision: str, periodic: bool = False, **changes: Any
) -> ForceSettings:
    return dataclasses.replace(
        ForceSettings(
            model=load_model("water"),
            precision=precision,
            species=tuple(i % 2 for i in range(n_atoms)),
            atoms=tuple(range(n_atoms)),
            n_particles=n_atoms,
            periodic=periodic,
            offset=0.0,
            engine="compiled",
        ),
        **changes,
    )


def differences(
    settings: ForceSettings, box: torch.Tensor | None, calls: int = 20
) -> float:
    """Return the largest difference to the network: eV an atom, or eV/A."""
    module = build_module(settings)
    expected = eager_force(settings.model.network(torch.float64), settings)
    positions = random_positions(settings.n_particles)
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for _ in range(calls):
        x = positions + 0.005 * torch.randn(
            positions.shape, generator=generator, dtype=torch.float64
        )
        energy, forces = module(x) if box is None else module(x, box)
        energy_expected, forces_expected = expected(x, box)
        n_atoms = len(settings.species)
        worst = max(
            worst,
            abs(float(energy - energy_expected)) / EV_TO_KJ_PER_MOL / n_atoms,
            float((forces - forces_expected).abs().max())
            / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
        )
    return worst


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("n_atoms", [1, 2, 3, 5, 24, 25])
def test_equal_to_the_network_for_free_molecules(n_atoms: int, precision: str) -> None:
    limit = TOLERANCE[precision]
    assert differences(settings_of(n_atoms, precision), None) < limit


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("n_atoms", [1, 4])
def test_equal_in_a_box_smaller_than_two_cutoffs(n_atoms: int, precision: str) -> None:
    limit = TOLERANCE[precision]
    settings = settings_of(n_atoms, precision, periodic=True)
    assert differences(settings, TRICLINIC) < limit


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_equal_in_a_box_narrower_than_the_cutoff(n_atoms: int) -> None:
    """Images of the second shell of boxes are neighbors, too."""
    box = torch.tensor([[0.44, 0.0, 0.0], [0.1, 0.48, 0.0], [-0.05, 0.15, 0.5]])
    settings = settings_of(n_atoms, "double", periodic=True)
    assert differences(settings, box.double(), calls=3) < TOLERANCE["double"]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_equal_for_192_atoms_in_a_box(precision: str) -> None:
    settings = settings_of(192, precision, periodic=True)
    assert differences(settings, BOX_OF_192, calls=3) < TOLERANCE[precision]


def test_ten_thousand_atoms_are_copies_of_192() -> None:
    copies = torch.cartesian_prod(*(torch.arange(n) for n in (3, 6, 3)))
    n_atoms = 192 * len(copies)
    assert n_atoms > 10_000
    x = random_positions(192)
    energy, forces = build_module(settings_of(192, "double", True))(x, BOX_OF_192)
    settings = settings_of(n_atoms, "double", True)
    many = (x + (copies.double() @ BOX_OF_192).unsqueeze(1)).flatten(0, 1)
    box = BOX_OF_192 * torch.tensor([[3.0], [6.0], [3.0]])
    total, all_forces = build_module(settings)(many, box)
    assert float(total) == pytest.approx(len(copies) * float(energy), rel=1e-11)
    expected = forces.repeat(len(copies), 1)
    assert torch.allclose(all_forces, expected, rtol=0.0, atol=1e-6)
    # A control: one atom elsewhere among ten thousand would be seen.
    many[-1] += 0.01
    moved, _ = build_module(settings)(many, box)
    assert float(moved) != pytest.approx(float(total), rel=1e-11)


def test_threads_do_not_change_the_result() -> None:
    settings = settings_of(192, "double", periodic=True)
    module = build_module(settings)
    x = random_positions(192, cutoff=4.2)
    box = torch.eye(3).double() * 1.3
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(module(x, box))
            again = module(x, box)
            assert torch.equal(again[1], results[-1][1])
    finally:
        torch.set_num_threads(before)
    expected = eager_force(settings.model.network(torch.float64), settings)(x, box)
    for energy, forces in results:
        assert float(energy) == pytest.approx(float(expected[0]), rel=1e-12)
        assert torch.allclose(forces, expected[1], rtol=0.0, atol=1e-6)


def test_pairs_by_cells_are_those_of_the_neighbour_list() -> None:
    generator = torch.Generator().manual_seed(3)
    settings = settings_of(150, "double")
    module = build_module(settings)
    network = settings.model.network(torch.float64)
    # Sizes with one to four cells a side, atoms in images far away, and a thin sheet.
    slanted = torch.tensor([[2.3, 0.0, 0.0], [0.7, 1.6, 0.0], [-0.9, 0.5, 3.1]])
    grid = random_positions(150, cutoff=6.0)
    for box in (torch.diag(torch.tensor([1.9, 1.5, 2.9])), slanted, None):
        x = grid.clone()
        if box is None:
            x[:, 2] *= 0.01
        else:
            box = box.double()
            images = torch.randint(-3, 4, (150, 3), generator=generator).double()
            x = (grid @ torch.linalg.inv(box) % 1.0 + images) @ box
        expected = eager_force(network, settings)(x, box)
        energy, forces = module(x) if box is None else module(x, box)
        # Some atoms are on top of each other, with forces of 1e11 kJ/mol/nm.
        assert float(energy) == pytest.approx(float(expected[0]), rel=1e-9)
        assert torch.allclose(forces, expected[1], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("box", [None, "straight", "slanted"])
def test_atoms_on_the_faces_of_the_cells(box: str | None) -> None:
    """Three cells a side or more: the first and the last are no neighbors."""
    generator = torch.Generator().manual_seed(6)
    grid = torch.cartesian_prod(*[torch.arange(5)] * 3).double()
    x = 0.5 * (grid + 0.2 * torch.rand(grid.shape, generator=generator).double())
    cell = None
    if box is None:
        low, high = x.amin(0), x.amax(0)
        x = torch.where(grid == 0, low, torch.where(grid == 4, high, x))
    else:
        # So little below a face that a place in the box is rounded up to 1.
        x = torch.where(grid == 0, -1e-18, x)
        cell = 2.5 * torch.eye(3, dtype=torch.float64)
        if box == "slanted":
            cell[1, 0], cell[2, 0], cell[2, 1] = 0.4, -0.7, 0.6
            x = (x / 2.5) @ cell
    settings = settings_of(len(x), "double", periodic=cell is not None)
    network = settings.model.network(torch.float64)
    edges = neighbour_pairs(
        10.0 * x, network.config.cutoff, None if cell is None else 10.0 * cell
    )
    expected = network.energy_and_forces(
        10.0 * x, torch.tensor(settings.species), *edges
    )
    module = build_module(settings)
    energy, forces = module(x) if cell is None else module(x, cell)
    assert float(energy) == pytest.approx(
        EV_TO_KJ_PER_MOL * float(expected[0]), rel=1e-9
    )
    in_our_units = forces / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
    assert torch.allclose(in_our_units, expected[1], rtol=0.0, atol=1e-9)


def test_atoms_of_a_larger_system_and_other_orders() -> None:
    settings = settings_of(5, "double", atoms=(7, 1, 4, 0, 2), n_particles=8)
    assert differences(settings, None) < 1e-10


def test_a_gpu_platform_that_moves_the_module_leaves_it_on_the_processor() -> None:
    module = build_module(settings_of(5, "single"))
    x = random_positions(5)
    expected = module(x)
    # OpenMM moves modules to the device of its platform; on this one nothing is left.
    for found, before in zip(module.to("meta")(x), expected, strict=True):
        assert torch.equal(found, before)


def test_energy_offset() -> None:
    plain, shifted = (
        build_module(settings_of(3, "double", offset=offset)) for offset in (0.0, -7.0)
    )
    x = random_positions(3)
    difference = float(shifted(x)[0] - plain(x)[0])
    assert difference == pytest.approx(-7.0 * EV_TO_KJ_PER_MOL, rel=1e-12)


def test_forces_are_the_slope_of_the_energy() -> None:
    module = build_module(settings_of(6, "double"))
    x = random_positions(6)
    _, forces = module(x)
    step = 2e-5

    def energy(atom: int, axis: int, steps: int) -> float:
        moved = x.clone()
        moved[atom, axis] += steps * step
        return float(module(moved)[0])

    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        near, far = (energy(atom, axis, n) - energy(atom, axis, -n) for n in (1, 2))
        slope = (8.0 * near - far) / (12.0 * step)
        assert -slope == pytest.approx(float(forces[atom, axis]), rel=1e-7, abs=1e-5)


def test_energy_is_smooth_across_the_cutoff_and_the_ends_of_the_table() -> None:
    settings = settings_of(2, "double")
    module = build_module(settings)
    cutoff = settings.model.config.cutoff
    step = (cutoff - pack.TABLE_START) / TABLE_INTERVALS["double"]
    node = pack.TABLE_START + round(3.0 / step) * step
    for r in (cutoff, node):
        below, above = (
            module(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1 * (r + by)]]).double())
            for by in (-1e-7, 1e-7)
        )
        assert float(above[0] - below[0]) == pytest.approx(0.0, abs=1e-4)
        assert torch.allclose(above[1], below[1], rtol=0.0, atol=1e-3)


def test_atoms_in_contact_stay_finite_and_nan_is_refused() -> None:
    module = build_module(settings_of(2, "single"))
    for r in (0.0, 1e-4, 0.002):
        energy, forces = module(torch.tensor([[0.0, 0.0, 0.0], [r, 0.0, 0.0]]).double())
        assert torch.isfinite(energy).all()
        assert torch.isfinite(forces).all()
    for wrong in (np.nan, np.inf):
        x = torch.tensor([[0.0, 0.0, 0.0], [wrong, 0.0, 0.0]]).double()
        with pytest.raises(RuntimeError, match="NaN or infinite"):
            module(x)


def test_results_have_the_precision_of_the_positions() -> None:
    module = build_module(settings_of(3, "single"))
    for dtype in (torch.float32, torch.float64):
        x = random_positions(3).to(dtype).requires_grad_()
        energy, forces = module(x)
        assert energy.dtype == forces.dtype == dtype
        assert forces.is_contiguous()
        assert not energy.requires_grad
        assert not forces.requires_grad


OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "both parities": {
        "layers": 4,
        "lmax": 1,
        "mirror": False,
        "self_interaction": "linear",
    },
    "degree 3": {"layers": 2, "lmax": 3, "jmax": 3, "self_interaction_width": 8},
}


@pytest.mark.parametrize("changes", OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys())
def test_another_shape_of_network(changes: dict[str, Any]) -> None:
    config = ModelConfig(
        elements=("H", "C", "O"),
        cutoff=4.0,
        channels=8,
        key_channels=4,
        heads=2,
        energy_scale=0.3,
        **changes,
    )
    network = SE3Transformer(config).eval()
    species = torch.tensor([0, 1, 2, 2, 0])
    module = compiled_force(network, "double")
    module.set_atoms(species, torch.arange(5), 0.0)
    settings = settings_of(5, "double", species=tuple(species.tolist()))
    x = random_positions(5)
    energy, forces = module(x)
    expected = eager_force(network, settings)(x)
    assert float(energy) == pytest.approx(float(expected[0]), rel=1e-11)
    assert torch.allclose(forces, expected[1], rtol=0.0, atol=1e-7)


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
        SE3Potential(unfit, engine="compiled").createSystem(topology)
    monkeypatch.setenv("OPENMM_SE3_ENGINE", "auto")
    system = SE3Potential(unfit, engine="auto", precision="double").createSystem(
        topology
    )
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
    monkeypatch.setenv("OPENMM_SE3_ENGINE", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_loaded", set())
    monkeypatch.setattr(cache, "_warned", set())
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'error: no headers' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    x = random_positions(3)
    module = build_module(settings_of(3, "single", engine="auto"))
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
    """In a process of its own: one cannot hold two libraries of one shape."""
    model = write_random_weights(tmp_path / "small")
    used = tmp_path / "used"
    clang = tmp_path / "clang"
    clang.write_text(f'#!/bin/sh\ntouch {used}\nexec clang++ "$@"\n')
    clang.chmod(0o755)
    code = (
        "from test_compiled import differences, load_model, settings_of\n"
        f"model = load_model({str(model)!r})\n"
        "for precision in ('single', 'double'):\n"
        "    settings = settings_of(24, precision, model=model)\n"
        "    print(differences(settings, None, calls=3))\n"
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
    single, double = map(float, done.stdout.split())
    assert 0.0 < single < TOLERANCE["single"] and double < TOLERANCE["double"]


def test_a_cache_that_cannot_be_kept_costs_only_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENMM_SE3_ENGINE", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", set())
    monkeypatch.setattr(cache, "_warned", set())
    (tmp_path / "cache").write_text("not a folder")
    cause = "cannot be kept in .* XDG_CACHE_HOME"
    with pytest.raises(CompileError, match=cause):
        library.load_library(load_model("water").config, "single")
    assert compile_engine("auto", load_model("water").config, "single") == "torchscript"
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
    # A process of its own: what was loaded before counts no more.
    script = (
        "import openmm_se3, torch\n"
        "openmm_se3.register_plugins()\n"
        "from openmm_se3.compiled import library\n"
        "library._compile = lambda *given: print('compiled', given[-1].name)\n"
        "library._load = lambda path: print('loaded', path.name)\n"
        "from openmm_se3.model_file import load_model\n"
        "library.load_library(load_model('water').config, 'single')\n"
    )
    for expected in ([f"compiled {copy.name}"], []):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.split("\n")[:-1] == [*expected, f"loaded {copy.name}"]
        warned = "is damaged; it is compiled anew" in done.stderr
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


def test_weights_of_another_network_are_refused() -> None:
    network = load_model("water").network(torch.float64)
    namespace = library.load_library(network.config, "double")
    operator = getattr(torch.ops, namespace).energy_and_forces
    with pytest.raises(RuntimeError, match="not the network"):
        operator(
            random_positions(3),
            torch.zeros(0, dtype=torch.float64),
            torch.zeros(3, dtype=torch.int64),
            torch.arange(3),
            pack.weights(pack.parts_of(network))[:-1],
            pack.RadialTables(network, 16)(network),
            pack.constants(network),
            *(10.0, 1.0, 0.0),
        )


def test_fewer_particles_than_atoms_are_refused() -> None:
    module = build_module(settings_of(3, "single"))
    with pytest.raises(RuntimeError, match="fewer particles than atoms"):
        module(random_positions(2))
    assert module(random_positions(3))[1].shape == (3, 3)


def test_what_the_operator_would_read_beyond_is_refused() -> None:
    module = build_module(settings_of(3, "single"))
    x = random_positions(3)
    with pytest.raises(RuntimeError, match=r"positions must be \[n_particles, 3\]"):
        module(x[:, :1])
    with pytest.raises(RuntimeError, match=r"the box must be \[3, 3\]"):
        module(x, torch.ones(1, 1))
    module.set_atoms(torch.tensor([0, 1, 7]), torch.arange(3), 0.0)
    with pytest.raises(RuntimeError, match="a species is none of the model's"):
        module(x)
    module.set_atoms(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, -1]), 0.0)
    with pytest.raises(RuntimeError, match="fewer particles than atoms"):
        module(x)
    nothing = torch.zeros(0, dtype=torch.int64)
    module.set_atoms(nothing, nothing, 0.0)
    with pytest.raises(RuntimeError, match="does not know its atoms: call set_atoms"):
        module(x)


@pytest.mark.parametrize("backend", ["torchforce", "pythonforce"])
def test_in_openmm(backend: str, waters: tuple[Any, np.ndarray]) -> None:
    from openmm import unit

    topology, positions = waters
    results = []
    for engine in ("compiled", "torchscript"):
        potential = SE3Potential(
            "water", precision="double", backend=backend, engine=engine
        )
        context = openmm.Context(
            potential.createSystem(topology),
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("Reference"),
        )
        context.setPositions(positions * unit.angstrom)
        state = context.getState(energy=True, forces=True)
        results.append(
            (state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value)
        )
    (energy, forces), (energy_expected, forces_expected) = results
    assert energy == pytest.approx(energy_expected, rel=1e-11)
    assert np.allclose(forces, forces_expected, rtol=0.0, atol=1e-6)
    with pytest.raises(ValueError, match="engine"):
        SE3Potential("water", engine="fast")


def test_a_serialised_system_needs_the_library(
    tmp_path: Path, waters: tuple[Any, np.ndarray]
) -> None:

    topology, _ = waters
    potential = SE3Potential("water", backend="torchforce", engine="compiled")
    file = tmp_path / "system.xml"
    file.write_text(openmm.XmlSerializer.serialize(potential.createSystem(topology)))
    script = (
        "import sys, torch, openmm, openmmtorch\n"
        "{load}"
        "text = open(sys.argv[1]).read()\n"
        "print(openmm.XmlSerializer.deserialize(text).getNumForces())\n"
    )
    load = "import openmm_se3\nopenmm_se3.register_plugins()\n"
    for added, works in (("", False), (load, True)):
        done = subprocess.run(
            [sys.executable, "-c", script.format(load=added), str(file)],
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == works, done.stderr
        assert works or "openmm_se3_" in done.stderr


def test_fewer_threads_than_asked_for_change_nothing() -> None:
    """OpenMP may grant fewer, and PyTorch does not know of its limit."""
    script = (
        "import torch\n"
        "from test_compiled import build_module, random_positions, settings_of\n"
        "torch.set_num_threads(4)\n"
        "module = build_module(settings_of(150, 'double'))\n"
        "for _ in range(2):  # the second time in memory that was used before\n"
        "    energy, forces = module(random_positions(150))\n"
        "print(float(energy), float(forces.abs().sum()))\n"
    )
    results = []
    for limit in ("8", "2", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "OMP_THREAD_LIMIT": limit,
                "PYTHONPATH": PYTHONPATH,
            },
            capture_output=True,
            text=True,
            check=True,
        )
        results.append([float(word) for word in done.stdout.split()])
    assert results[1] == pytest.approx(results[0], rel=1e-9)
    assert results[2] == pytest.approx(results[0], rel=1e-9)
