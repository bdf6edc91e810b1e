"""The function that runs a campaign, or resumes it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from openmm_se3.active_learning.campaign import JOURNAL, MODEL, SETTINGS, Campaign
from openmm_se3.active_learning.loop import Loop
from openmm_se3.active_learning.reaction.inputs import read_inputs
from openmm_se3.active_learning.reaction.variables import copy_files
from openmm_se3.active_learning.reference import Reference
from openmm_se3.active_learning.settings import BUDGET, Settings
from openmm_se3.active_learning.verdict import Verdict
from openmm_se3.config import from_dict
from openmm_se3.data.labeling.molecules import SUFFIXES
from openmm_se3.report.page import REPORT
from openmm_se3.version import installed_versions

# Of a campaign that is new none of these is there.
RESULTS = ("data", "runs", MODEL, REPORT, "molecule.pdb")
PROGRAMS = ("openmm-se3", "torch", "pyscf", "tblite", "Auto3D", "rdkit", "ase", "numpy")


def learn(
    molecule: str | Path | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    from_run: str | Path | None = None,
    console: Console | None = None,
    command: str = "",
    **options: Any,
) -> Verdict:
    """Learn a force field for a molecule, or resume a campaign.

    Examples:
        >>> verdict = openmm_se3.learn("CCO", "ethanol", labels=300)
        >>> verdict.trusted
        [300.0, 600.0]

    Args:
        molecule: SMILES, or a file ending in .smi, .sdf, .mol, .pdb or .xyz.  None with
            ``resume``.
        out: Folder of the campaign.
        resume: Resume the campaign in the folder; only ``labels``, ``minutes`` and
            ``workers`` may be given with it.
        from_run: Folder of a simulation with the campaign's model; the next round
            learns its frames of highest deviation.  Only with ``resume``.
        console: Where to report; by default the terminal.
        command: The command to repeat it, for the report.
        **options: Fields of :class:`~openmm_se3.active_learning.settings.Settings`.

    Returns:
        What the model can be trusted for.

    Raises:
        FileExistsError: The folder holds a campaign and ``resume`` is not given.
        FileNotFoundError: There is no campaign to resume, or no file of molecules.
        LockedError: Another process works in the folder.
        TooManyFailuresError: The reference cannot label a third of the frames.
        ValueError: The molecule, an option, or the level of theory is not possible.
    """
    console = console or Console(markup=False)
    if out is None:
        raise ValueError("out is missing: name the folder of the campaign")
    if from_run is not None and not resume:
        raise ValueError(
            "from_run (--from) adds a run's frames to a campaign that is there: resume "
            "it (--resume)"
        )
    folder = Path(out)
    if resume:
        settings = _resumed(folder, molecule, options)
    else:
        settings = _new(folder, molecule, options, console, command)
    campaign = Campaign(folder)
    with campaign.lock():
        if resume and options:
            campaign.record("budget", **options)
        inputs = read_inputs(settings, folder)
        run = None if from_run is None else Path(from_run)
        return Loop(campaign, settings, inputs, console, run).run()


def _new(
    folder: Path,
    molecule: str | Path | None,
    options: dict[str, Any],
    console: Console,
    command: str,
) -> Settings:
    """Check everything that can be checked, and make the folder."""
    if molecule is None:
        raise ValueError("molecule is missing: a SMILES string or a file of molecules")
    if (folder / SETTINGS).exists():
        raise FileExistsError(
            f"{folder} holds a campaign; --resume continues it, another --out starts "
            "a new one"
        )
    there = [name for name in RESULTS if _holds_something(folder / name)]
    if there:
        raise FileExistsError(
            f"{folder} holds {', '.join(there)} of something else, which would be used "
            "or overwritten: give another --out, or remove them"
        )
    if "level" in options and options.get("reference") is not None:
        raise ValueError(
            f"level {options['level']!r} is for DFT, and the reference is "
            f"{options['reference']!r}: give one of them"
        )
    settings = _settings({**options, "molecule": str(molecule)})
    inputs = read_inputs(settings)
    systems = inputs.systems
    names = ", ".join(f"{s.name} ({len(s.numbers)} atoms)" for s in systems)
    # SMILES such as c1cc[nH]c1 have brackets.
    console.print(f"Molecules: {names}", markup=False, highlight=False, soft_wrap=True)
    settings = dataclasses.replace(settings, round_labels=settings.per_round)
    settings, seconds = Loop.check(settings, inputs)
    reference = Reference(settings)
    console.print(
        f"Reference: {reference}; the first label took {seconds:.2g} s, "
        f"{settings.labels} labels take about "
        f"{_duration(seconds * settings.labels / reference.parallel)}",
        highlight=False,
        soft_wrap=True,
    )
    campaign = Campaign(folder)
    path = Path(settings.molecule)
    if path.suffix.lower() in SUFFIXES:
        name = f"input{path.suffix.lower()}"
        shutil.copyfile(path, folder / name)
        settings = dataclasses.replace(settings, molecule=name)
    settings = dataclasses.replace(settings, bias=copy_files(settings.bias, folder))
    (folder / JOURNAL).unlink(missing_ok=True)
    campaign = Campaign(folder)
    campaign.record(
        "started",
        command=command,
        versions=installed_versions(PROGRAMS),
        systems=[system.name for system in systems],
        label_seconds=round(seconds, 3),
    )
    # Written last: with it the folder is a campaign.
    settings.write(folder / SETTINGS)
    return settings


def _holds_something(path: Path) -> bool:
    """Tell whether there is a file, or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _resumed(
    folder: Path, molecule: str | Path | None, options: dict[str, Any]
) -> Settings:
    if molecule is not None:
        raise ValueError(
            f"{folder} says what its molecules are; leave {str(molecule)!r} out"
        )
    settings = Settings.read(folder / SETTINGS)
    fixed = sorted(set(options) - set(BUDGET))
    if fixed:
        raise ValueError(
            f"{', '.join(fixed)} cannot change in a campaign; only "
            f"{', '.join(BUDGET)} can.  Another --out starts a new one"
        )
    campaign = Campaign(folder)
    for event in campaign.all("budget"):
        known = {key: event[key] for key in BUDGET if key in event}
        settings = dataclasses.replace(settings, **known)
    return dataclasses.replace(settings, **options)


def _settings(values: dict[str, Any]) -> Settings:
    if isinstance(values.get("bias"), str):
        values["bias"] = [values["bias"]]
    return from_dict(Settings, values, "the campaign")


def _duration(seconds: float) -> str:
    if seconds < 90.0:
        return f"{max(1.0, seconds):.0f} s"
    minutes = seconds / 60.0
    return f"{minutes:.0f} min" if minutes < 90.0 else f"{minutes / 60.0:.1f} h"
