"""Analysis of trajectories with mdtraj: stability, geometry, drift, spectrum."""

from pathlib import Path

from openmm_se3.analysis.analysis import Analysis, analyze
from openmm_se3.analysis.energies import Energies
from openmm_se3.analysis.figure import write_figure
from openmm_se3.analysis.geometry import Geometry, cluster, conformations, geometry
from openmm_se3.analysis.liquid import Liquid, liquid, pair_distribution
from openmm_se3.analysis.page import analyze_command, write_page
from openmm_se3.analysis.read import Recording, read_files, read_folder
from openmm_se3.analysis.report import print_report, summary, verdict, write_markdown
from openmm_se3.analysis.run_page import write_run_page
from openmm_se3.analysis.spectrum import Spectrum, spectrum, verlet_corrected
from openmm_se3.analysis.stability import Stability, judge
from openmm_se3.simulation import folder as names

__all__ = [
    "Analysis",
    "Energies",
    "Geometry",
    "Liquid",
    "Recording",
    "Spectrum",
    "Stability",
    "analyze",
    "analyze_folder",
    "cluster",
    "conformations",
    "geometry",
    "judge",
    "liquid",
    "pair_distribution",
    "print_report",
    "read_files",
    "read_folder",
    "spectrum",
    "summary",
    "verdict",
    "verlet_corrected",
    "write_results",
    "write_run_page",
]


def write_results(
    analysis: Analysis, folder: str | Path, command: str | None = None
) -> None:
    """Write the results into a folder: JSON, Markdown, a figure and a page.

    Args:
        analysis: What was measured.
        folder: Where ``summary.json``, ``report.md``, ``figure.png`` and
            ``report.html`` go; made if missing.
        command: The command that repeats the analysis, for the page; None is that of a
            run in the folder.
    """
    folder = Path(folder)
    if command is None:
        command = analyze_command(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names.write_json(folder / names.SUMMARY, summary(analysis))
    write_figure(analysis, folder / names.FIGURE)
    write_markdown(analysis, folder / names.REPORT)
    write_page(analysis, folder / names.PAGE, command)


def analyze_folder(folder: str | Path) -> Analysis:
    """Analyze the folder of a run and write the results into it."""
    analysis = analyze(read_folder(folder))
    write_results(analysis, folder)
    return analysis
