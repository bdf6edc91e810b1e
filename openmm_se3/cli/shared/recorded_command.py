"""The command line as text, to be stored with what it made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Container
from pathlib import Path

import click
from click.core import ParameterSource


def command_line(context: click.Context, verb: str, leave_out: Container[str]) -> str:
    """Return the command with the options that were given.

    Files appear by name only, so that nothing of the machine's folders is stored.

    Args:
        context: Context of the command.
        verb: The words before the options, such as "label".
        leave_out: Names of options that change nothing in the result.
    """
    words = ["openmm-se3", *verb.split()]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in leave_out or name not in context.params:
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for each in value if isinstance(value, tuple) else (value,):
            is_path = isinstance(each, Path) or os.path.isfile(str(each))
            text = Path(each).name if is_path else str(each)
            named = not isinstance(parameter, click.Argument)
            words += [parameter.opts[0], text] if named else [text]
    return shlex.join(words)
