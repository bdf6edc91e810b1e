"""A classical System prepared for atoms that a model takes over.

Inside the model's atoms nothing classical may be left, since the model gives their
whole energy; everything between them and the rest stays.  This is the "mechanical
embedding" of openmm-ml, whose ``createMixedSystem`` does the same:

* bonds, angles and torsions all of whose atoms are the model's are removed;
* nonbonded interactions between two of them are excluded;
* constraints between two of them are removed.

Restraints and biases, of centroids or collective variables for example, stay.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from xml.etree import ElementTree

import openmm

# Elements of a serialised System that are one bonded term each, and their attributes
# that name particles: p1, p2, ... or, of a CMAP torsion, a1 to a4 and b1 to b4.
TERMS = ("Bond", "Angle", "Torsion")
PARTICLE = re.compile(r"(p|a|b)\d+")
# Parts of classical force fields that act between the model's atoms and have no
# exclusions, or none that would leave what acts on the others as it is.
INSEPARABLE = frozenset(
    {
        "AmoebaGeneralizedKirkwoodForce",
        "AmoebaMultipoleForce",
        "AmoebaTorsionTorsionForce",
        "AmoebaVdwForce",
        "AmoebaWcaDispersionForce",
        "ATMForce",
        "ConstantPotentialForce",
        "CustomGBForce",
        "CustomHbondForce",
        "CustomManyParticleForce",
        "DrudeForce",
        "GayBerneForce",
        "GBSAOBCForce",
        "HippoNonbondedForce",
        "LCPOForce",
    }
)


def without_internal_terms(
    system: openmm.System, atoms: Collection[int]
) -> openmm.System:
    """Return a copy of a System without classical terms inside a set of atoms.

    Args:
        system: A System of a classical force field; not changed.
        atoms: Atoms that a model takes over.

    Raises:
        ValueError: A force of ``INSEPARABLE`` is in the System.
    """
    members = set(atoms)
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(system))
    constraints = root.find("Constraints")
    if constraints is not None:
        for constraint in list(constraints):
            if {
                int(constraint.get("p1", -1)),
                int(constraint.get("p2", -1)),
            } <= members:
                constraints.remove(constraint)
    for group in root.findall("./Forces/Force/*"):
        for term in list(group):
            if term.tag in TERMS and _particles(term) <= members:
                group.remove(term)
    copy: openmm.System = openmm.XmlSerializer.deserialize(
        ElementTree.tostring(root, encoding="unicode")
    )
    for force in copy.getForces():
        _exclude(force, sorted(members))
    return copy


def _particles(term: ElementTree.Element) -> set[int]:
    found = {int(v) for k, v in term.attrib.items() if PARTICLE.fullmatch(k)}
    return found or {-1}  # a term that names no particle stays


def _exclude(force: openmm.Force, atoms: list[int]) -> None:
    """Take pairs of atoms out of a nonbonded force."""
    if isinstance(force, openmm.NonbondedForce):
        for i, j in itertools.combinations(atoms, 2):
            force.addException(i, j, 0.0, 1.0, 0.0, True)
    elif isinstance(force, openmm.CustomNonbondedForce):
        known = {
            frozenset(force.getExclusionParticles(k))
            for k in range(force.getNumExclusions())
        }
        for i, j in itertools.combinations(atoms, 2):
            if frozenset((i, j)) not in known:
                force.addExclusion(i, j)
    elif type(force).__name__ in INSEPARABLE:
        raise ValueError(
            f"the System has a {type(force).__name__}, whose part between the model's "
            "atoms cannot be taken out: make it without this force"
        )
