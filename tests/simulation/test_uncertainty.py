"""Runs that watch how far the members of a committee deviate."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import openmm
import pytest
import yaml
from committees import (
    MONOMERS,
    PEROXIDE,
    WATER_LABELS,
    member,
    shifted,
)
from openmm import app, unit
from random_model import (
    WATER,
    topology_of,
)

from openmm_se3 import SE3Potential, UncertaintyReporter, load_model
from openmm_se3.analysis.read import read_log
from openmm_se3.committee import committee_of
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.load import Source, hash_source, read_sources
from openmm_se3.deviation import Deviation
from openmm_se3.simulation import (
    SimulationStopped,
    WaterRunOptions,
    run_water,
    water_topology,
)
from openmm_se3.simulation.log import UNCERTAINTY
from openmm_se3.simulation.uncertainty import UncertaintyWarning
from openmm_se3.training.evaluation import read_as_trained
from openmm_se3.training.uncertainty_threshold import (
    deviations,
    uncertainty_threshold,
    validation_frames,
)


class Waves:
    """Deviates by as much as it is told, in the order of the evaluations."""

    threshold: float | None = 0.2

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.atoms = np.array([5, 3, 4])

    def of_state(self, state: openmm.State) -> Deviation:
        value = self.values.pop(0)
        return Deviation(0.0, np.zeros((3, 3)), 0.5, np.array([0.0, value, 0.01]))


def free_particles(topology: app.Topology | None = None) -> app.Simulation:
    """Return a simulation of six atoms without forces that move with 1 nm/ps."""
    topology = topology or topology_of(["O", "H", "H"] * 2)
    system = openmm.System()
    for _ in range(6):
        system.addParticle(1.0)
    simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.001))
    simulation.context.setPositions(np.zeros((6, 3)))
    simulation.context.setVelocities(np.eye(3)[[0] * 6])
    return simulation


def test_a_reporter_warns_once_and_stops_with_both_frames(tmp_path: Path) -> None:
    simulation = free_particles()
    files = {name: tmp_path / f"{name}.pdb" for name in ("trusted", "uncertain")}
    reporter = UncertaintyReporter(
        Waves(0.1, 0.3, 0.35, 0.6), 10, file=tmp_path / "log.csv", stop=0.5, **files
    )
    simulation.reporters.append(reporter)
    with (
        pytest.warns(UncertaintyWarning) as warned,
        pytest.raises(SimulationStopped) as stopped,
    ):
        simulation.step(100)
    assert len(warned) == 1
    for text in (str(warned[0].message), stopped.value.reason):
        assert "H of MOL 1 (atom 3" not in text and "(atom 3, O)" in text
    assert stopped.value.step == 40
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in rows[1:]] == [
        [str(step), f"{step / 1000:.6f}", f"{value:.6f}", "3"]
        for step, value in zip((10, 20, 30, 40), (0.1, 0.3, 0.35, 0.6), strict=True)
    ]
    # 1 nm/ps for so many fs: 0.01 A a step.
    for name, steps in (("trusted", 30), ("uncertain", 40)):
        frame = app.PDBFile(str(files[name])).getPositions(asNumpy=True)
        assert frame[0, 0].value_in_unit(unit.angstrom) == pytest.approx(0.01 * steps)
    summary = reporter.summary()
    assert (summary["evaluated"], summary["above_threshold"]) == (4, 3)
    assert summary["largest"] == 0.6


def methanol(box: bool) -> app.Topology:
    """Return a topology whose bonds a PDB file lists, as those of no residue are."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [
        topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
        for i, symbol in enumerate("COHHHH")
    ]
    for first, second in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5)):
        topology.addBond(atoms[first], atoms[second])
    if box:
        topology.setPeriodicBoxVectors(3.0 * np.eye(3) * unit.nanometer)
    return topology


@pytest.mark.parametrize("box", [False, True])
def test_the_frames_of_a_stop_have_bonds_and_their_own_box(
    box: bool, tmp_path: Path
) -> None:
    topology = methanol(box)
    simulation = free_particles(topology)
    if box:
        simulation.context.setPeriodicBoxVectors(*(2.0 * np.eye(3)))
    uncertain = tmp_path / "uncertain.pdb"
    reporter = UncertaintyReporter(
        Waves(0.1, 0.6), 10, stop=0.5, trusted=tmp_path / "a.pdb", uncertain=uncertain
    )
    simulation.reporters.append(reporter)
    with pytest.raises(SimulationStopped), pytest.warns(UncertaintyWarning):
        simulation.step(100)
    for path in (uncertain, tmp_path / "a.pdb"):
        read = app.PDBFile(str(path)).topology
        assert read.getNumBonds() == 5
        if box:
            assert read.getUnitCellDimensions()[0] == 2.0 * unit.nanometer
    if box:  # the caller's is as it was
        assert topology.getUnitCellDimensions()[0] == 3.0 * unit.nanometer


