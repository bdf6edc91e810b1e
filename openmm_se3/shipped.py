"""The models that come with this package: where they lie and whether they are whole."""

from __future__ import annotations

from pathlib import Path

from openmm_se3.files import sha256

CHECKSUMS = "SHA256SUMS"


def models_folder() -> Path:
    """Return the folder of the shipped models.

    It is inside the package after a normal installation, and beside it in a source
    folder or an editable installation.
    """
    package = Path(__file__).parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def shipped_models() -> dict[str, Path]:
    """Return the folder of every shipped model by the model's name."""
    folder = models_folder()
    if not folder.is_dir():
        return {}
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if (path / CHECKSUMS).is_file()
    }


def damaged_files(model: Path) -> list[str]:
    """Compare a model's files with its list of checksums.

    Args:
        model: Folder of the model, with a file SHA256SUMS as sha256sum writes it.

    Returns:
        One sentence for each file that is missing or changed; empty if all are whole.
    """
    faults = []
    for line in (model / CHECKSUMS).read_text().splitlines():
        expected, _, name = line.partition("  ")
        path = model / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif sha256(path) != expected:
            faults.append(
                f"{name} is not the file that was shipped (its SHA-256 differs)"
            )
    return faults
