"""``openmm-se3 doctor``."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """Check this installation and name a fix for all that is wrong.

    Ends with exit code 0 if all is well and 1 otherwise.
    """
    from rich.console import Console

    from openmm_se3.doctor import collect as evidence
    from openmm_se3.doctor import diagnosis, report

    with Console(stderr=True).status("examining; this takes some ten seconds"):
        found = evidence.gather()
    problems = diagnosis.problems(found)
    report.show(found, problems, diagnosis.hints(found), Console())
    if problems:
        raise click.exceptions.Exit(1)
