"""What a model says of any atoms, in Python and without OpenMM."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openmm import unit

from openmm_se3._moved import warn_renamed
from openmm_se3.committee import self_energy_shifts
from openmm_se3.deviation import Deviation
from openmm_se3.force.atoms import checked_atoms
from openmm_se3.force.memory import count_edges, expected_edges, require_memory
from openmm_se3.implementation import compile_implementation
from openmm_se3.model_file import PRECISIONS, ModelFile, load_model
from openmm_se3.single_point import (
    DENSE_ATOMS,
    evaluate,
    force_disagreement,
    strain_derivative,
)
from openmm_se3.torch_state import usual_torch
from openmm_se3.torchscript.build import ForceSettings, compiled_module, in_use
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)


class Evaluator:
    """Energy, forces, stress and uncertainty of any atoms, without OpenMM.

    Compiled code computes where that is the implementation in use, else the network
    itself.  Atoms are given by atomic numbers or chemical symbols.

    Examples:
        >>> evaluator = Evaluator("water")
        >>> energy, forces = evaluator.energy_and_forces(["O", "H", "H"], positions)

    Args:
        model: Name of a shipped model, a model folder, a ``model.pt``, or a model.
        precision: "single" or "double" precision of the network.
        implementation: "compiled", "triton", "torchscript" or "auto", as for
            :class:`openmm_se3.SE3Potential`.

    Attributes:
        model: The model.
        network: Its network in ``precision``, in evaluation mode.

    Raises:
        CompileError: The implementation asked for does not work here.
        FileNotFoundError: There is no such model.
        ModelFileError: The file is not one of ours, or damaged.
        ValueError: Unknown precision or implementation.
    """

    def __init__(
        self,
        model: str | Path | ModelFile = "water",
        *,
        precision: str = "single",
        implementation: str = "auto",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {list(PRECISIONS)}, got {precision!r}"
            )
        self.model = model if isinstance(model, ModelFile) else load_model(model)
        self.precision = precision
        # Forces keep what was asked for: another machine may open them.
        self.asked = implementation
        self._chosen = compile_implementation(
            implementation, self.model.config, precision
        )
        self.network = self.model.network(PRECISIONS[precision])
        self._module: torch.jit.ScriptModule | None = None
        self._species: tuple[int, ...] = ()
        self._members: list[Evaluator] = []  # of a committee, once they are needed
        # The module is told its atoms before a call: one thread at a time.
        self._lock = threading.Lock()

    @property
    def implementation(self) -> str:
        """The implementation in use: "compiled", "triton" or "torchscript"."""
        return in_use(self._chosen, self.model, self.precision)

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
        """Return energy and forces: the old name of :meth:`energy_and_forces`."""
        warn_renamed("Evaluator.__call__", "Evaluator.energy_and_forces")
        return self.energy_and_forces(symbols, positions, box)

    def energy_and_forces(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Return energy and forces of a molecule or of a periodic box.

        Args:
            numbers: Atomic numbers or chemical symbols [n_atoms].
            positions: Positions [n_atoms, 3], A (or a Quantity).
            box: Box vectors as rows [3, 3], A; None without a box.

        Returns:
            Energy relative to isolated atoms, eV, and forces [n_atoms, 3], eV/A.

        Raises:
            NotEnoughMemoryError: That takes more memory than there is.
            ValueError: Unknown elements, wrong shape, positions that are not finite, or
                no box vectors.
        """
        symbols, x = checked_atoms(self.model, numbers, positions)
        box = checked_box(box)
        with self._lock, usual_torch():
            species = tuple(self.model.config.elements.index(s) for s in symbols)
            if self.implementation == "compiled" and self._module is None:
                self._compile(species)
            self._require_memory(x, box, self.implementation)
            if self._module is None:
                return evaluate(self.network, symbols, x, box)
            if species != self._species:
                atoms = torch.arange(len(species))
                self._module.set_atoms(torch.tensor(species), atoms, 0.0)
                self._species = species
            inputs = [x] if box is None else [x, box]
            energy, forces = self._module(
                *(torch.tensor(a / NM_TO_ANGSTROM, dtype=torch.float64) for a in inputs)
            )
            return (
                energy.item() / EV_TO_KJ_PER_MOL,
                forces.numpy() / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
            )

    def deviation(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> Deviation:
        """Return mean and deviation of energy and forces of a committee's members.

        Arguments are those of :meth:`energy_and_forces`.

        Raises:
            ValueError: The model is no committee, or as for
                :meth:`energy_and_forces`.
        """
        require_committee(self.model)
        symbols, _ = checked_atoms(self.model, numbers, positions)
        with self._lock:
            if not self._members:
                self._members = [
                    Evaluator(
                        self.model.member(number),
                        precision=self.precision,
                        implementation=self.asked,
                    )
                    for number in range(self.model.n_members)
                ]
        results = [m.energy_and_forces(symbols, positions, box) for m in self._members]
        shifts = self_energy_shifts(self.model, symbols)
        energies = [e + s for (e, _), s in zip(results, shifts, strict=True)]
        return Deviation.of(energies, [forces for _, forces in results])

    def force_uncertainty(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the deviation of the members' forces on each atom, of a committee.

        Arguments and errors are those of :meth:`deviation`.

        Returns:
            Deviations [n_atoms], eV/A, see :mod:`openmm_se3.deviation`.
        """
        return self.deviation(numbers, positions, box).forces_std

    def force_disagreement(self, numbers: Any, positions: Any) -> np.ndarray:
        """Return how far direct and conservative forces of a free molecule differ.

        OpenMM gets the conservative ones; the same network predicts the others.  The
        difference estimates the error of the force on an atom: the model's errors hold
        the correlation of both as ``estimate_correlation``.

        Args:
            numbers: Atomic numbers or chemical symbols [n_atoms].
            positions: Positions [n_atoms, 3], A (or a Quantity).

        Returns:
            Lengths [n_atoms], eV/A.

        Raises:
            ValueError: The model has conservative or direct forces only, or as for
                :meth:`energy_and_forces`.
        """
        mode = self.model.config.force_mode
        if mode != "both":
            raise ValueError(
                f"the model '{self.model.metadata['name']}' has {mode} forces only: an "
                "estimate of their error needs one that was trained with force_mode: "
                "both"
            )
        return force_disagreement(
            self.network, *checked_atoms(self.model, numbers, positions)
        )

    def strain_derivative(
        self, numbers: Any, positions: Any, box: np.ndarray | None
    ) -> np.ndarray:
        """Return the derivative of the energy by a strain of atoms and box [3, 3], eV.

        Divided by the volume it is the stress.  The network computes it, whatever the
        implementation is.  Arguments and errors are those of
        :meth:`energy_and_forces`.
        """
        symbols, x = checked_atoms(self.model, numbers, positions)
        box = checked_box(box)
        self._require_memory(x, box, "torchscript")
        return strain_derivative(self.network, symbols, x, box)

    def estimate_memory(
        self, positions: np.ndarray, box: np.ndarray | None = None, *, edges: int = 0
    ) -> tuple[float, float]:
        """Return the memory that energy and forces need, by estimate, and that is left.

        Args:
            positions: Positions of the model's atoms [n_atoms, 3], A.
            box: Box vectors as rows [3, 3], A; None without a box.
            edges: Room for so many edges at least.

        Returns:
            Both in GB.

        Raises:
            NotEnoughMemoryError: There is less than is needed.
        """
        return self._estimate(positions, box, self.implementation, edges)

    def _require_memory(
        self, positions: np.ndarray, box: np.ndarray | None, implementation: str
    ) -> None:
        """Refuse atoms that need more memory than there is; few never do."""
        if box is not None or len(positions) > DENSE_ATOMS:
            self._estimate(positions, box, implementation)

    def _estimate(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        implementation: str,
        edges: int = 0,
    ) -> tuple[float, float]:
        need = partial(
            require_memory, self.network, implementation, self.precision, len(positions)
        )
        cutoff = self.model.config.cutoff
        if box is not None:
            # There may be too many to be counted one by one.
            volume = abs(float(np.linalg.det(box)))
            need(expected_edges(len(positions), volume, cutoff))
        return need(max(count_edges(positions, box, cutoff), edges))

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


def checked_box(box: Any) -> np.ndarray | None:
    """Return box vectors as rows [3, 3], A; None without a box.

    Args:
        box: The vectors, A (or a Quantity, or three of them).

    Raises:
        ValueError: Names what is wrong.
    """
    if box is None:
        return None
    if unit.is_quantity(box):
        box = box.value_in_unit(unit.angstrom)
    rows = np.array(
        [
            row.value_in_unit(unit.angstrom) if unit.is_quantity(row) else row
            for row in box
        ]
    )
    if rows.shape != (3, 3) or not np.isfinite(rows.astype(float)).all():
        raise ValueError(
            f"box must be three finite vectors as rows [3, 3], A, got {rows.tolist()}"
        )
    if abs(np.linalg.det(rows)) <= 1e-6 * np.prod(np.linalg.norm(rows, axis=1)):
        raise ValueError(f"the box has no volume: {rows.tolist()}")
    return rows.astype(float)
