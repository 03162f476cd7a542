"""Entry point of the router's process: options as JSON in, sglang-router out.

    python -m engines.router_process '{"host": …, "port": …}'

sglang-router's own launcher imports SGLang and torch, which takes many seconds and is not needed to route.
"""

import json
import sys


def main() -> None:
    from sglang_router.router import Router
    from sglang_router.router_args import RouterArgs

    Router.from_args(RouterArgs(**json.loads(sys.argv[1]))).start()


if __name__ == "__main__":
    main()
