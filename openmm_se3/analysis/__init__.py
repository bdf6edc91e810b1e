"""Analysis of trajectories with mdtraj: stability, geometry, drift, spectrum."""

from pathlib import Path

from openmm_se3.analysis.analysis import Analysis, analyze
from openmm_se3.analysis.energies import Energies
from openmm_se3.analysis.figure import write_figure
from openmm_se3.analysis.geometry import Geometry, cluster, conformations, geometry
from openmm_se3.analysis.liquid import Liquid, liquid, pair_distribution
from openmm_se3.analysis.read import Recording, read_files, read_folder
from openmm_se3.analysis.report import print_report, summary, verdict, write_markdown
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
]


def write_results(analysis: Analysis, folder: str | Path) -> None:
    """Write ``summary.json``, ``report.md`` and ``figure.png`` into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names.write_json(folder / names.SUMMARY, summary(analysis))
    write_figure(analysis, folder / names.FIGURE)
    write_markdown(analysis, folder / names.REPORT)


def analyze_folder(folder: str | Path) -> Analysis:
    """Analyze the folder of a run and write the results into it."""
    analysis = analyze(read_folder(folder))
    write_results(analysis, folder)
    return analysis
