"""The options of the Megatron that is installed, or of a Megatron-LM on ``PYTHONPATH``, as JSON.

python -m trainers.megatron.option_manifest
"""

import argparse

from engines.option_manifest import Manifest, describe


def megatron_manifest() -> Manifest:
    from megatron.core.package_info import __version__
    from megatron.training.arguments import add_megatron_arguments

    parser = add_megatron_arguments(argparse.ArgumentParser(add_help=False))
    # Behind the plus is the commit of whatever repository the process runs in.
    return describe(parser, program="megatron", release=__version__.partition("+")[0])


if __name__ == "__main__":
    print(megatron_manifest().to_json(), end="")
