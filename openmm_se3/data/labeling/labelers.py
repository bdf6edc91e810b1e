"""Potentials that label structures in batches: AIMNet2, GFN2-xTB, our models, others.

===============================  =====================================================
``aimnet2``                      ensemble of four AIMNet2 networks (Anstine, Zubatyuk,
                                 Isayev 2025, https://doi.org/10.1039/D4SC08572H),
                                 MIT license, in the wheel of Auto3D 2.3.1
``gfn2``                         GFN2-xTB (https://doi.org/10.1021/acs.jctc.8b01176)
``model:NAME``                   a model of ours, by name or path
``torchscript:FILE``             a TorchScript file with AIMNet2's interface
``ase:MODULE:NAME``              an ASE calculator, made by calling NAME without
                                 arguments
===============================  =====================================================

A TorchScript file and an ASE calculator are programs: name only what you trust.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openmm_se3.files import sha256
from openmm_se3.version import installed_versions

AIMNET2_FILE = "models/aimnet2_wb97m_ens_f.jpt"
AIMNET2_SHA256 = "e34e147e3dd67bfe3e5ae8c2a2a097d59ff3a8260d98e42552004f710bb3a68b"
AIMNET2_LEVEL = "wB97M-D3/def2-TZVPP, learned by AIMNet2 (mean of 4 networks)"
AIMNET2_ELEMENTS = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53))
INSTALL_AIMNET2 = 'pip install "openmm-se3[teacher]"'


class LabelerError(ValueError):
    """A labeler is not known, not installed, or cannot label these structures."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels of frames of the same number of atoms.

    Attributes:
        energy: Total energies [n_frames], eV.
        forces: Forces [n_frames, n_atoms, 3], eV/A.
        energy_std: Standard deviation over the networks of an ensemble [n_frames], eV;
            None if there is none.
        forces_std: The same of the forces [n_frames, n_atoms, 3], eV/A.
        failures: Why a frame has no label [n_frames], "" where it has one; None if all
            have.  Energy and forces without a label are NaN.
    """

    energy: np.ndarray
    forces: np.ndarray
    energy_std: np.ndarray | None = None
    forces_std: np.ndarray | None = None
    failures: np.ndarray | None = None


class Labeler(Protocol):
    """Labels frames of the same number of atoms and the same charge.

    Attributes:
        level: Level of theory, as it stands in the data file.
        identity: Changes with what computes the labels, such as a hash of weights.
    """

    level: str
    identity: str

    def require(self, numbers: np.ndarray, charge: int) -> None:
        """Refuse a structure that cannot be labeled.

        Raises:
            LabelerError: Names the element or the charge.
        """
        ...

    def label(self, numbers: np.ndarray, positions: np.ndarray, charge: int) -> Labels:
        """Return the labels of frames.

        Args:
            numbers: Atomic numbers [n_frames, n_atoms].
            positions: Positions [n_frames, n_atoms, 3], A.
            charge: Total charge of each.
        """
        ...


class TorchScriptEnsemble:
    """A TorchScript file with AIMNet2's interface.

    It takes a dictionary of ``coord`` [n_frames, n_atoms, 3] (A, float32), ``numbers``
    and ``charge``, and returns one with ``energy`` (eV), and optionally ``forces``,
    ``energy_std`` and ``forces_std``.

    Args:
        path: The file, whose hash is the identity.
        level: Level of theory.
        elements: Atomic numbers that it knows; None for any.
    """

    def __init__(
        self, path: Path, level: str, elements: frozenset[int] | None = None
    ) -> None:
        import torch

        self.level, self._elements = level, elements
        self.identity = sha256(path)
        self._module = torch.jit.load(str(path), map_location="cpu")

    def require(self, numbers: np.ndarray, charge: int) -> None:
        """Refuse elements that the file does not know."""
        from openmm_se3.elements import symbols_of

        unknown = set(numbers.tolist()) - (self._elements or set(numbers.tolist()))
        if unknown:
            raise LabelerError(
                f"{self.level} does not know {', '.join(symbols_of(sorted(unknown)))}"
            )

    def label(self, numbers: np.ndarray, positions: np.ndarray, charge: int) -> Labels:
        """Return the labels of frames."""
        import torch

        coord = torch.tensor(positions, dtype=torch.float32, requires_grad=True)
        inputs = {
            "coord": coord,
            "numbers": torch.tensor(numbers, dtype=torch.int64),
            "charge": torch.full((len(numbers),), float(charge)),
        }
        # TorchScript would rewrite the module in its first calls, which takes seconds
        # and changes the last bits: labels would depend on those before.
        with torch.jit.optimized_execution(False):
            result = self._module(inputs)
            forces = result.get("forces")
            if forces is None:
                (gradient,) = torch.autograd.grad(result["energy"].sum(), coord)
                forces = -gradient

        def array(name: str) -> np.ndarray | None:
            value = result.get(name)
            return None if value is None else value.detach().numpy().astype(float)

        energy = array("energy")
        if energy is None:
            raise LabelerError(f"{self.level}: the TorchScript file returns no energy")
        return Labels(
            energy,
            forces.detach().numpy().astype(float),
            array("energy_std"),
            array("forces_std"),
        )


class ASELabeler:
    """An ASE calculator, one frame after the other.

    Args:
        make: Makes the calculator for a charge.
        level: Level of theory.
        identity: As of :class:`Labeler`.
    """

    def __init__(self, make: Callable[[int], Any], level: str, identity: str) -> None:
        self.level, self.identity = level, identity
        self._make = make

    def require(self, numbers: np.ndarray, charge: int) -> None:
        """Leave it to the calculator."""

    def label(self, numbers: np.ndarray, positions: np.ndarray, charge: int) -> Labels:
        """Return the labels of frames."""
        from ase import Atoms
        from ase.calculators.calculator import CalculatorError

        energy = np.full(len(numbers), np.nan)
        forces = np.full(positions.shape, np.nan)
        failures = [""] * len(numbers)
        for index, (z, x) in enumerate(zip(numbers, positions, strict=True)):
            atoms = Atoms(z, x, calculator=self._make(charge), info={"charge": charge})
            try:
                energy[index] = atoms.get_potential_energy()
                forces[index] = atoms.get_forces()
            except CalculatorError as error:  # such as an SCF that does not converge
                failures[index] = f"{self.level}: {error}"
        return Labels(
            energy, forces, failures=np.array(failures) if any(failures) else None
        )


def is_labeler(method: str) -> bool:
    """Tell whether a method is one of this module, not a density functional."""
    return method in ("aimnet2", "gfn2") or method.partition(":")[0] in (
        "model",
        "torchscript",
        "ase",
    )


@functools.lru_cache(maxsize=2)
def labeler(spec: str) -> Labeler:
    """Return a labeler by what the table above calls it; kept for the next call.

    Raises:
        LabelerError: There is none of this name, or its package is not installed.
    """
    kind, _, rest = spec.partition(":")
    if spec == "aimnet2":
        return TorchScriptEnsemble(aimnet2_file(), AIMNET2_LEVEL, AIMNET2_ELEMENTS)
    if spec == "gfn2":
        return ASELabeler(_gfn2, "GFN2-xTB", installed_versions(["tblite"])["tblite"])
    if kind == "torchscript" and rest:
        path = Path(rest)
        if not path.is_file():
            raise LabelerError(f"no TorchScript file {rest}")
        return TorchScriptEnsemble(path, f"{path.name} ({sha256(path)[:12]})")
    if kind == "model" and rest:
        return _own_model(rest)
    if kind == "ase" and ":" in rest:
        return _ase_calculator(rest)
    raise LabelerError(
        f"no labeler {spec!r}: known are aimnet2, gfn2, model:NAME, torchscript:FILE "
        "and ase:MODULE:NAME"
    )


def aimnet2_file() -> Path:
    """Return the file of the AIMNet2 ensemble in the installed wheel of Auto3D.

    Auto3D itself is not imported.

    Raises:
        LabelerError: It is not installed, or the file is another one.
    """
    spec = importlib.util.find_spec("Auto3D")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [Path(folder) / AIMNET2_FILE for folder in folders]
    for path in files:
        if path.is_file():
            if sha256(path) != AIMNET2_SHA256:
                raise LabelerError(
                    f"{path} is not the file of Auto3D 2.3.1 (its SHA-256 differs); "
                    f"fix: {INSTALL_AIMNET2}"
                )
            return path
    raise LabelerError(f"AIMNet2 is not installed; fix: {INSTALL_AIMNET2}")


def _gfn2(charge: int) -> Any:
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", charge=charge, verbosity=0)


def _own_model(name: str) -> Labeler:
    from openmm_se3 import SE3Potential

    potential = SE3Potential(name)
    calculator = potential.ase_calculator()

    def make(charge: int) -> Any:
        if charge:
            raise LabelerError(f"model {name} knows neutral molecules only")
        return calculator

    weights = str(potential.model.metadata["weights_sha256"])
    return ASELabeler(make, f"openmm-se3 model {Path(name).name}", weights)


def _ase_calculator(place: str) -> Labeler:
    module, _, name = place.partition(":")
    try:
        code = importlib.import_module(module)
        make = getattr(code, name)
    except (ImportError, AttributeError) as error:
        raise LabelerError(f"no ASE calculator {place}: {error}") from error
    calculator = make()
    file = getattr(code, "__file__", None)
    identity = "" if file is None else sha256(Path(file))
    return ASELabeler(lambda charge: calculator, f"ASE calculator {place}", identity)
