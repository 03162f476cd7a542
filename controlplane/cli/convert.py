"""Commands that convert weights: here, in a process where torch may be imported, or as a job."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.console import plain_errors
from controlplane.cli.jobs import submit_spec

app = typer.Typer(
    help="Weights between Hugging Face's format and Megatron's, on the CPU, without holding a whole model.",
    no_args_is_help=True,
)

HfCheckpoint = Annotated[
    Path, typer.Option("--hf-checkpoint", help="A Hugging Face directory.", file_okay=False, resolve_path=True)
]
Check = Annotated[bool, typer.Option("--check", help="Read both again and compare every tensor, bit for bit.")]
Submit = Annotated[bool, typer.Option("--submit", help="As a job: the paths are then those of the cluster.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="With --submit: show the job until it ends.")]


@app.command("hf-to-megatron")
def hf_to_megatron(
    hf_checkpoint: HfCheckpoint,
    save: Annotated[
        Path, typer.Option("--save", help="A directory of checkpoints; it gets a release.", resolve_path=True)
    ],
    check: Check = False,
    submit: Submit = False,
    follow: Follow = False,
) -> None:
    """Write a torch_dist checkpoint that any parallel layout can load, as checkpoint.load or checkpoint.ref_load."""
    conversion = {"to": "megatron", "hf_checkpoint": str(hf_checkpoint), "save": str(save), "check": check}
    if _is_job(submit, follow):
        _submit(conversion, follow)
    else:
        _run(["hf-to-megatron", "--hf-checkpoint", str(hf_checkpoint), "--save", str(save)], check)


@app.command("megatron-to-hf")
def megatron_to_hf(
    load: Annotated[
        Path, typer.Option("--load", help="A directory of checkpoints.", file_okay=False, resolve_path=True)
    ],
    hf_checkpoint: HfCheckpoint,
    save: Annotated[Path, typer.Option("--save", help="The directory to write.", resolve_path=True)],
    ckpt_step: Annotated[int | None, typer.Option("--ckpt-step", help="Unset: the one that its tracker names.")] = None,
    check: Check = False,
    submit: Submit = False,
    follow: Follow = False,
) -> None:
    """Write the weights of a torch_dist checkpoint, whatever layout saved it. Config, tokenizer and dtype are those of
    --hf-checkpoint."""
    paths = {"load": str(load), "hf_checkpoint": str(hf_checkpoint), "save": str(save)}
    if _is_job(submit, follow):
        _submit({"to": "hf", **paths, "ckpt_step": ckpt_step, "check": check}, follow)
    else:
        step = [] if ckpt_step is None else ["--ckpt-step", str(ckpt_step)]
        options = [f"--{name.replace('_', '-')}={path}" for name, path in paths.items()]
        _run(["megatron-to-hf", *options, *step], check)


def _is_job(submit: bool, follow: bool) -> bool:
    if follow and not submit:
        raise typer.BadParameter("shows a job: give --submit too", param_hint="--follow")
    return submit


def _submit(conversion: dict[str, Any], follow: bool) -> None:
    with plain_errors():
        submit_spec({"conversion": conversion}, follow=follow)


def _run(arguments: list[str], check: bool) -> None:
    command = [sys.executable, "-m", "trainers.megatron.convert", *arguments, *(["--check"] if check else [])]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
