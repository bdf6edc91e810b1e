"""The command line: ``openmm-se3 VERB``.

Each verb is a module of this package that holds a click command named ``command``.  It
is imported when the verb is called, so that help comes at once and a verb needs only
its own packages.

Exit codes: 0 success, 1 a check failed or an unexpected error, 2 bad input, 128 + n
stopped by signal n: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 140 SIGUSR2, 152
SIGXCPU.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import traceback
import warnings
from typing import Any, TextIO

import click

from openmm_se3.signals import Terminated, raise_again, stop_at_once
from openmm_se3.version import __version__

OF_CLICK = (click.ClickException, click.exceptions.Exit, click.Abort)
VERBS = {
    "learn": "Learn a force field for a molecule, and say how far to trust it.",
    "water": "Run water molecules: equilibrate, run NVE or NVT, report.",
    "run": "Run molecular dynamics of any structure; checkpoints, --resume.",
    "models": "List the models that come with this package.",
    "analyze": "Measure stability, drift, geometry and spectra of a finished run.",
    "validate": "Check that a model is computed right; with labels, how accurate.",
    "bench": "Time a model's steps: backends, implementations, platforms present.",
    "sample": "Make structures to label: of water, or of the molecules of a file.",
    "label": "Compute energies and forces for structures: DFT or fast potentials.",
    "data": "Look at files of labels: counts, units, duplicates, outliers.",
    "train": "Train a network on labeled data.",
    "sweep": "Train with every combination of a few settings, side by side.",
    "evaluate": "Measure the errors of a model on labeled data.",
    "export": "Turn a training checkpoint into a model file.",
    "compile": "Compile a model's network for the CPU of this machine.",
    "doctor": "Check this installation and name a fix for all that is wrong.",
}

# What was a verb in the last release.
MOVED = {"nbody": "python examples/nbody/run.py, in the repository"}

# Where the packages of a verb come from when they are not among the base dependencies.
EXTRAS = {
    "run": "sample",
    "learn": "learn",
    "validate": "ase",
    "sample": "sample",
    "label": "dft",
    "data": "train",
    "train": "train",
    "sweep": "train",
    "evaluate": "train",
}

# Errors with a message written for the user.  Any other is an error of this program.
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning as one line: where in the code it arose helps no user."""
    click.echo(f"Warning: {message}", err=True)


def _turn_debug_on(context: click.Context, option: click.Parameter, on: bool) -> None:
    if on:
        context.meta["debug"] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_turn_debug_on,
    help="Show the traceback of an error.",
)


def _one_line(error: BaseException, verb: str | None) -> str:
    """Say what went wrong in one line, the fix included where it is known."""
    # Errors of torch's C++ code carry their stack behind the message.
    text = " ".join(str(error).partition("Exception raised from")[0].split())
    if isinstance(error, ModuleNotFoundError) and verb in EXTRAS:
        return (
            f"{text}; openmm-se3 {verb} needs the packages of the extra "
            f'"{EXTRAS[verb]}"; fix: pip install "openmm-se3[{EXTRAS[verb]}]", or in a '
            f'source folder pip install ".[{EXTRAS[verb]}]"'
        )
    if isinstance(error, EXPECTED_ERRORS):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text} (--debug shows where)"


class VerbGroup(click.Group):
    """Loads the module of a verb when it is called and turns errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of a first reading."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a verb; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"openmm_se3.cli.{cmd_name}")
        command: click.Command = module.command
        if not any(parameter.name == "debug" for parameter in command.params):
            debug_option(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; name the nearest one if there is none."""
        verb = args[0]
        if verb not in VERBS and not verb.startswith("-"):
            if verb in MOVED:
                raise click.UsageError(f"{verb} is an example now: {MOVED[verb]}", ctx)
            near = difflib.get_close_matches(verb, VERBS, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"verbs: {', '.join(VERBS)}"
            )
            raise click.UsageError(f"there is no verb {verb!r}; {hint}", ctx)
        # Known from here on, so that an error of the import can name the verb.
        ctx.invoked_subcommand = verb
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list of verbs without importing any of them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; errors end in one line and an exit code."""
        with stop_at_once():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                if not ctx.meta.get("debug"):
                    warnings.showwarning = _show_warning
                try:
                    return super().invoke(ctx)
                except OF_CLICK:
                    raise
                except Exception:
                    raise_again()
                    raise
        except OF_CLICK:
            raise
        except KeyboardInterrupt as interrupt:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            cause, number = "interrupted (Ctrl-C)", int(signal.SIGINT)
            if isinstance(interrupt, Terminated):
                cause, number = str(interrupt), interrupt.number
            click.echo(f"openmm-se3: {cause}", err=True)
            ctx.exit(128 + number)
        except Exception as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            click.echo(f"Error: {_one_line(error, ctx.invoked_subcommand)}", err=True)
            ctx.exit(2 if isinstance(error, EXPECTED_ERRORS) else 1)


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB [OPTIONS]",
)
@click.version_option(__version__, prog_name="openmm-se3")
@debug_option
def main() -> None:
    """SE(3)-Transformer force fields for OpenMM.

    `openmm-se3 VERB --help` lists the options of a verb.
    """
