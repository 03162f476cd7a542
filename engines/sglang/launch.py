"""Entry point of an engine's server process: options as JSON in, SGLang's server out.

    python -m engines.sglang.launch '{"model_path": …}'

It exists because SGLang's own parser, which alone knows how each option is spelled, is best asked in the process
that imports SGLang anyway. An option that the parser refuses ends the process with status 2 and its words.
"""

import argparse
import json
import multiprocessing
import os
import sys
from typing import Any


def _fork_workers() -> None:
    """Let scheduler and detokenizer be forks of this process, which has imported everything already.

    SGLang asks for spawned ones, as CUDA does not survive a fork; each then imports for twenty seconds of a core's time
    what is here. Without CUDA nothing has been started yet that a fork would lose.
    """
    multiprocessing.set_start_method("fork", force=True)

    def keep_fork(method: str | None, force: bool = False) -> None:
        """SGLang's later wish for ``spawn``."""

    multiprocessing.set_start_method = keep_fork  # type: ignore[method-assign]


def _refuse_empty_prompts() -> None:
    """A prompt without a token is a client's error (400). SGLang looks for it in some requests only, and its scheduler
    dies of it in all others: text whose characters the tokenizer drops, a batch with an empty list of ids."""
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    validate = TokenizerManager._validate_one_request

    def validate_one_request(self: Any, obj: Any, input_ids: Any) -> None:
        if not obj.input_embeds and (input_ids is None or len(input_ids) == 0):
            raise ValueError("The prompt has no tokens: at least one is needed to go on from.")
        validate(self, obj, input_ids)

    TokenizerManager._validate_one_request = validate_one_request


def main() -> None:
    # Imported here: SGLang's worker processes import this module again when they are spawned.
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs, prepare_server_args
    from sglang.srt.utils import kill_process_tree

    from engines.sglang.args import OptionInvalid, to_argv

    load_plugins()
    parser = argparse.ArgumentParser(prog="sglang")
    ServerArgs.add_cli_args(parser)
    try:
        argv = to_argv(json.loads(sys.argv[1]), parser)
    except OptionInvalid as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    server_args = prepare_server_args(argv)
    if server_args.device == "cpu":
        _fork_workers()
    _refuse_empty_prompts()
    try:
        run_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
