"""Copies of a System, in XML and in other processes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from evaluator import evaluate
from random_model import (
    BOX,
    WATER,
    topology_of,
)
from water_potentials import (
    all_backends,
    positions_of,
    potential_of,
    symbols_of,
    system_of,
)

from openmm_se3 import SE3Potential
from openmm_se3.force import plugin
from openmm_se3.force.backends import BACKENDS
from openmm_se3.model_file import WEIGHTS, contents, load_model
from openmm_se3.torchscript.build import ForceSettings, build_module

ROOT = Path(plugin.__file__).parents[2]

DESERIALIZE = """
import json, sys
import numpy, openmm
import openmm_se3
from evaluator import evaluate
openmm_se3.register_plugins()
results = []
for file, positions in json.loads(sys.argv[1]):
    system = openmm.XmlSerializer.deserialize(open(file).read())
    energy, forces = evaluate(system, numpy.array(positions))
    results.append([energy, forces.tolist()])
print(json.dumps(results))
"""


def test_xml_in_another_process(smallest_model: Path, tmp_path: Path) -> None:
    """A System written as XML holds the whole model and opens once we are imported."""
    jobs, expected = [], []
    for backend in BACKENDS:
        potential = potential_of(smallest_model, backend, "double")
        for n_molecules, box, scale in ((2, None, None), (8, BOX, "lambda_ml")):
            topology = topology_of(symbols_of(n_molecules), box)
            system = potential.createSystem(topology, scale=scale)
            positions = positions_of(n_molecules)
            file = tmp_path / f"{backend}-{n_molecules}.xml"
            file.write_text(openmm.XmlSerializer.serialize(system))
            jobs.append((str(file), positions.tolist()))
            energy, forces = evaluate(system, positions)
            expected.append([energy, forces.tolist()])
    helpers = Path(__file__).parents[1] / "helpers"
    path = os.pathsep.join([str(ROOT), str(helpers)])
    process = subprocess.run(
        [sys.executable, "-c", DESERIALIZE, json.dumps(jobs)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == expected  # to the bit


@pytest.mark.parametrize(
    "copied",
    [
        openmm.XmlSerializer.clone,
        copy.deepcopy,
        lambda system: pickle.loads(pickle.dumps(system)),
    ],
    ids=["clone", "deepcopy", "pickle"],
)
@all_backends
def test_copies_of_a_system_are_the_same(
    backend: str, copied: Callable[[openmm.System], openmm.System], smallest_model: Path
) -> None:
    system = system_of(smallest_model, backend, "double", 2, False)
    energy, forces = evaluate(copied(system), positions_of(2))
    expected, expected_forces = evaluate(system, positions_of(2))
    assert energy == expected
    assert np.array_equal(forces, expected_forces)


def test_damage_of_the_model_in_xml_is_seen(smallest_model: Path) -> None:
    """OpenMM reports it when the model is first called, and lives on."""
    system = system_of(smallest_model, "pythonforce", "double", 1, False)
    weights = contents(load_model(smallest_model))[WEIGHTS].hex()
    text = openmm.XmlSerializer.serialize(system)
    assert text.count(weights) == 1
    other = weights[:-1] + ("0" if weights[-1] != "0" else "1")
    damaged = openmm.XmlSerializer.deserialize(text.replace(weights, other))
    with pytest.raises(openmm.OpenMMException, match="not match its SHA-256: damaged"):
        evaluate(damaged, WATER)


def test_xml_of_older_versions(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PythonForce written when ``implementation`` was called ``engine``."""

    def as_before(settings: ForceSettings) -> dict[str, Any]:
        state = dict(vars(settings))
        return {"engine": state.pop("implementation"), **state}

    def build(settings: ForceSettings) -> torch.jit.ScriptModule:
        built.append(settings.implementation)
        return build_module(settings)

    built: list[str] = []
    monkeypatch.setattr("openmm_se3.force.backends.build_module", build)
    potential = SE3Potential(
        smallest_model,
        precision="double",
        backend="pythonforce",
        implementation="torchscript",
    )
    topology = topology_of(symbols_of(1))
    with monkeypatch.context() as patch:
        patch.setattr(ForceSettings, "__getstate__", as_before)
        text = openmm.XmlSerializer.serialize(potential.createSystem(topology))
    assert b"engine".hex() in text
    expected = evaluate(potential.createSystem(topology), WATER)
    found = evaluate(openmm.XmlSerializer.deserialize(text), WATER)
    assert found[0] == expected[0]
    assert np.array_equal(found[1], expected[1])
    assert built == ["torchscript", "torchscript"]


def test_a_pickled_potential(smallest_model: Path) -> None:
    potential = potential_of(smallest_model, "pythonforce", "single")
    other = pickle.loads(pickle.dumps(potential))
    energy, forces = other.energy_and_forces([8, 1, 1], WATER)
    expected, expected_forces = potential.energy_and_forces([8, 1, 1], WATER)
    assert energy == expected and np.array_equal(forces, expected_forces)
