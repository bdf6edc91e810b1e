"""The guides in docs/: commands and snippets run, in short."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
import textwrap
from collections import Counter
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import openmm_se3
from openmm_se3 import SE3Potential
from openmm_se3.active_learning.settings import Settings
from openmm_se3.cli import main
from openmm_se3.data.load import Source
from openmm_se3.model_file import load_model
from openmm_se3.simulation import ModelRunOptions, water_topology
from openmm_se3.simulation.minimum import fused_atoms
from openmm_se3.simulation.structure import read_structure
from openmm_se3.training.config_file import read_config
from openmm_se3.training.prepare import read_data
from openmm_se3.training.run import make_module

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = DOCS / "training.md"
# Pages whose snippets run one after the other, and what makes them short.
PAGES = {
    "backends.md": {},
    "free_energies.md": {"step(500)": "step(5)", "range(100)": "range(2)"},
    "mixed_systems.md": {},
    "periodic_boxes.md": {"Iterations=20": "Iterations=3", "step(1000)": "step(30)"},
    "troubleshooting.md": {},
    "uncertainty.md": {
        '"my_committee"': repr(str(Path(__file__).parents[1] / "data/monomers")),
        "step(10_000)": "step(100)",
    },
    "whole_systems.md": {"step(1000)": "step(10)"},
}
# What makes it short: fewer steps, a smaller network, a cheap level of theory.
SHORTER = {
    '--method wb97x --basis "6-31g*"': "--method pbe --basis sto-3g --grid-level 0",
    "steps: 20000": "steps: 20\n  warmup_steps: 2\n  validate_every: 10",
    "elements: [H, O]": "elements: [H, O]\n  channels: 8\n  key_channels: 4",
    "simulation.step(1000)": "simulation.step(10)",
}


def blocks(language: str) -> list[str]:
    text = GUIDE.read_text().partition("# The configuration file")[0]
    for long, short in SHORTER.items():
        assert long in text, long
        text = text.replace(long, short)
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_the_box_of_water_is_one_and_no_molecules_are_fused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "running.md").read_text().partition("## A box of water")[2]
    (snippet, *_) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert "step(10_000)" in snippet
    monkeypatch.chdir(tmp_path)
    code = snippet.replace("step(10_000)", "step(500)")
    exec(compile(code, "running.md", "exec"), {})
    topology, positions = read_structure(tmp_path / "box.pdb")
    assert topology.getNumResidues() == 64
    assert fused_atoms(topology, positions) is None


@pytest.mark.parametrize("page", PAGES)
def test_the_snippet_of_a_page(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (DOCS / page).read_text()
    # Those below others may be in a list, and go on with what these have made.
    parts = re.findall(r"^ *```python\n(.*?)```", text, re.S | re.M)
    snippet = "\n".join(textwrap.dedent(part) for part in parts)
    for long, short in PAGES[page].items():
        assert long in snippet, long
        snippet = snippet.replace(long, short)
    if "water" in snippet:  # compiled for other tests too
        monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, page, "exec"), {})
    assert capsys.readouterr().out


def test_the_reference_names_every_argument_and_its_default() -> None:
    page = (DOCS / "api.md").read_text()
    before, _, after = page.partition("## `openmm_se3.learn`")
    learning, _, others = after.partition("\n## ")
    defaults = stated_defaults(before + others)
    for name, member in vars(SE3Potential).items():
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, property):  # .implementation, and old names
            continue
        assert name == "__init__" or f"`{name}(" in page, name
        for parameter in [*inspect.signature(member).parameters.values()][1:]:
            assert parameter.name in defaults, f"{name}: {parameter.name}"
            stated = defaults[parameter.name]
            if stated is not None:
                known = {parameter.default, inspect.Parameter.empty}
                assert ast.literal_eval(stated) in known, f"{name}: {parameter}"
    for field in dataclasses.fields(ModelRunOptions):
        assert ast.literal_eval(defaults[field.name] or "") == field.default, field
    for field in dataclasses.fields(Source)[1:]:  # the path has no default
        assert ast.literal_eval(defaults[field.name] or "") == field.default, field
    defaults = stated_defaults(learning)
    for name, parameter in inspect.signature(openmm_se3.learn).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert ast.literal_eval(defaults.pop(name) or "") == parameter.default
    for field in dataclasses.fields(Settings)[1:]:  # the molecule is an argument
        empty: object = field.default
        if field.default is dataclasses.MISSING:
            empty = {}
        assert ast.literal_eval(defaults.pop(field.name) or "") == empty, field
    assert not defaults


def stated_defaults(page: str) -> dict[str, str | None]:
    """Return the default of each argument in a page's tables, as it is written."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`)?", page, re.M)
    return {name: default or None for name, default in rows}


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_links_between_pages_lead_somewhere() -> None:
    root = DOCS.parent
    others = (root / name for name in ("README.md", "benchmarks/README.md"))
    seen = 0
    for page in [*DOCS.glob("*.md"), *others, *root.glob("models/*/card.md")]:
        # Brackets of SMILES in code are no links.
        text = re.sub(r"`[^`\n]*`", "code", page.read_text())
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text)
        for link, anchor in links:
            there = page.parent / link if link else page
            assert there.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(there), f"{page.name}: #{anchor}"
            seen += bool(anchor)
    assert seen > 5


