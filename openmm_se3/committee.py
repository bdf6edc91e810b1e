"""Several models of one shape as one model, a committee.

Its energy and forces are the mean of its members', and their deviation says how far
they can be trusted, see :mod:`openmm_se3.deviation`.

Members whose self-energies were fitted to different frames may differ in them: each
keeps its own, and those of the committee are their mean, so that the mean of the
interaction energies and that of the total energies agree.  Deviations of energies are
those of total energies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from openmm_se3.config import to_dict
from openmm_se3.description import MEMBERS
from openmm_se3.domain import Compositions, Domain, Valences, domain_to_dict
from openmm_se3.model_file import ModelFile, describe

# What a description says of one member alone.
OF_MEMBERS = ("name", "training", "steps", "errors", "training_data", "versions")
# Values of ``data.self_energies`` that fit them to the frames of a run.
FITTED = ("auto", "least-squares")
SAME_ENERGY = 1e-6  # eV, of self-energies


def committee_of(
    models: Sequence[ModelFile],
    name: str,
    reference: tuple[list[str], np.ndarray] | None = None,
    **metadata: Any,
) -> ModelFile:
    """Return a committee of models.

    Args:
        models: The models; the members of a committee among them are taken one by one.
        name: Name of the committee.
        reference: Symbols and positions [n_atoms, 3], A, of the structure that the
            committee keeps for its checks; None takes that of the first model.
        **metadata: Further fields of the description, such as ``license``.

    Raises:
        ValueError: There are too few or too many, or they do not belong together.
    """
    members = [m.member(k) if m.n_members > 1 else m for m in models for k in _of(m)]
    if len(members) not in MEMBERS:
        raise ValueError(
            f"a committee has {MEMBERS[0]} to {MEMBERS[-1]} members, got "
            f"{len(members)}: give the models of as many runs"
        )
    first, *others = members
    for number, other in enumerate(others, start=1):
        reason = _reason_against(first, other)
        if reason is not None:
            raise ValueError(
                f"member {number} ({_name(other)}) does not belong to a committee with "
                f"member 0 ({_name(first)}): {reason}"
            )
    _refuse_twins(members)
    if reference is None:
        kept = first.metadata["reference"]
        reference = kept["symbols"], np.array(kept["positions"])
    weights = {
        f"member.{number}.{key}": tensor
        for number, member in enumerate(members)
        for key, tensor in member.weights.items()
    }
    own = [{k: m.metadata[k] for k in OF_MEMBERS if k in m.metadata} for m in members]
    energies = [member.metadata["self_energies"] for member in members]
    if _differ(energies):
        for description, values in zip(own, energies, strict=True):
            description["self_energies"] = values
    licenses = sorted({str(m.metadata.get("license", "unknown")) for m in members})
    shared: dict[str, Any] = {
        "name": name,
        "level_of_theory": first.metadata["level_of_theory"],
        "self_energies": {
            symbol: float(np.mean([values[symbol] for values in energies]))
            for symbol in energies[0]
        },
        "training_data": _training_data(members),
        "license": " AND ".join(licenses),
        "versions": first.metadata.get("versions"),
        "members": len(members),
        "member_descriptions": own,
    }
    domain = _shared_domain(members)
    if domain is not None:
        shared["domain"] = domain_to_dict(domain)
    return describe(first.config, weights, reference, **{**shared, **metadata})


def self_energy_shifts(model: ModelFile, symbols: Sequence[str]) -> list[float]:
    """Return the self-energy of atoms in each member, less that in the committee, eV.

    Args:
        model: A committee.
        symbols: Chemical symbols [n_atoms].
    """
    mean = model.metadata["self_energies"]
    number = Counter(symbols)
    return [
        sum(
            n * (own.get("self_energies", mean)[symbol] - mean[symbol])
            for symbol, n in number.items()
        )
        for own in model.metadata["member_descriptions"]
    ]


def _of(model: ModelFile) -> range:
    return range(model.n_members)


def _name(model: ModelFile) -> str:
    return str(model.metadata["name"])


def _reason_against(first: ModelFile, other: ModelFile) -> str | None:
    """Return why two models cannot be members of one committee, or None."""
    for what, values in (
        ("network", [to_dict(model.config) for model in (first, other)]),
        ("level of theory", [m.metadata["level_of_theory"] for m in (first, other)]),
    ):
        differing = [
            f"{key} is {values[1].get(key, 'not given')}, not "
            f"{values[0].get(key, 'not given')}"
            for key in sorted({*values[0], *values[1]})
            if values[0].get(key) != values[1].get(key)
        ]
        if differing:
            return f"its {what} is another one: {'; '.join(differing)}"
    energies = [model.metadata["self_energies"] for model in (first, other)]
    if energies[0].keys() != energies[1].keys():
        return f"it has self-energies of {list(energies[1])}, not {list(energies[0])}"
    if not _differ(energies):
        return None
    fitted = [m.metadata.get("self_energies_choice") in FITTED for m in (first, other)]
    if all(fitted):
        return None
    symbol = max(energies[0], key=lambda s: abs(energies[1][s] - energies[0][s]))
    return (
        f"its self-energy of {symbol} is {energies[1][symbol]:.6f} eV, not "
        f"{energies[0][symbol]:.6f} eV, and they were not fitted in both runs "
        "(data.self_energies: least-squares): train all members with the same"
    )


def _differ(energies: Sequence[dict[str, float]]) -> bool:
    """Tell whether self-energies of the same elements differ."""
    return any(
        abs(values[symbol] - energies[0][symbol]) > SAME_ENERGY
        for values in energies
        for symbol in values
    )


def _refuse_twins(members: Sequence[ModelFile]) -> None:
    """Refuse members with the same weights, whose deviation says nothing.

    Raises:
        ValueError: There are such.
    """
    seen: dict[str, int] = {}
    for number, member in enumerate(members):
        before = seen.setdefault(member.metadata["weights_sha256"], number)
        if before != number:
            raise ValueError(
                f"members {before} and {number} ({_name(member)}) have the same "
                "weights, so that they cannot deviate: train each with a training.seed "
                "of its own"
            )


def _training_data(members: Sequence[ModelFile]) -> dict[str, Any]:
    """Return the training data of all, or those of each where they differ."""
    data = [dict(member.metadata.get("training_data", {})) for member in members]
    if all(other == data[0] for other in data):
        return data[0]
    places = {str(one.get("surroundings")) for one in data}
    files = {digest: name for one in data for name, digest in one.get("files", [])}
    return {
        "files": [[name, digest] for digest, name in files.items()],
        "surroundings": places.pop() if len(places) == 1 else "both",
        "differ": True,
    }


def _shared_domain(members: Sequence[ModelFile]) -> Domain | None:
    """Return what all members were trained on; None where that is not known."""
    domains = [member.domain for member in members]
    if all(domain == domains[0] for domain in domains):
        return domains[0]
    lists = [domain for domain in domains if isinstance(domain, Compositions)]
    if len(lists) == len(domains):
        shared = set.intersection(*(set(one.molecules) for one in lists))
        return Compositions(tuple(sorted(shared))) if shared else None
    valences = [domain for domain in domains if isinstance(domain, Valences)]
    if len(valences) < len(domains):
        return None
    bonds = set.intersection(*(set(one.bonds) for one in valences))
    elements = set.intersection(*(set(one.neighbors) for one in valences))
    neighbors = {
        element: set.intersection(*(set(one.neighbors[element]) for one in valences))
        for element in elements
    }
    return Valences(
        tuple(sorted(bonds)),
        {element: tuple(sorted(neighbors[element])) for element in sorted(neighbors)},
        odd_electrons=all(one.odd_electrons for one in valences),
    )
