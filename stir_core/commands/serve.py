"""``stir serve``: a bundle at an OpenAI-compatible address."""

import argparse
import os
from pathlib import Path

from stir_core.commands.console import Command, say
from stir_core.commands.flags import add_fields, asked
from stir_core.errors import DeployError
from stir_core.requests import Limits


def add(command: Command) -> None:
    """Add ``stir serve`` and its arguments."""
    description = "Serve a bundle at an OpenAI-compatible address; with STIR_API_KEY set, requests need that bearer token."
    serve = command("serve", _serve, description, "--model")
    serve.add_argument("bundle", type=Path, help="bundle folder")
    serve.add_argument("--name", help="the model's name in requests (default: the bundle folder's name)")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but the loopback needs STIR_API_KEY (default: 127.0.0.1)"
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        type=_host,
        metavar="NAME",
        help="answer requests to this host name too, e.g. that of a proxy; may be repeated",
    )
    serve.add_argument(
        "--allow-any-host", action="store_true", help="answer requests to every host name, also those of a page that rebinds its own"
    )
    serve.add_argument("--port", type=int, default=8000, help="0: any free one, which is printed")
    serve.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a CUDA device when there is one")
    serve.add_argument("--check", default="exact", choices=("exact", "shape"), help="shape: take any model of the same width and depth")
    add_fields(serve, Limits)


def _host(text: str) -> str:
    from stir_core.deploy.serving.guard import host_name

    name = host_name(text)
    if name is None or len(name) < len(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name: give it without http:// and port, e.g. lab.example.org")
    return name


def _serve(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.reading import read_bundle
    from stir_core.deploy.serving.guard import THIS_MACHINE, is_loopback
    from stir_core.deploy.serving.process import Server, bound
    from stir_core.deploy.serving.runtime import SteeredModel
    from stir_core.deploy.serving.service import KEY, build_app

    limits, key = asked(arguments, Limits), os.environ.get(KEY)
    if not 0 <= arguments.port < 65536:
        raise DeployError(f"--port is {arguments.port}: 1 to 65535, or 0 for any free one")
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        raise DeployError(f"{KEY} cannot be sent in a header: set it to a token of plain characters, or unset it")
    bundle = read_bundle(arguments.bundle)
    name = arguments.name or arguments.bundle.resolve().name
    own = f"[{arguments.host}]" if ":" in arguments.host else arguments.host.lower()
    hosts = None if arguments.allow_any_host else {*THIS_MACHINE, own, *(arguments.allow_host or ())}
    with bound(arguments.host, arguments.port) as listener:  # before the model is loaded, which takes longest
        if key is None and not is_loopback(listener.getsockname()[0]):
            raise DeployError(
                f"--host {arguments.host} lets other machines in: set {KEY} to a token that requests must send, or drop --host"
            )
        steered = SteeredModel.load(bundle, arguments.model, device=arguments.device, check=arguments.check)
        app = build_app(steered, name, limits, key=key, hosts=hosts)
        listener.listen(256)
        where = f"http://{own}:{listener.getsockname()[1]}/v1"
        say(f'{where}  model "{name}", bundle {bundle.manifest.digest}, {"bearer token asked for" if key else "no token"}')
        Server(app, app.state.service.worker, limits).run(sockets=[listener])
