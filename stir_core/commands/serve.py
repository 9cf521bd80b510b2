"""``stir serve``: a bundle behind an OpenAI-compatible address."""

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.commands.console import Command
from stir_core.errors import DeployError

if TYPE_CHECKING:
    from stir_core.deploy.serving.service import Limits


def add(command: Command) -> None:
    """Make the parser."""
    serve = command("serve", _serve, "Serve a bundle behind an OpenAI-compatible address; STIR_API_KEY asks for a bearer token.")
    serve.add_argument("bundle", type=Path, help="bundle folder")
    serve.add_argument("--model", help="another place where the bundle's own model lies")
    serve.add_argument("--name", help="what requests call the model (default: the bundle folder's name)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8000, help="0: any free one, which is printed")
    serve.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a CUDA device when there is one")
    serve.add_argument("--check", default="exact", choices=("exact", "shape"), help="shape: take any model of the same width and depth")
    serve.add_argument("--rows", type=int, default=8, help="answers decoded side by side")
    serve.add_argument("--queue", type=int, default=32, help="answers that may wait; more are refused with 429")
    serve.add_argument("--timeout", type=float, default=600.0, help="seconds that an answer may take, waiting included")
    serve.add_argument("--max-body", type=int, default=1 << 20, help="most bytes of a request")
    serve.add_argument("--max-new-tokens", type=int, default=4096, help="most tokens of an answer")
    serve.add_argument("--grace", type=float, default=20.0, help="seconds that running answers have to end at SIGTERM or Ctrl-C")


def _serve(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.reading import read_bundle
    from stir_core.deploy.serving.process import Server, bound
    from stir_core.deploy.serving.runtime import SteeredModel
    from stir_core.deploy.serving.service import build_app

    limits, key = _limits(arguments), _key()
    bundle = read_bundle(arguments.bundle)
    name = arguments.name or arguments.bundle.resolve().name
    with bound(arguments.host, arguments.port) as listener:  # before the model is loaded, which takes longest
        steered = SteeredModel.load(bundle, arguments.model, device=arguments.device, check=arguments.check)
        app = build_app(steered, name, limits, key=key)
        listener.listen(256)
        where = f"http://{arguments.host}:{listener.getsockname()[1]}/v1"
        print(f'{where}  model "{name}", bundle {bundle.manifest.digest}, {"bearer token asked for" if key else "no token"}', flush=True)
        Server(app, app.state.service.worker, limits.grace).run(sockets=[listener])
    return 0


def _limits(arguments: argparse.Namespace) -> "Limits":
    from stir_core.deploy.serving.service import Limits

    least = {"rows": 1, "queue": 0, "max-body": 1, "max-new-tokens": 1, "timeout": 0.0, "grace": 0.0}
    for flag, lowest in least.items():
        value = getattr(arguments, flag.replace("-", "_"))
        if not (math.isfinite(value) and value >= lowest):
            raise DeployError(f"--{flag} is {value}: at least {lowest:g}")
    if not 0 <= arguments.port < 65536:
        raise DeployError(f"--port is {arguments.port}: 1 to 65535, or 0 for any free one")
    return Limits(
        rows=arguments.rows,
        waiting=arguments.queue,
        seconds=arguments.timeout,
        body=arguments.max_body,
        tokens=arguments.max_new_tokens,
        grace=arguments.grace,
    )


def _key() -> str | None:
    from stir_core.deploy.serving.service import KEY

    key = os.environ.get(KEY)
    if key is not None and not (key.strip() and key.isascii()):
        raise DeployError(f"{KEY} is set, but to nothing that a header can carry: give a token of plain characters, or unset it")
    return key
