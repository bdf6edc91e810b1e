"""A classical System prepared for atoms that a model takes over.

Inside the model's atoms nothing classical may be left, since the model gives their
whole energy; everything between them and the rest stays.  This is the "mechanical
embedding" of openmm-ml, whose ``createMixedSystem`` does nearly the same:

* virtual sites built on the model's atoms belong to the region that it takes over;
* bonds, angles and torsions all of whose atoms are in the region are removed;
* nonbonded interactions inside it are taken out (see ``nonbonded``);
* constraints inside it are removed.

Restraints and biases stay.  Where a term may be one or the force field's, it is asked
which.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from xml.etree import ElementTree

import openmm

from openmm_se3.force.nonbonded import exclude_inside
from openmm_se3.force.region import region_of
from openmm_se3.force.system_checks import INSIDE, listed

# Elements of a serialized System that are one bonded term each, and their attributes
# that name particles: p1, p2, ... or, of a CMAP torsion, a1 to a4 and b1 to b4.
TERMS = ("Bond", "Angle", "Torsion")
PARTICLE = re.compile(r"(p|a|b)\d+")
# Bonded forces of force fields, and those that are as often restraints.
STANDARD = frozenset(
    {
        "CMAPTorsionForce",
        "HarmonicAngleForce",
        "HarmonicBondForce",
        "PeriodicTorsionForce",
        "RBTorsionForce",
    }
)
CUSTOM = frozenset(
    {
        "CustomAngleForce",
        "CustomBondForce",
        "CustomCompoundBondForce",
        "CustomTorsionForce",
    }
)
BONDED = STANDARD | CUSTOM
NONBONDED = frozenset({"CustomNonbondedForce", "NonbondedForce"})
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
    system: openmm.System,
    atoms: Collection[int],
    bonds: Iterable[tuple[int, int]] = (),
    restraints: Collection[str] | None = None,
) -> openmm.System:
    """Return a copy of a System without classical terms inside a set of atoms.

    Args:
        system: A System of a classical force field; not changed.
        atoms: Atoms that a model takes over.
        bonds: The topology's bonds, pairs of atoms.  A bonded term between atoms that
            they do not join is no term of a force field.
        restraints: Names of the forces that stay; all other bonded terms are the force
            field's.  None refuses terms that may be either.

    Raises:
        ValueError: A force cannot be taken out, or may be a restraint.
    """
    region = region_of(system, atoms)
    _refuse_unknown(system, restraints)
    for force in system.getForces():
        _refuse_inseparable(force, region)
    root = ElementTree.fromstring(_serialized(system))
    constraints = root.find("Constraints")
    if constraints is not None:
        for constraint in list(constraints):
            if particles_of(constraint) <= region:
                constraints.remove(constraint)
    joined = _neighbors(bonds, region)
    seen: dict[tuple[str, frozenset[int]], ElementTree.Element] = {}
    for force in root.findall("./Forces/Force"):
        kind, name = force.get("type", ""), force.get("name", "")
        if name in (restraints or ()) or name.startswith(INSIDE):
            continue
        if kind == "CustomCVForce":
            _refuse_hidden(force, region)
        if kind not in BONDED:
            continue
        for terms in force:
            for term in list(terms):
                if term.tag in TERMS and particles_of(term) <= region:
                    # A force field has the terms of some atoms in one force.
                    key = kind, frozenset(particles_of(term))
                    if restraints is None and (
                        kind in CUSTOM
                        or seen.setdefault(key, force) is not force
                        or not _is_joined(kind, term, joined)
                    ):
                        raise ValueError(_which(force, term))
                    terms.remove(term)
    copy: openmm.System = openmm.XmlSerializer.deserialize(
        ElementTree.tostring(root, encoding="unicode")
    )
    exclude_inside(copy, region)
    return copy


def _serialized(system: openmm.System) -> str:
    """Return the XML of a System.

    Raises:
        ValueError: A force cannot be written.
    """
    try:
        return str(openmm.XmlSerializer.serialize(system))
    except openmm.OpenMMException as error:
        raise ValueError(
            f"the System cannot be copied: {error}.  A PythonForce must call a "
            "function of a module, not one of __main__, a lambda or an inner function; "
            "or add it to the mixed System"
        ) from error


def without_rest(system: openmm.System, atoms: Collection[int]) -> None:
    """Take out what remains inside atoms whose bonded terms were removed by others.

    Args:
        system: The System; changed in place.
        atoms: Atoms that a model takes over.

    Raises:
        ValueError: A force cannot be taken out.
    """
    region = region_of(system, atoms)
    for force in system.getForces():
        _refuse_inseparable(force, region)
    exclude_inside(system, region)


def _refuse_inseparable(force: openmm.Force, region: AbstractSet[int]) -> None:
    """Refuse a force whose part inside a region cannot be taken out.

    Raises:
        ValueError: Names the force, the atoms and the fix.
    """
    kind = type(force).__name__
    if kind not in INSEPARABLE:
        return
    touched = region
    if isinstance(force, openmm.DrudeForce):
        terms = [
            {p for p in force.getParticleParameters(k)[:5] if p >= 0}
            for k in range(force.getNumParticles())
        ]
        touched = region & set().union(*terms)
        if not touched:
            return
    raise ValueError(
        f"the System has a {kind}, whose part between the model's atoms "
        f"{listed(touched)} cannot be taken out: make it without this force"
    )


def particles_of(term: ElementTree.Element) -> set[int]:
    """Return the particles that an element of XML names; {-1} for none."""
    found = {int(v) for k, v in term.attrib.items() if PARTICLE.fullmatch(k)}
    return found or {-1}


def _refuse_unknown(system: openmm.System, restraints: Collection[str] | None) -> None:
    if isinstance(restraints, str):
        raise ValueError(
            f"restraints are names of forces in a list: give [{restraints!r}]"
        )
    names = [force.getName() for force in system.getForces()]
    unknown = sorted(set(restraints or ()) - set(names))
    if unknown:
        raise ValueError(
            f"the System has no force {unknown[0]!r}, which restraints names; it has "
            f"{names}"
        )


def _refuse_hidden(force: ElementTree.Element, region: AbstractSet[int]) -> None:
    """Refuse a force field inside a CustomCVForce, where nothing can be taken out."""
    for inner in force.iterfind("./CollectiveVariables/CollectiveVariable/Force"):
        kind = inner.get("type", "")
        inside = [
            term
            for terms in inner
            for term in terms
            if term.tag in TERMS and particles_of(term) <= region
        ]
        if kind in NONBONDED | INSEPARABLE or (kind in STANDARD and inside):
            raise ValueError(
                f"the CustomCVForce {force.get('name')!r} holds a {kind}, whose part "
                f"between the model's atoms {listed(region)} cannot be taken out: "
                "make the System without it, or, if it is a bias that is to stay, "
                f"give restraints=[{force.get('name')!r}]"
            )


def _which(force: ElementTree.Element, term: ElementTree.Element) -> str:
    name = force.get("name")
    return (
        f"the {force.get('type')} {name!r} acts inside the model's atoms, on "
        f"{listed(particles_of(term))}, and may be a restraint or a part of the force "
        f"field, which the model replaces: give restraints=[{name!r}] to keep it, or "
        "restraints=[] to remove it; forces are told apart by force.setName(...)"
    )


def _neighbors(
    bonds: Iterable[tuple[int, int]], region: AbstractSet[int]
) -> dict[int, set[int]]:
    """Return the bonded neighbors of each atom of a region."""
    neighbors: dict[int, set[int]] = {}
    for first, second in bonds:
        if {first, second} <= region:
            neighbors.setdefault(first, set()).add(second)
            neighbors.setdefault(second, set()).add(first)
    return neighbors


def _is_joined(
    kind: str, term: ElementTree.Element, neighbors: dict[int, set[int]]
) -> bool:
    """Tell whether bonds join the atoms of a term as in a force field.

    The ends of an angle follow each other, the atoms of a torsion hang together (an
    improper one about its center), and two atoms of a bond may have one between them
    (Urey-Bradley).  A topology without bonds tells nothing.
    """
    if not neighbors:
        return True
    atoms = particles_of(term)
    if kind == "HarmonicAngleForce":
        first, center, last = (int(term.get(f"p{k}", -1)) for k in (1, 2, 3))
        return {first, last} <= neighbors.get(center, set())
    if kind == "HarmonicBondForce":
        first, second = atoms if len(atoms) == 2 else (-1, -1)
        near = neighbors.get(first, set())
        return second in near.union(*(neighbors.get(atom, set()) for atom in near))
    start = min(atoms)
    reached, waiting = {start}, [start]
    while waiting:
        new = (neighbors.get(waiting.pop(), set()) & atoms) - reached
        reached |= new
        waiting += new
    return reached == atoms
