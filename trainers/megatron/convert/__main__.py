"""``python -m trainers.megatron.convert``: exit code 0, or 1 with one line that says what is wrong."""

import argparse
import io
import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from trainers.errors import RunError


def main(argv: Sequence[str] | None = None) -> int:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = _parser().parse_args(argv)
    try:
        print(options.convert(options))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rollway convert", description=__doc__)
    commands = parser.add_subparsers(required=True)
    to_megatron = commands.add_parser("hf-to-megatron", help="a Hugging Face directory to a release checkpoint")
    to_megatron.add_argument("--hf-checkpoint", type=Path, required=True)
    to_megatron.add_argument("--save", type=Path, required=True)
    to_megatron.add_argument("--check", action="store_true")
    to_megatron.set_defaults(convert=_to_megatron)
    to_hf = commands.add_parser("megatron-to-hf", help="a torch_dist checkpoint to a Hugging Face directory")
    to_hf.add_argument("--load", type=Path, required=True)
    to_hf.add_argument("--ckpt-step", type=int)
    to_hf.add_argument("--hf-checkpoint", type=Path, required=True)
    to_hf.add_argument("--save", type=Path, required=True)
    to_hf.add_argument("--check", action="store_true")
    to_hf.set_defaults(convert=_to_hf)
    return parser


def _to_megatron(options: argparse.Namespace) -> str:
    from trainers.megatron.hf.config import read_hf_config

    model = read_hf_config(options.hf_checkpoint)
    from trainers.megatron.convert import convert
    from trainers.megatron.convert.skeleton import skeleton

    with redirect_stdout(io.StringIO()), skeleton(model) as bones:
        written = convert.hf_to_megatron(model, bones, options.save)
        checked = convert.check(model, bones, written, options.hf_checkpoint) if options.check else None
    return f"{written}" + ("" if checked is None else f": all {checked} tensors agree bit for bit")


def _to_hf(options: argparse.Namespace) -> str:
    from trainers.megatron.hf.config import read_hf_config
    from trainers.megatron.start import checkpoint_of

    model = read_hf_config(options.hf_checkpoint)
    checkpoint = checkpoint_of(options.load, options.ckpt_step).path
    from trainers.megatron.convert import convert
    from trainers.megatron.convert.skeleton import skeleton

    with redirect_stdout(io.StringIO()), skeleton(model) as bones:
        written = convert.megatron_to_hf(model, bones, checkpoint, options.save)
        checked = convert.check(model, bones, checkpoint, written) if options.check else None
    return f"{written}" + ("" if checked is None else f": all {checked} tensors agree bit for bit")


if __name__ == "__main__":
    sys.exit(main())
