"""Energy and forces of any atoms in Python, by the fastest code there is for them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from openmm_se3.committee import self_energy_shifts
from openmm_se3.deviation import Deviation
from openmm_se3.force.memory import count_edges, expected_edges, require_memory
from openmm_se3.model_file import PRECISIONS, ModelFile
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.single_point import DENSE_ATOMS, evaluate, strain_derivative
from openmm_se3.torch_state import usual_torch
from openmm_se3.torchscript.build import ForceSettings, compiled_module
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)


class Evaluator:
    """Computes energy and forces: compiled where that is the implementation in use.

    Args:
        model: The model.
        network: Its network in ``precision``, in evaluation mode.
        precision: "single" or "double".
        asked: The implementation that was asked for.
        implementation: The implementation in use, "compiled" or "torchscript"; with the
            latter the network itself computes.
    """

    def __init__(
        self,
        model: ModelFile,
        network: SE3Transformer,
        precision: str,
        asked: str,
        implementation: str,
    ) -> None:
        self.model = model
        self.network = network
        self.precision = precision
        self.asked = asked
        self.implementation = implementation
        self._module: torch.jit.ScriptModule | None = None
        self._species: tuple[int, ...] = ()
        self._members: list[Evaluator] = []  # of a committee, once they are needed
        # The module is told its atoms before a call: one thread at a time.
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: not the module, which is made again when needed."""
        state = {k: v for k, v in vars(self).items() if k != "_lock"}
        return {**state, "_module": None, "_species": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`__getstate__` gave."""
        vars(self).update(state)
        self._lock = threading.Lock()

    def __call__(
        self, symbols: list[str], positions: np.ndarray, box: np.ndarray | None
    ) -> tuple[float, np.ndarray]:
        """Return the interaction energy (eV) and forces [n_atoms, 3] (eV/A).

        Args:
            symbols: Chemical symbols [n_atoms], which the model knows.
            positions: Positions [n_atoms, 3], A.
            box: Box vectors as rows [3, 3], A; None without a box.

        Raises:
            NotEnoughMemoryError: That takes more memory than there is.
            ValueError: The box is none.
        """
        require_box(box)
        with self._lock, usual_torch():
            species = tuple(self.model.config.elements.index(s) for s in symbols)
            if self.implementation == "compiled" and self._module is None:
                self._compile(species)
            self.require_memory(positions, box, self.implementation)
            if self._module is None:
                return evaluate(self.network, symbols, positions, box)
            if species != self._species:
                atoms = torch.arange(len(species))
                self._module.set_atoms(torch.tensor(species), atoms, 0.0)
                self._species = species
            inputs = [positions] if box is None else [positions, box]
            energy, forces = self._module(
                *(torch.tensor(x / NM_TO_ANGSTROM, dtype=torch.float64) for x in inputs)
            )
            return (
                energy.item() / EV_TO_KJ_PER_MOL,
                forces.numpy() / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
            )

    def deviation(
        self, symbols: list[str], positions: np.ndarray, box: np.ndarray | None
    ) -> Deviation:
        """Return the mean of a committee's members and their deviation.

        Args:
            symbols: Chemical symbols [n_atoms], which the model knows.
            positions: Positions [n_atoms, 3], A.
            box: Box vectors as rows [3, 3], A; None without a box.

        Raises:
            NotEnoughMemoryError: That takes more memory than there is.
            ValueError: The model is no committee, or the box is none.
        """
        require_committee(self.model)
        dtype = PRECISIONS[self.precision]
        with self._lock:
            if not self._members:
                self._members = [
                    Evaluator(
                        member,
                        member.network(dtype),
                        self.precision,
                        self.asked,
                        self.implementation,
                    )
                    for member in map(self.model.member, range(self.model.n_members))
                ]
        results = [member(symbols, positions, box) for member in self._members]
        shifts = self_energy_shifts(self.model, symbols)
        energies = [e + s for (e, _), s in zip(results, shifts, strict=True)]
        return Deviation.of(energies, [forces for _, forces in results])

    def strain_derivative(
        self, symbols: list[str], positions: np.ndarray, box: np.ndarray | None
    ) -> np.ndarray:
        """Return the derivative of the energy by a strain of atoms and box [3, 3], eV.

        Divided by the volume it is the stress.  The network computes it, whatever the
        implementation is.

        Args:
            symbols: Chemical symbols [n_atoms], which the model knows.
            positions: Positions [n_atoms, 3], A.
            box: Box vectors as rows [3, 3], A; None without a box.

        Raises:
            NotEnoughMemoryError: That takes more memory than there is.
            ValueError: The box is none.
        """
        require_box(box)
        self.require_memory(positions, box, "torchscript")
        return strain_derivative(self.network, symbols, positions, box)

    def require_memory(
        self, positions: np.ndarray, box: np.ndarray | None, implementation: str
    ) -> None:
        """Refuse atoms whose energy and forces take more memory than there is.

        Args:
            positions: Positions [n_atoms, 3], A.
            box: Box vectors as rows [3, 3], A; None without a box.
            implementation: What computes them.

        Raises:
            NotEnoughMemoryError: There is too little.
        """
        n_atoms, cutoff = len(positions), self.model.config.cutoff
        if box is None and n_atoms <= DENSE_ATOMS:
            return
        edges = 0
        if box is not None:
            # There may be too many to be counted one by one.
            edges = expected_edges(n_atoms, abs(float(np.linalg.det(box))), cutoff)
            require_memory(self.network, implementation, self.precision, n_atoms, edges)
        edges = count_edges(positions, box, cutoff)
        require_memory(self.network, implementation, self.precision, n_atoms, edges)

    def _compile(self, species: tuple[int, ...]) -> None:
        """Make the compiled module; the network computes where it cannot be had."""
        n_atoms = len(species)
        self._module = compiled_module(
            ForceSettings(
                model=self.model,
                precision=self.precision,
                species=species,
                atoms=tuple(range(n_atoms)),
                n_particles=n_atoms,
                periodic=False,
                offset=0.0,
                implementation=self.asked,
            )
        )
        self._species = species
        if self._module is None:
            self.implementation = "torchscript"


def require_committee(model: ModelFile) -> None:
    """Refuse a model whose members cannot deviate.

    Raises:
        ValueError: It is no committee.
    """
    if model.n_members == 1:
        raise ValueError(
            f"the model {model.metadata['name']!r} is one network, whose uncertainty "
            "is not known: train two or more with different training.seed, and make a "
            "committee of them with 'openmm-se3 export RUN_A RUN_B --out MODEL'"
        )


def require_box(box: np.ndarray | None) -> None:
    """Refuse what are no box vectors.

    Raises:
        ValueError: Names what is wrong.
    """
    if box is None:
        return
    rows = np.asarray(box)
    if rows.shape != (3, 3) or not np.isfinite(rows.astype(float)).all():
        raise ValueError(
            f"box must be three finite vectors as rows [3, 3], A, got {rows.tolist()}"
        )
    if abs(np.linalg.det(rows)) <= 1e-6 * np.prod(np.linalg.norm(rows, axis=1)):
        raise ValueError(f"the box has no volume: {rows.tolist()}")