def test_without_a_limit_a_reporter_only_counts() -> None:
    simulation = free_particles()
    evaluator = Waves(0.1, float("nan"), 0.1)
    reporter = UncertaintyReporter(evaluator, 10)
    simulation.reporters.append(reporter)
    with pytest.warns(UncertaintyWarning):
        simulation.step(30)
    assert (reporter.evaluated, reporter.above, reporter.stopped) == (3, 1, False)
    assert reporter.at(30) == 0.1 and reporter.at(20) is None


def test_a_deviation_that_is_no_number_stops(tmp_path: Path) -> None:
    simulation = free_particles()
    reporter = UncertaintyReporter(
        Waves(float("nan")), 10, stop=1.0, uncertain=tmp_path / "uncertain.pdb"
    )
    simulation.reporters.append(reporter)
    with pytest.raises(SimulationStopped), pytest.warns(UncertaintyWarning):
        simulation.step(10)
    assert not (tmp_path / "last_trusted.pdb").exists()


@pytest.mark.parametrize("name", ["interval", "threshold", "stop"])
def test_a_reporter_refuses_limits_that_are_not_positive(name: str) -> None:
    with pytest.raises(ValueError) as error:
        UncertaintyReporter(Waves(), **{name: -1})
    assert f"{name} must be positive, got -1" in str(error.value)


