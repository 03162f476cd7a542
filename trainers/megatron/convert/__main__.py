"""``python -m trainers.megatron.convert``: exit code 0, or 1 with one line that says what is wrong."""

import argparse
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

from engines.hardware.cpu import CPU
from trainers.errors import OutOfMemory, RunError
from trainers.megatron.convert.progress import Tell, to_stderr
from trainers.megatron.convert.status import Status


def main(argv: Sequence[str] | None = None) -> int:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = _parser().parse_args(argv)
    status: Path | None = options.status

    def tell(line: str) -> None:
        to_stderr(line)
        if status is not None:
            Status(said=line).write(status)

    try:
        end = options.convert(options, tell)
    except (RunError, MemoryError) as error:
        failure = error if isinstance(error, RunError) else OutOfMemory("the conversion ran out of memory")
        if status is not None:
            Status(said=str(failure), failure=failure.reason).write(status)
        print(f"error: {failure}", file=sys.stderr)
        return 1
    if status is not None:
        end.write(status)
    print(end.said)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rollway convert", description=__doc__)
    parser.add_argument("--status", type=Path, help="a file that is to hold the last word, as JSON")
    parser.add_argument("--run-id", help="whose work this is: goes on with what it finds of its own")
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


def _to_megatron(options: argparse.Namespace, tell: Tell) -> Status:
    from trainers.megatron.hf.config import read_hf_config

    model = read_hf_config(options.hf_checkpoint)
    from trainers.megatron.convert import convert
    from trainers.megatron.convert.skeleton import skeleton

    with redirect_stdout(io.StringIO()), skeleton(model) as bones:
        written = convert.hf_to_megatron(model, bones, options.save, run_id=options.run_id, tell=tell)
        checked = convert.check(model, bones, written, options.hf_checkpoint, tell=tell) if options.check else None
    return _end(written, checked)


def _to_hf(options: argparse.Namespace, tell: Tell) -> Status:
    from trainers.megatron.hf.config import read_hf_config
    from trainers.megatron.hf.target import check_target
    from trainers.megatron.start import checkpoint_of

    model = read_hf_config(options.hf_checkpoint)
    checkpoint = checkpoint_of(options.load, options.ckpt_step)
    check_target(options.save, options.run_id)
    from trainers.megatron.convert import convert
    from trainers.megatron.convert.skeleton import skeleton

    with redirect_stdout(io.StringIO()), skeleton(model) as bones:
        written = convert.megatron_to_hf(model, bones, checkpoint.path, options.save, run_id=options.run_id, tell=tell)
        checked = convert.check(model, bones, checkpoint.path, written, tell=tell) if options.check else None
    return _end(written, checked, checkpoint.iteration)


def _end(written: Path, checked: int | None, iteration: int | None = None) -> Status:
    said = f"{written}" + ("" if checked is None else f": all {checked} tensors agree bit for bit")
    return Status(said=said, written=str(written), iteration=iteration)


def _terminated(signum: int, frame: object) -> NoReturn:
    """So that what is half written is removed."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    os.environ |= {**CPU.environment, **CPU.trainer_environment}  # read when torch is imported, further on
    sys.exit(main())
