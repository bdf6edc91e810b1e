"""``openmm-se3 label``: energies and forces for structures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from openmm_se3.cli.shared.old_names import renamed
from openmm_se3.cli.shared.recorded_command import command_line
from openmm_se3.data.level_of_theory import NAMED_LEVELS, LevelOfTheory

if TYPE_CHECKING:
    from openmm_se3.data.dataset import Dataset

DEFAULT = LevelOfTheory()
HDF5 = (".h5", ".hdf5")
FAILURES_SHOWN = 20
SETTINGS_OF_DFT = (
    "basis",
    "cartesian",
    "density_fit",
    "grid_level",
    "scf_tolerance",
    "max_cycles",
    "spin",
)


@click.command(cls=renamed(output="out"))
@click.argument("structures", type=click.Path(path_type=Path), metavar="INPUT.xyz")
@click.option(
    "-o",
    "--out",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="HDF5 file to write.",
)
@click.option(
    "--level",
    "named",
    type=click.Choice(list(NAMED_LEVELS), case_sensitive=False),
    help="Method and basis of public data: "
    + ", ".join(f"{name} ({level})" for name, level in NAMED_LEVELS.items())
    + ".",
)
@click.option(
    "--method",
    help="Exchange-correlation functional, as PySCF names it; -d3bj at its end adds "
    "a dispersion correction.  Or a fast potential: aimnet2, gfn2, model:NAME, "
    "torchscript:FILE, ase:MODULE:NAME (docs/molecules.md).  "
    f"[default: {DEFAULT.method}]",
)
@click.option(
    "--basis", help=f"Basis set, as PySCF names it.  [default: {DEFAULT.basis}]"
)
@click.option(
    "--cartesian/--spherical",
    default=None,
    help="Cartesian or spherical d and f functions.  [default: Cartesian for 3-21G, "
    "4-31G, 6-21G and 6-31G sets, spherical for all others]",
)
@click.option(
    "--density-fit/--no-density-fit",
    default=DEFAULT.density_fit,
    show_default=True,
    help="Density fitting of the integrals.",
)
@click.option(
    "--grid-level",
    type=click.IntRange(0, 9),
    default=DEFAULT.grid_level,
    show_default=True,
    help="Integration grid of PySCF.",
)
@click.option(
    "--scf-tolerance",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=DEFAULT.scf_tolerance,
    show_default=True,
    help="Convergence threshold of the energy, hartree.",
)
@click.option(
    "--max-cycles",
    type=click.IntRange(min=1),
    default=DEFAULT.max_cycles,
    show_default=True,
    help="SCF iterations before a frame is set aside.",
)
@click.option(
    "--charge",
    type=int,
    default=DEFAULT.charge,
    show_default=True,
    help="Total charge of frames that do not say their own (charge=).",
)
@click.option(
    "--spin",
    type=click.IntRange(min=0),
    default=DEFAULT.spin,
    show_default=True,
    help="Unpaired electrons of frames that do not say theirs (spin=, multiplicity=).",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Worker processes.  [default: one per core]",
)
@click.option(
    "--scheduler",
    help="Use the workers of this Dask scheduler (tcp://HOST:PORT) instead.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.pass_context
def command(
    context: click.Context,
    structures: Path,
    output: Path,
    named: str | None,
    method: str | None,
    basis: str | None,
    cartesian: bool | None,
    density_fit: bool,
    grid_level: int,
    scf_tolerance: float,
    max_cycles: int,
    charge: int,
    spin: int,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
) -> None:
    """Compute energies and forces for every frame of an extended XYZ file.

    By DFT, or by a fast potential.  The run can be stopped at any time: the same
    command resumes it.  Frames without a converged label are left out and listed with
    the reason.
    """
    from openmm_se3.data.labeling import label as labeling
    from openmm_se3.data.labeling.batches import label_with
    from openmm_se3.data.labeling.executors import (
        DaskExecutor,
        LocalExecutor,
        WorkerDiedError,
    )
    from openmm_se3.data.labeling.labelers import is_labeler
    from openmm_se3.data.labeling.provenance import read_provenance
    from openmm_se3.files import sha256
    from openmm_se3.progress import progress_bar

    if scheduler is not None and workers is not None:
        raise click.UsageError("--workers are of this machine; leave out --scheduler")
    executor = LocalExecutor(workers) if scheduler is None else DaskExecutor(scheduler)
    if output.suffix.lower() not in HDF5:
        raise click.UsageError(
            f"{output}: labels are written as HDF5; give a name that ends in "
            f"{' or '.join(HDF5)}"
        )
    frames = labeling.read_structures(structures)
    if output.exists() and output.samefile(structures):
        raise ValueError(f"{output} is the input; give another name for the output")
    provenance: dict[str, Any] = {
        "label": command_line(context, "label", ("workers", "scheduler", "overwrite")),
        "input_sha256": sha256(structures),
    }
    sampled = read_provenance(structures)
    if sampled:
        provenance["sample"] = sampled

    if method is not None and is_labeler(method):
        _refuse_settings_of_dft(context)
        frames = [
            dataclasses.replace(f, charge=charge if f.charge is None else f.charge)
            for f in frames
        ]
        with progress_bar("Labeling") as progress:
            dataset, failures = label_with(
                frames, output, method, executor, provenance, progress, overwrite
            )
        _report(dataset, failures, output)
        return

    if named is not None and (method or basis):
        raise click.UsageError("--level sets method and basis: leave them out")
    defaults = NAMED_LEVELS[named or "ani"]
    level = LevelOfTheory(
        method=method or defaults.method,
        basis=basis or defaults.basis,
        cartesian=cartesian,
        density_fit=density_fit,
        grid_level=grid_level,
        scf_tolerance=scf_tolerance,
        max_cycles=max_cycles,
        charge=charge,
        spin=spin,
    )

    def resumed(found: int, total: int) -> None:
        if found:
            click.echo(f"found {found} finished labels, {total - found} to do")
        if total < len(frames):
            click.echo(f"{len(frames) - total} frames repeat others, computed once")

    try:
        with progress_bar("Labeling") as progress:
            dataset, failures = labeling.label(
                frames,
                output,
                level,
                executor,
                provenance,
                progress=progress,
                resumed=resumed,
                overwrite=overwrite,
            )
    except (KeyboardInterrupt, WorkerDiedError):
        journal = labeling.journal_path(output)
        if journal.exists():
            click.echo(
                f"finished labels are safe in {journal}; the same command goes on",
                err=True,
            )
        raise
    _report(dataset, failures, output)


def _refuse_settings_of_dft(context: click.Context) -> None:
    """Refuse options that a fast potential does not have.

    Raises:
        click.UsageError: Names the options.
    """
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in SETTINGS_OF_DFT
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: settings of DFT; --method "
            f"{context.params['method']} has none"
        )


def _report(dataset: Dataset, failures: list[tuple[int, str]], output: Path) -> None:
    from ase.data import chemical_symbols

    from openmm_se3.data.labeling.failures import failures_path
    from openmm_se3.data.labeling.label import summary

    click.echo(f"{len(dataset.frames)} labels with {dataset.level}: {output}")
    click.echo(summary(dataset))
    for number, energy in dataset.self_energies.items():
        click.echo(f"  isolated {chemical_symbols[number]}: {energy:.6f} eV")
    if not failures:
        return
    click.echo(f"{len(failures)} frames set aside ({failures_path(output)}):")
    for index, reason in failures[:FAILURES_SHOWN]:
        click.echo(f"  frame {index}: {reason}")
    if len(failures) > FAILURES_SHOWN:
        click.echo(f"  and {len(failures) - FAILURES_SHOWN} more")
