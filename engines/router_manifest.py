"""The options of the sglang-router that is installed, as slime takes them, as JSON.

python -m engines.router_manifest
"""

import argparse
from dataclasses import replace
from importlib.metadata import version

from engines.option_manifest import Manifest, describe


def router_manifest() -> Manifest:
    from sglang_router.router_args import RouterArgs

    parser = argparse.ArgumentParser(add_help=False)
    RouterArgs.add_cli_args(parser, use_router_prefix=True, exclude_host_port=True)
    found = describe(parser, program="sglang-router", release=version("sglang-router"))
    # Defaults come from the environment, passwords among them, and choices in no order.
    options = (replace(option, default=None, choices=None) for option in found.options)
    return replace(found, options=tuple(options))


if __name__ == "__main__":
    print(router_manifest().to_json(), end="")
