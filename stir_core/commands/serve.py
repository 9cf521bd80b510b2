"""``stir serve``: a bundle behind an OpenAI-compatible address."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from stir_core.errors import DeployError

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add(command: Command) -> None:
    """Make the parser."""
    serve = command("serve", _serve, "Serve a bundle behind an OpenAI-compatible address; STIR_API_KEY asks for a bearer token.")
    serve.add_argument("bundle", type=Path, help="bundle folder")
    serve.add_argument("--model", help="another place where the bundle's own model lies")
    serve.add_argument("--name", help="what requests call the model (default: the bundle folder's name)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    serve.add_argument("--check", default="exact", choices=("exact", "shape"), help="shape: take any model of the same width and depth")
    serve.add_argument("--rows", type=int, default=8, help="answers decoded side by side")
    serve.add_argument("--queue", type=int, default=32, help="answers that may wait; more are refused with 429")
    serve.add_argument("--timeout", type=float, default=600.0, help="seconds that an answer may take, waiting included")
    serve.add_argument("--max-body", type=int, default=1 << 20, help="most bytes of a request")
    serve.add_argument("--max-new-tokens", type=int, default=4096, help="most tokens of an answer")
    serve.add_argument("--grace", type=float, default=20.0, help="seconds that running answers have to end at SIGTERM")


def _serve(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle import read_bundle
    from stir_core.deploy.runtime import SteeredModel
    from stir_core.deploy.serve import KEY, Limits, build_app, run_server

    for flag, value, least in (("rows", arguments.rows, 1), ("queue", arguments.queue, 0), ("max-body", arguments.max_body, 1)):
        if value < least:
            raise DeployError(f"--{flag} is {value}: at least {least}")
    if not 0 < arguments.port < 65536:
        raise DeployError(f"--port is {arguments.port}: 1 to 65535")
    key = os.environ.get(KEY)
    if key is not None and not key.strip():
        raise DeployError(f"{KEY} is set but empty: give a token, or unset it")
    bundle = read_bundle(arguments.bundle)
    name = arguments.name or arguments.bundle.resolve().name
    steered = SteeredModel.load(bundle, arguments.model, device=arguments.device, check=arguments.check)
    limits = Limits(
        rows=arguments.rows,
        waiting=arguments.queue,
        seconds=arguments.timeout,
        body=arguments.max_body,
        tokens=arguments.max_new_tokens,
        grace=arguments.grace,
    )
    where = f"http://{arguments.host}:{arguments.port}/v1"
    print(f'{where}  model "{name}", bundle {bundle.manifest.digest}, {"bearer token asked for" if key else "no token"}', flush=True)
    run_server(build_app(steered, name, limits, key=key), host=arguments.host, port=arguments.port, grace=arguments.grace)
    return 0
