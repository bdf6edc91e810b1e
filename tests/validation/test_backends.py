"""Checks of backends pass what is right and see what is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from wrong_potentials import MOLECULE, failed

from openmm_se3.compiled.library import CompileError
from openmm_se3.config import ModelConfig
from openmm_se3.force.backends import TorchForce
from openmm_se3.implementation import VARIABLE
from openmm_se3.model_file import load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.validation import backends, mixed
from openmm_se3.validation.report import Report
from openmm_se3.validation.structures import (
    Structure,
    evaluate,
    in_both_precisions,
)
from openmm_se3.validation.validate import Settings


@pytest.fixture(scope="module")
def model_folder(smallest_model: Path) -> Path:
    """The cheapest network: every check makes each of its backends."""
    return smallest_model


@pytest.fixture(scope="module")
def networks(model_folder: Path) -> dict[str, SE3Transformer]:
    return in_both_precisions(load_model(model_folder))


def test_differences_of_backends_pass_nan_on() -> None:
    right = [(1.0, np.zeros((2, 3)))] * 3
    wrong = [*right[:2], (1.0, np.full((2, 3), np.nan))]
    assert backends.largest_errors(right, right) == (0.0, 0.0)
    assert math.isnan(backends.largest_errors(wrong, right)[1])
    assert math.isnan(backends.largest_errors([(math.nan, right[0][1])], right[:1])[0])


def missing(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    """Let TorchForce be missing for these checks."""

    class Missing(TorchForce):
        def problem(self) -> str:
            return problem

    there = {**backends.BACKENDS, "torchforce": Missing()}
    monkeypatch.setattr(backends, "BACKENDS", there)


def test_backends_agree_and_what_is_missing_is_said(
    model_folder: Path,
    networks: dict[str, SE3Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing(monkeypatch, "no plugin; install it")
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    assert not failed(found)
    not_run = [c for c in found if c.status == "not run" and "torchforce" in c.name]
    assert len(not_run) == 2
    assert all(c.note == "no plugin; install it" for c in not_run)
    names = [c.name for c in found if c.status == "pass"]
    for name in (
        "torchscript, pythonforce, Reference, single",
        "ASE calculator, double",
    ):
        assert name in names


def test_both_implementations_are_compared_where_both_are_there(
    networks: dict[str, SE3Transformer],
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_compiler(implementation: str, config: ModelConfig, precision: str) -> str:
        if implementation in ("compiled", "triton"):
            raise CompileError("no compiler here")
        return implementation

    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(
        "openmm_se3.force.evaluator.compile_implementation", no_compiler
    )
    monkeypatch.setattr(backends, "platform_names", lambda: ["Reference"])
    found = backends.backend_checks(
        model_folder,
        {"double": networks["double"], "single": networks["single"]},
        [MOLECULE],
        np.random.default_rng(0),
    )
    assert not failed(found)
    notes = {c.name: c.note for c in found if c.status == "not run"}
    assert notes.keys() == {
        f"{implementation}, {backend}, {precision}"
        for implementation in ("compiled", "triton")
        for backend in backends.BACKENDS
        for precision in networks
    }
    assert set(notes.values()) == {"no compiler here"}


@pytest.mark.parametrize(("platform", "passes"), [("CPU", False), ("CUDA", True)])
def test_an_error_is_a_failure_unless_it_is_a_gpu(
    networks: dict[str, SE3Transformer],
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    passes: bool,
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise openmm.OpenMMException("the model's energy is NaN")

    monkeypatch.setattr(backends, "platform_names", lambda: [platform])
    monkeypatch.setattr(backends, "_calls", refuse)
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    of_platform = [c for c in found if f", {platform}," in c.name]
    assert of_platform and all("energy is NaN" in c.note for c in of_platform)
    assert Report("a", {}, tuple(found)).passed == passes


def test_a_backend_that_differs_is_seen(
    model_folder: Path,
    networks: dict[str, SE3Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def off(network: SE3Transformer, structure: Structure) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        return energy, forces + 1e-3

    missing(monkeypatch, "left out")
    monkeypatch.setattr(backends, "platform_names", lambda: ["Reference"])
    monkeypatch.setattr(backends, "evaluate", off)
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    run = [c for c in found if c.group == "backends" and c.measured is not None]
    assert len(run) == 4
    assert all(c.status == "fail" for c in run)


@pytest.mark.parametrize("rounding", [0.0, 4e-5])
def test_the_limit_of_single_precision_follows_its_rounding(
    rounding: float,
    model_folder: Path,
    networks: dict[str, SE3Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two that round differently may be as far apart as three roundings."""
    single = networks["single"]

    def rounded(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(networks["double"], structure)
        return energy, forces + (rounding if network is single else 0.0)

    missing(monkeypatch, "left out")
    monkeypatch.setattr(backends, "platform_names", lambda: ["Reference"])
    monkeypatch.setattr(backends, "evaluate", rounded)
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    limits = {c.name.rpartition(", ")[2]: c.high for c in found if c.high}
    assert limits["single"] == pytest.approx(max(5e-5, 3 * rounding), rel=1e-3)
    assert limits["double"] == 1e-10


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="steps must be at least 100, got 3"):
        Settings(steps=3)
    with pytest.raises(ValueError, match="drift_ps"):
        Settings(drift_ps=-1.0)


def test_classical_energy_inside_the_models_atoms_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = mixed.mixed_checks(MOLECULE, np.random.default_rng(0))
    assert {check.status for check in checks} == {"pass"} and len(checks) == 5
    monkeypatch.setattr("openmm_se3.force.mixed.exclude_inside", lambda *_: None)
    checks = mixed.mixed_checks(MOLECULE, np.random.default_rng(0))
    assert {check.status for check in checks} == {"fail"}
