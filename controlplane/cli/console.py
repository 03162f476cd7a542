"""How the command line speaks: results on stdout, trouble on stderr in one clear line, and an exit code."""

from collections.abc import Generator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from controlplane.sdk.errors import ApiError, RollwayError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class UserError(Exception):
    """Something the user can put right; its text says how."""


@contextmanager
def plain_errors() -> Generator[None]:
    """Turn what can go wrong into a line on stderr, not wrapped, as it may hold a path, and exit code 1; an interrupt
    into 130."""
    try:
        yield
    except ApiError as error:
        said = error.message if not error.fields else "the request was refused:"
        err.print(f"[bold red]error[/] {escape(said)}", soft_wrap=True)
        for field in error.fields:
            err.print(f"  [bold]{escape(field.path)}[/]  {escape(field.message)}", soft_wrap=True)
        raise typer.Exit(1) from None
    except (UserError, RollwayError) as error:
        err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