def test_the_table_of_faults_counts_its_rows_and_names_tests_that_exist() -> None:
    text = (DOCS / "faults.md").read_text()
    rows = re.findall(r"^\| (?!case )(.+)$", text, re.M)
    outcomes = Counter(row.split("|")[3].strip() for row in rows)
    assert set(outcomes) == {"yes", "no", "not tried"}
    counts = re.search(r"\*\*(\d+) cases .* which (\d+) .*; (\d+) were not", text)
    assert counts is not None
    tried = len(rows) - outcomes["not tried"]
    expected = (tried, outcomes["yes"], outcomes["not tried"])
    assert tuple(map(int, counts.groups())) == expected
    sources = "".join(
        path.read_text() for path in Path(__file__).parents[1].rglob("*.py")
    )
    known = set(re.findall(r"^def (test_\w+)\(", sources, re.M))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 80
    assert named <= known


def write_runs(folder: Path) -> None:
    """Write what twelve MD runs of a water molecule leave, a frame each."""
    rng = np.random.default_rng(0)
    water = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    topology = mdtraj.Topology.from_openmm(water_topology(1))
    for index in range(12):
        run = folder / f"run-{index:02d}"
        run.mkdir(parents=True)
        positions = 0.1 * (water + rng.normal(scale=0.04, size=water.shape))
        trajectory = mdtraj.Trajectory(positions, topology)
        trajectory.save_dcd(str(run / "trajectory.dcd"))
        trajectory.save_pdb(str(run / "topology.pdb"))


def test_from_structures_to_dynamics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "runs")
    to_xyz, dynamics = blocks("python")
    exec(compile(to_xyz, "training.md", "exec"), {})
    assert (tmp_path / "my_frames.xyz").read_text().count("trajectory=run-") == 12
    (config,) = blocks("yaml")
    (tmp_path / "my_config.yaml").write_text(config)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    verbs = ["label", "data", "train", "export", "evaluate", "validate"]
    assert [shlex.split(command)[1] for command in commands] == verbs
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        # A network that has seen twenty batches passes no check of its dynamics.
        allowed = (0, 1) if " validate " in command else (0,)
        assert result.exit_code in allowed, f"{command}\n{result.output}"
        assert isinstance(result.exception, SystemExit | None), result.exception
    exec(compile(dynamics, "training.md", "exec"), {})


def test_the_example_of_fine_tuning_starts_from_the_model(tmp_path: Path) -> None:
    text = GUIDE.read_text().partition("## Fine-tuning")[2]
    (block, *_) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    data = DOCS.parent / "models/water/data/water1.h5"
    config = tmp_path / "fine.yaml"
    config.write_text(block.replace("my_data.h5", str(data)))
    settings = read_config(config)
    name = settings.training.initial
    assert name == "organic"
    module = make_module(settings, read_data(settings.data, Console(quiet=True)))
    expected = load_model(name).weights
    for key, weight in module.network.named_parameters():
        assert torch.equal(weight, expected[key].to(weight.dtype)), key
