"""``stir serve``: a bundle at an OpenAI-compatible address."""

import argparse
import os
from pathlib import Path

from stir_core.commands.console import Command
from stir_core.commands.flags import add_fields, asked
from stir_core.errors import DeployError
from stir_core.requests import Limits


def add(command: Command) -> None:
    """Add ``stir serve`` and its arguments."""
    description = "Serve a bundle at an OpenAI-compatible address; with STIR_API_KEY set, requests need that bearer token."
    serve = command("serve", _serve, description, "--model")
    serve.add_argument("bundle", type=Path, help="bundle folder")
    serve.add_argument("--name", help="the model's name in requests (default: the bundle folder's name)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8000, help="0: any free one, which is printed")
    serve.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a CUDA device when there is one")
    serve.add_argument("--check", default="exact", choices=("exact", "shape"), help="shape: take any model of the same width and depth")
    add_fields(serve, Limits)


def _serve(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.reading import read_bundle
    from stir_core.deploy.serving.process import Server, bound
    from stir_core.deploy.serving.runtime import SteeredModel
    from stir_core.deploy.serving.service import KEY, build_app

    limits, key = asked(arguments, Limits), os.environ.get(KEY)
    if not 0 <= arguments.port < 65536:
        raise DeployError(f"--port is {arguments.port}: 1 to 65535, or 0 for any free one")
    if key is not None and not (key.strip() and key.isascii()):
        raise DeployError(f"{KEY} cannot be sent in a header: set it to a token of plain characters, or unset it")
    bundle = read_bundle(arguments.bundle)
    name = arguments.name or arguments.bundle.resolve().name
    with bound(arguments.host, arguments.port) as listener:  # before the model is loaded, which takes longest
        steered = SteeredModel.load(bundle, arguments.model, device=arguments.device, check=arguments.check)
        app = build_app(steered, name, limits, key=key)
        listener.listen(256)
        where = f"http://{arguments.host}:{listener.getsockname()[1]}/v1"
        print(f'{where}  model "{name}", bundle {bundle.manifest.digest}, {"bearer token asked for" if key else "no token"}', flush=True)
        Server(app, app.state.service.worker, limits.grace).run(sockets=[listener])
