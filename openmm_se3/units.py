"""Physical constants and unit conversions, each with its source.

Inside the package lengths are in Angstrom, energies in eV, forces in eV/A, masses in
dalton and times in femtoseconds.  OpenMM's and mdtraj's nm, kJ/mol and ps appear only
where these are called (``force/``, ``export/``, ``compiled/``, ``simulation/``,
``analysis/``, ``validation/``), DFT's bohr and hartree in ``reference/``.

Conversion factors are named ``FROM_TO_TO``: ``x_in_to = x_in_from * FROM_TO_TO``.

Sources: the SI Brochure, 9th edition (2019), for the exact defining constants; CODATA
2022 (https://doi.org/10.1103/RevModPhys.97.025002) for bohr, hartree and the dalton.
"""

# Exact by definition of the SI.
ELEMENTARY_CHARGE = 1.602176634e-19  # C, so that 1 eV = this many joules
AVOGADRO = 6.02214076e23  # 1/mol
BOLTZMANN_J = 1.380649e-23  # J/K
SPEED_OF_LIGHT_CM_PER_FS = 2.99792458e-5  # cm/fs
JOULE_PER_CALORIE = 4.184  # thermochemical calorie

# CODATA 2022.
BOHR_TO_ANGSTROM = 0.529177210544
HARTREE_TO_EV = 27.211386245981
DALTON_KG = 1.66053906892e-27
DALTON_PER_NM3_TO_G_PER_CM3 = DALTON_KG * 1000.0 / 1.0e-21
FINE_STRUCTURE_COULOMB = HARTREE_TO_EV * BOHR_TO_ANGSTROM  # e^2 / (4 pi eps0), eV A

# Energies and forces.
EV_TO_KJ_PER_MOL = ELEMENTARY_CHARGE * AVOGADRO / 1000.0  # 96.485...
EV_TO_KCAL_PER_MOL = EV_TO_KJ_PER_MOL / JOULE_PER_CALORIE  # 23.0605...
KJ_PER_MOL_TO_EV = 1.0 / EV_TO_KJ_PER_MOL
KCAL_PER_MOL_TO_EV = 1.0 / EV_TO_KCAL_PER_MOL
HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM = HARTREE_TO_EV / BOHR_TO_ANGSTROM

# Lengths and times at the OpenMM boundary.
ANGSTROM_TO_NM = 0.1
NM_TO_ANGSTROM = 10.0
EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM = EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM
FS_TO_PS = 1.0e-3

# Dynamics in (A, fs, dalton, eV): a [A/fs^2] = F [eV/A] / m [dalton] * this.
EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2 = ELEMENTARY_CHARGE / DALTON_KG * 1.0e-10
BOLTZMANN_EV = BOLTZMANN_J / ELEMENTARY_CHARGE  # eV/K
BOLTZMANN_KJ_PER_MOL = BOLTZMANN_J * AVOGADRO / 1000.0  # kJ/mol/K

# Units that other people's files may be in, by the name that a user gives.
ENERGY_UNITS = {  # to eV
    "eV": 1.0,
    "hartree": HARTREE_TO_EV,
    "kcal/mol": 1.0 / EV_TO_KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL_TO_EV,
}
LENGTH_UNITS = {"angstrom": 1.0, "bohr": BOHR_TO_ANGSTROM, "nm": NM_TO_ANGSTROM}  # to A
FORCE_UNITS = {  # to eV/A
    f"{energy}/{length}": size / distance
    for energy, size in ENERGY_UNITS.items()
    for length, distance in LENGTH_UNITS.items()
}
