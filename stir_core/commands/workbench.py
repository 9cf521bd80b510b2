"""``stir workbench``: the pages in a browser, on this machine alone or shared behind a password."""

import argparse
import getpass
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

from stir_core.commands.console import Command, say
from stir_core.errors import DeployError


def add(command: Command) -> None:
    """Add ``stir workbench`` and its arguments."""
    bench = command("workbench", _workbench, "Serve the workbench on 127.0.0.1, or with --share to other machines behind a password.")
    bench.add_argument("--port", type=int, default=8501, help="port (default: 8501)")
    bench.add_argument(
        "--share",
        action="store_true",
        help="listen on every address, and ask for a password here (from a pipe: its first line) and on the pages",
    )
    bench.add_argument("streamlit", nargs="*", metavar="-- OPTIONS", help="further options of `streamlit run`")


def _workbench(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.port < 65536:
        raise DeployError(f"--port is {arguments.port}: give 1 to 65535")
    words = [sys.executable, "-m", "streamlit", "run", str(workbench_folder() / "app.py"), "--server.port", str(arguments.port)]
    environment = dict(os.environ)
    if arguments.share:
        from stir_core.deploy.serving.password import HASH, password_hash

        environment[HASH] = password_hash(_password())
        # any host name and no details of errors: what the config beside app.py allows is meant for this machine
        words += ["--server.address", "0.0.0.0", "--server.allowedHosts", "*", "--client.showErrorDetails", "type"]
        words += ["--browser.serverAddress", "localhost"]  # without it Streamlit asks a server in the internet for this one's address
        where = f"http://{socket.gethostname()}:{arguments.port}"
        say(f"{where} and all other addresses of this machine, over plain HTTP: on a foreign network use a proxy with TLS or ssh -L")
    words += arguments.streamlit
    if os.name == "posix":
        os.execve(words[0], words, environment)  # the server gets the signals and the terminal
    return subprocess.call(words, env=environment)


def workbench_folder() -> Path:
    """Folder of the installed package ``workbench``.

    Raises:
        DeployError: it is not installed here.
    """
    found = importlib.util.find_spec("workbench")
    if found is None or not found.submodule_search_locations:
        raise DeployError("the package workbench is not installed here: install stir-workbench, or start this from its folder")
    return Path(next(iter(found.submodule_search_locations)))


def _password() -> str:
    """A password from the terminal, typed twice, or the first line of standard input.

    Raises:
        DeployError: the two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password that the pages shall ask for: ")
    if getpass.getpass("The same again: ") != password:
        raise DeployError("the two passwords differ: give the command again")
    return password
