"""Options that were renamed: the old name works for one release, with a warning."""

from __future__ import annotations

import click


def renamed(**old_names: str) -> type[click.Command]:
    """Return a class of commands that take old names of options.

    Args:
        old_names: New name by old name, without dashes in front.
    """
    names = {f"--{old}": f"--{new}" for old, new in old_names.items()}

    class Renaming(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            return super().parse_args(ctx, [self._new_name(word) for word in args])

        def _new_name(self, word: str) -> str:
            name, equals, value = word.partition("=")
            if name not in names:
                return word
            click.echo(
                f"Warning: {name} is now {names[name]}; the old name goes with the "
                "next release",
                err=True,
            )
            return f"{names[name]}{equals}{value}"

    return Renaming
