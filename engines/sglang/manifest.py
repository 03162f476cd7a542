"""The options of the SGLang that is installed, as JSON.

python -m engines.sglang.manifest
"""

import argparse
from importlib.metadata import version

from engines.option_manifest import Manifest, describe


def sglang_manifest() -> Manifest:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    return describe(parser, program="sglang", release=version("sglang"))


if __name__ == "__main__":
    print(sglang_manifest().to_json(), end="")