def log_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and uncertainties of the rows of a log that have one."""
    log = read_log(folder / "log.csv")
    known = np.isfinite(log[UNCERTAINTY])
    return log["step"][known].astype(int), log[UNCERTAINTY][known]


def test_a_run_records_uncertainty_and_stops_with_the_last_trusted_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmm_se3.simulation.uncertainty.INTERVAL", 50)
    options = WaterRunOptions(
        model=str(MONOMERS),
        steps=500,
        equilibration_ps=0.05,
        temperature=600.0,
        platform="Reference",
        implementation="torchscript",
        seed=3,
        out=tmp_path / "whole",
    )
    record = run_water(options)
    steps, values = log_of(tmp_path / "whole")
    assert record.status == "completed"
    assert steps.tolist() == list(range(50, 501, 50))  # every second row
    facts = json.loads((tmp_path / "whole/run.json").read_text())
    assert facts["members"] == 3
    assert facts["uncertainty"]["largest"] >= values.max() > 0.0
    # The same run with a limit between what it reaches and what it begins with.
    later = int(np.argmax(values > values[0]))
    assert later > 0
    stop = 0.5 * (values[:later].max() + values[later])
    limited = dataclasses.replace(
        options, stop_uncertainty=float(stop), out=tmp_path / "limited"
    )
    record = run_water(limited)
    assert record.status == "stopped"
    assert record.steps == steps[later - 1]
    trusted = app.PDBFile(str(tmp_path / "limited/last_good.pdb"))
    uncertain = app.PDBFile(str(tmp_path / "limited/uncertain.pdb"))
    evaluator = SE3Potential(MONOMERS, implementation="torchscript").committeeEvaluator(
        trusted.topology
    )
    assert evaluator(trusted.positions).largest < stop
    assert evaluator(uncertain.positions).largest > stop
    assert (tmp_path / "limited/last_good_state.xml").exists()


def test_a_resumed_run_counts_the_frames_of_all_its_sittings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmm_se3.simulation.uncertainty.INTERVAL", 50)
    options = WaterRunOptions(
        model=str(MONOMERS),
        steps=400,
        equilibration_ps=0.05,
        temperature=600.0,
        platform="Reference",
        implementation="torchscript",
        seed=3,
        checkpoint_ps=0.1,
        out=tmp_path / "whole",
    )
    run_water(options)
    parts = dataclasses.replace(options, steps=300, out=tmp_path / "parts")
    run_water(parts)
    run_water(dataclasses.replace(parts, steps=400, resume=True))
    whole, resumed = (
        json.loads((tmp_path / name / "run.json").read_text())["uncertainty"]
        for name in ("whole", "parts")
    )
    assert whole["evaluated"] == 10  # two of them in the equilibration
    assert resumed == whole


def test_one_member_runs_without_uncertainty(tmp_path: Path) -> None:
    options = WaterRunOptions(
        model=str(MONOMERS),
        steps=40,
        equilibration_ps=0.0,
        platform="Reference",
        implementation="torchscript",
        committee=False,
        out=tmp_path / "one",
    )
    run_water(options)
    assert UNCERTAINTY not in read_log(tmp_path / "one/log.csv")
    with pytest.raises(ValueError) as error:
        run_water(
            dataclasses.replace(options, stop_uncertainty=1.0, out=tmp_path / "two")
        )
    assert "one network" in str(error.value)


def test_the_deviation_rises_outside_of_the_training_data() -> None:
    potential = SE3Potential(MONOMERS, precision="double", implementation="torchscript")
    threshold = potential.metadata["uncertainty_threshold"]
    frames = read_sources([Source(str(WATER_LABELS))], for_model=True).select("test")
    inside = [
        potential.force_uncertainty(frame.numbers, frame.positions).max()
        for frame in frames
        if frame.kind == "md"
    ]
    assert len(inside) > 10
    assert max(inside) < 0.5 * threshold
    dimer = np.concatenate([WATER, WATER + [0.0, 2.9, 0.0]])
    for numbers, positions in (([8, 1, 1] * 2, dimer), ([8, 8, 1, 1], PEROXIDE)):
        outside = potential.force_uncertainty(numbers, positions).max()
        assert outside > 2.0 * threshold


def test_a_run_stops_where_two_waters_meet_that_the_members_never_saw_together(
    tmp_path: Path,
) -> None:
    potential = SE3Potential(MONOMERS, implementation="torchscript")
    topology = water_topology(2)
    start = np.concatenate([WATER, WATER + [0.0, 7.0, 0.0]])  # beyond the cutoff, A
    simulation = app.Simulation(
        topology,
        potential.createSystem(topology),
        openmm.VerletIntegrator(0.0005),
        openmm.Platform.getPlatformByName("Reference"),
    )
    simulation.context.setPositions(start * unit.angstrom)
    # Towards each other with 4 nm/ps: the members make them repel each other.
    simulation.context.setVelocities(np.repeat([[0, 2.0, 0], [0, -2.0, 0]], 3, axis=0))
    threshold = potential.metadata["uncertainty_threshold"]
    files = {name: tmp_path / f"{name}.pdb" for name in ("trusted", "uncertain")}
    simulation.reporters.append(
        UncertaintyReporter(
            potential.committeeEvaluator(topology), 10, stop=threshold, **files
        )
    )
    with pytest.raises(SimulationStopped), pytest.warns(UncertaintyWarning):
        simulation.step(400)
    gaps = {}
    for name, file in files.items():
        x = app.PDBFile(str(file)).getPositions(asNumpy=True)
        gaps[name] = float(np.linalg.norm((x[3] - x[0]).value_in_unit(unit.angstrom)))
    assert 7.0 > gaps["trusted"] > gaps["uncertain"] > 1.5


def test_members_of_different_splits_hold_out_no_frames_in_common() -> None:
    digest = hash_source(WATER_LABELS)
    models = []
    for seed in range(2):
        split = {"by": "random", "fractions": [0.8, 0.1, 0.1], "seed": seed}
        files = [["water1.h5", digest]]
        data = {"files": files, "split": split, "surroundings": "free"}
        models.append(shifted(member(seed), training_data=data))
    both = committee_of(models, "both")
    assert both.metadata["training_data"]["files"] == [["water1.h5", digest]]
    assert both.member(1).metadata["training_data"]["split"]["seed"] == 1
    with pytest.raises(ValueError) as error:
        read_as_trained(both, [Source(str(WATER_LABELS))])
    assert "--split all" in str(error.value)


def test_the_threshold_is_measured_on_frames_that_no_run_trained_on(
    tmp_path: Path,
) -> None:
    runs = []
    splits = ([0, 0, 1, 1, 2], [0, 1, 1, 0, 2])
    data = read_sources([Source(str(WATER_LABELS))], for_model=True)
    few = tmp_path / "few.h5"
    write_hdf5(few, dataclasses.replace(data, frames=data.frames[:5]))
    for number, split in enumerate(splits):
        run = tmp_path / f"run{number}"
        run.mkdir()
        settings = {"model": {"elements": ["H", "O"]}, "data": {"files": [str(few)]}}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        np.save(run / "split.npy", np.array(split))
        runs.append(run)
    frames = validation_frames(runs)
    assert frames is not None and len(frames) == 1
    expected = read_sources([Source(str(few))], for_model=True).frames[2]
    assert np.array_equal(frames[0].positions, expected.positions)
    few.unlink()
    assert validation_frames(runs) is None
    committee = load_model(MONOMERS)
    held_out = data.select("validation")
    found = uncertainty_threshold(committee, held_out)
    largest = [
        SE3Potential(MONOMERS, implementation="torchscript")
        .force_uncertainty(held_out[i].numbers, held_out[i].positions)
        .max()
        for i in range(3)
    ]
    assert deviations(committee, held_out[:3]) == pytest.approx(largest, rel=1e-3)
    assert found == pytest.approx(
        2.0 * np.quantile(deviations(committee, held_out), 0.99)
    )
    assert found == pytest.approx(committee.metadata["uncertainty_threshold"], rel=1e-3)
