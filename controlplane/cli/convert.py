"""Commands that convert weights. They run where torch may be imported: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Weights between Hugging Face's format and Megatron's, on the CPU, without holding a whole model.",
    no_args_is_help=True,
)

HfCheckpoint = Annotated[
    Path,
    typer.Option("--hf-checkpoint", help="A Hugging Face directory.", exists=True, file_okay=False, resolve_path=True),
]
Check = Annotated[bool, typer.Option("--check", help="Read both again and compare every tensor, bit for bit.")]


@app.command("hf-to-megatron")
def hf_to_megatron(
    hf_checkpoint: HfCheckpoint,
    save: Annotated[
        Path, typer.Option("--save", help="A directory of checkpoints; it gets a release.", resolve_path=True)
    ],
    check: Check = False,
) -> None:
    """Write a torch_dist checkpoint that any parallel layout can load, as checkpoint.load or checkpoint.ref_load."""
    _run(["hf-to-megatron", "--hf-checkpoint", str(hf_checkpoint), "--save", str(save)], check)


@app.command("megatron-to-hf")
def megatron_to_hf(
    load: Annotated[
        Path,
        typer.Option("--load", help="A directory of checkpoints.", exists=True, file_okay=False, resolve_path=True),
    ],
    hf_checkpoint: HfCheckpoint,
    save: Annotated[Path, typer.Option("--save", help="The directory to write.", resolve_path=True)],
    ckpt_step: Annotated[int | None, typer.Option("--ckpt-step", help="Unset: the one that its tracker names.")] = None,
    check: Check = False,
) -> None:
    """Write the weights of a torch_dist checkpoint, whatever layout saved it. Config, tokenizer and dtype are those of
    --hf-checkpoint."""
    step = [] if ckpt_step is None else ["--ckpt-step", str(ckpt_step)]
    _run(
        ["megatron-to-hf", "--load", str(load), "--hf-checkpoint", str(hf_checkpoint), "--save", str(save), *step],
        check,
    )


def _run(arguments: list[str], check: bool) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "trainers.megatron.convert", *arguments, *(["--check"] if check else [])]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)
