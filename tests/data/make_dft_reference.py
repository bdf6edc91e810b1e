"""Make dft_reference.json: DFT numbers to compare the labels with.

Uses PySCF alone, none of this package: no density fitting, a finer grid, a tighter SCF
from PySCF's own starting density.  Run it as

    python tests/data/make_dft_reference.py

Energies are in hartree, gradients in hartree/bohr, positions in Angstrom.
"""

import json
from pathlib import Path

import pyscf
from pyscf import dft, gto

MOLECULES = {
    # One bond long, the other short, the angle wide: forces of several eV/A.
    "distorted monomer": {
        "symbols": ["O", "H", "H"],
        "positions": [[0.0, 0.0, 0.0], [1.08, 0.03, -0.02], [-0.35, 0.85, 0.11]],
    },
    "dimer": {
        "symbols": ["O", "H", "H", "O", "H", "H"],
        "positions": [
            [0.0, 0.0, 0.0],
            [0.97, 0.02, 0.0],
            [-0.22, 0.93, 0.05],
            [2.85, 0.1, -0.1],
            [3.25, -0.45, 0.68],
            [3.2, -0.35, -0.9],
        ],
    },
}
METHOD, BASIS, GRID_LEVEL, SCF_TOLERANCE = "wb97x", "6-31g*", 6, 1e-12


def compute(molecule: dict, cartesian: bool) -> dict:
    """Return energy and gradient."""
    mol = gto.M(
        atom=list(zip(molecule["symbols"], molecule["positions"], strict=True)),
        basis=BASIS,
        cart=cartesian,
        verbose=0,
    )
    scf = dft.RKS(mol)
    scf.xc = METHOD
    scf.grids.level = GRID_LEVEL
    scf.conv_tol = SCF_TOLERANCE
    energy = scf.kernel()
    if not scf.converged:
        raise RuntimeError("SCF not converged")
    gradient = scf.nuc_grad_method()
    gradient.grid_response = True
    return {"energy": float(energy), "gradient": gradient.kernel().tolist()}


if __name__ == "__main__":
    reference = {
        "program": f"PySCF {pyscf.__version__}",
        "method": METHOD,
        "basis": BASIS,
        "grid_level": GRID_LEVEL,
        "scf_tolerance": SCF_TOLERANCE,
        "molecules": [
            {
                "name": name,
                **molecule,
                "cartesian": compute(molecule, cartesian=True),
                "spherical": compute(molecule, cartesian=False),
            }
            for name, molecule in MOLECULES.items()
        ],
    }
    path = Path(__file__).with_name("dft_reference.json")
    path.write_text(json.dumps(reference, indent=1) + "\n")
