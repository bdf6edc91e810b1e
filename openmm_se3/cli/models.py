"""``openmm-se3 models``: the models that come with this package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--paths", is_flag=True, help="Print the folders only, one a line.")
def command(paths: bool) -> None:
    """List the shipped models: elements, level of theory, errors, license.

    Force errors are those of the test frames, as a mean absolute error per component
    in kcal/mol/A; the model's card (card.md in its folder) says what frames these are.
    """
    from openmm_se3.shipped import models_folder, shipped_models

    found = shipped_models()
    if not found:
        raise click.ClickException(
            f"there are no models in {models_folder()}; install the package again"
        )
    for number, (name, folder) in enumerate(found.items()):
        if paths:
            click.echo(folder)
            continue
        if number:
            click.echo()
        click.echo(name)
        for label, text in _rows(folder):
            click.echo(f"  {label:<12}{text}")


def _rows(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what one reads before choosing a model, with its heading."""
    from openmm_se3.data.level_of_theory import level_name
    from openmm_se3.description import DESCRIPTION
    from openmm_se3.renamed_fields import with_new_names

    values = with_new_names(
        "description", json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    )
    shape = values["model"]
    yield "elements", " ".join(shape["elements"])
    yield "level", level_name(values["level_of_theory"])
    yield "knows", _domain(values.get("domain"))
    yield (
        "network",
        f"{shape['layers']} layers, {shape['channels']} channels, "
        f"cutoff {shape['cutoff']:g} A",
    )
    members = values.get("member_descriptions", [])
    if members:
        threshold = values.get("uncertainty_threshold")
        known = f", threshold {threshold:g} eV/A" if threshold else ""
        yield "committee", f"{len(members)} networks{known}"
    errors = [
        f"{error:.2f}"
        for one in members or [values]
        if (error := _force_mae(one)) is not None
    ]
    if errors:
        whose = " (of each network)" if members else ""
        yield "force MAE", f"{', '.join(errors)} kcal/mol/A on test frames{whose}"
    yield "license", values["license"]
    yield "card", str(folder / "card.md")


def _force_mae(values: Mapping[str, Any]) -> float | None:
    """Return the force error of all test frames that a description has."""
    error = values.get("errors", {}).get("test", {}).get("all", {}).get("force_mae")
    return None if error is None else float(error)


def _domain(domain: Mapping[str, Any] | None) -> str:
    """Return which molecules a model knows, in a few words."""
    if domain is None:
        return "not recorded"
    if domain["kind"] == "compositions":
        return "molecules " + ", ".join(domain["molecules"])
    return f"molecules with bonds {', '.join(domain['bonds'])}"
