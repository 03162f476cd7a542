"""``rollway``: the command line."""

import typer

from controlplane.cli import convert, flags, jobs, local, plugins

app = typer.Typer(
    name="rollway",
    help="Reinforcement-learning post-training of language models, as a service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MACHINE = "This machine"
app.command(rich_help_panel=MACHINE)(local.up)
app.command(rich_help_panel=MACHINE)(local.down)
app.command(rich_help_panel=MACHINE)(local.status)

JOBS = "Jobs"
app.command(rich_help_panel=JOBS)(jobs.submit)
app.command(rich_help_panel=JOBS, context_settings=flags.PASSED_ON)(flags.train)
app.command(rich_help_panel=JOBS, context_settings=flags.PASSED_ON)(flags.explain)
app.command("follow", rich_help_panel=JOBS)(jobs.follow_job)
app.command(rich_help_panel=JOBS)(jobs.jobs)
app.command(rich_help_panel=JOBS)(jobs.show)
app.command(rich_help_panel=JOBS)(jobs.events)
app.command(rich_help_panel=JOBS)(jobs.metrics)
app.command(rich_help_panel=JOBS)(jobs.checkpoints)
app.command(rich_help_panel=JOBS)(jobs.chat)
app.command(rich_help_panel=JOBS)(jobs.finish)
app.command(rich_help_panel=JOBS)(jobs.cancel)

app.command(rich_help_panel="Your code")(flags.manifest)
app.add_typer(plugins.app, name="plugins", rich_help_panel="Your code")
app.add_typer(convert.app, name="convert", rich_help_panel="Your models")

if __name__ == "__main__":
    app()
