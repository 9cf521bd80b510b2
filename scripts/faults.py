"""Kills, full disks, second writers, damaged files and wrong clocks, over every command that writes: ``make faults``.

Each case works on a copy of a small folder. The command is disturbed, then given again, and what stands there is compared with an
undisturbed run: the same tokens, verdicts, picks and decisions; no whole line of finished work decoded again; one line of refusal and
exit code 2 where it refuses. ``QUICK=1`` takes fewer cases of each kind; ``--write`` puts the table into docs/reliability.md.

Every command runs in a fork of this process, which has imported what it needs, so that a case takes a second or two.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    NUMBA_NUM_THREADS="1",
    NUMBA_THREADING_LAYER="workqueue",
    TOKENIZERS_PARALLELISM="false",
    COLUMNS="200",
)

import numpy as np
from safetensors.numpy import load as tensors_of
from tabulate import tabulate

from stir_core.cli import main as stir
from stir_core.errors import StoreError
from stir_core.organisms import training
from stir_core.stages.pipeline import short_environment
from stir_core.store.files import OURS
from stir_core.store.seals import DIGESTS as DIGESTS_FILE

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by python -m scripts.faults --write -->", "<!-- end of faults -->"
RUN = """seed = 0
model.name = "organism:two_habits"
task = { name = "chain", n_train = 8, n_eval = 3 }
rollouts = { k = 6, max_new_tokens = 60 }
mining = { control_points = 4, layers = [1], stability_rolls = 1 }
basis.budget = 12
decode = { max_new_tokens = 60, batch_problems = 2 }
"""
SWEEP = 'base = "tiny.toml"\nn = 3\nobjective = "accuracy"\ngrid = { "gate.k_scale" = [0.5, 1.0] }\n'
SMALL = training.TrainingRecipe(d_model=16, layers=2, heads=2, steps=6, batch=4, checkpoint=2)
"""A training of seconds."""


class Command(NamedTuple):
    """A command that writes."""

    start: str
    """Folder that it starts from: ``empty``, ``run`` (a finished run), ``exported``, ``coded``, ``learned`` (gates), ``studied`` (with
    everything beside it)."""
    words: str
    check: str = ""
    """Command whose output is compared instead of the files."""
    resume: str = ""
    """What is given after a kill, if not the same words."""
    weight: float = 1.0
    """Share of the cases that other commands get; less for a slow one."""


COMMANDS = {
    "run": Command("empty", "run tiny.toml --out runs/x", weight=2),
    "run --redo": Command("run", "run tiny.toml --out runs/x --redo states", resume="run tiny.toml --out runs/x"),
    "eval": Command("run", "eval runs/x --n 4 --methods stir static"),
    "causal": Command("run", "causal runs/x --n 4 --states 4 --rolls 2"),
    "causal --study own": Command("run", "causal runs/x --study own --n 8 --states 4 --rolls 2"),
    "codebook": Command("run", "codebook runs/x --size 4"),
    "codebook --redo": Command("coded", "codebook runs/x --size 3 --redo", weight=0.5),
    "policy": Command("run", "policy runs/x --n 8 --further 2 --rollouts 1"),
    "curriculum": Command("learned", "curriculum runs/x --n 4", weight=0.5),
    "critical": Command("run", "critical runs/x --of vanilla --every 8 --rolls 2"),
    "sweep": Command("run", "sweep sweep.toml --run runs/x --out sw"),
    "curate": Command("run", "curate runs/x star p0000c", check="curate runs/x list"),
    "export": Command("run", "export runs/x --out bundle"),
    "export, again": Command("exported", "export runs/x --out bundle"),
    "certify, again": Command("certified", "certify bundle --run runs/x --target runtime --n 1"),
    "certify": Command("exported", "certify bundle --run runs/x --target runtime --n 2"),
    "calibrate": Command("empty", "calibrate two_habits --quick --n 8 --out cal", weight=0.2),
    "organism train": Command("empty", "organism train null --out organism"),
}
READERS = (
    "status runs/x --json",
    "verify runs/x",
    "show runs/x",
    "probe runs/x",
    "trace runs/x {problem} --json",
    "curate runs/x list",
    "estimate tiny.toml",
    "run tiny.toml --out runs/x",
    "eval runs/x --n 4 --methods stir static",
    "causal runs/x --n 4 --states 4 --rolls 2",
    "critical runs/x --of vanilla --every 8 --rolls 2",
    "codebook runs/x --size 4",
    "policy runs/x --n 8 --further 2 --rollouts 1",
    "compare runs/x runs/x --library codes",
    "export runs/x --out bundle2",
    "import bundle",
)
VOLATILE = {"seconds", "created", "environment", "git_revision", "at", "when", "measured", "command", "took"}
"""Fields of records that hold times, or how a command was typed."""
DIGESTS = {"files", "inputs", "basis", "before", "digest", "sha256", "library_sha256", "read_again", "umap"}
"""Fields that follow from last bits: digests of other files, rollouts that were read again, and UMAP's chaotic map."""
ROUNDED = {"features", "state", "candidate"}
"""Fields with what a learned gate sees of a state, which is kept to five decimals, and with the weights that are fitted to it."""
_STUDY = re.compile(r"/causal/[0-9a-f]{16}\.jsonl$")
"""Continuations of a calibration: the name is a digest of digests, which follow from last bits, too."""
APPENDED = {"study.jsonl", "rollouts.jsonl", "continuations.jsonl", "vanilla.jsonl", "steered.jsonl", "traces.jsonl", "rolls.jsonl"}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code, or minus the number of the signal."""
    out: str
    err: str
    seconds: float
    moments: int
    """Writes, flushes, renames and deletions in the case's folder."""
    appended: Counter[tuple[str, bytes]]
    """Whole lines of results that it appended; those that were there before it began were work done again."""

    @property
    def refused(self) -> bool:
        """One line on stderr with exit code 2."""
        return self.code == 2 and self.lines.count("\n") == 1

    @property
    def lines(self) -> str:
        """What it said on stderr besides its progress."""
        return "".join(line for line in self.err.splitlines(keepends=True) if line.startswith("stir") or "Traceback" in line)


FEW = 4
"""Cases of a command below which all its kills are at chosen moments, so that a short run does the same each time."""


class Row(Counter[str]):
    """Counts of one test."""

    COLUMNS = ("cases", "lost", "repeated", "stuck", "different", "tracebacks", "last bits")


# -- running and killing ---------------------------------------------------------------------------------------------------


def execute(words: str, folder: Path, *, before: Callable[[], "Moments | None"] = lambda: None, kill_after: float | None = None) -> Ended:
    """Run one command in a fork, in ``folder``."""
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        began = time.monotonic()
        if (child := os.fork()) == 0:
            _child(words, folder, [file.fileno() for file in said], before)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.005)
            if kill_after is not None and time.monotonic() - began > kill_after:
                os.kill(child, signal.SIGKILL)
                kill_after = None
        took = time.monotonic() - began
        for file in said:
            file.seek(0)
        out, err, moments = (file.read().decode("utf-8", "replace") for file in said)
    count, appended = json.loads(moments or "[0, []]")
    lines = Counter((name, line.encode()) for name, line in appended)
    return Ended(os.waitstatus_to_exitcode(ended[1]), out, err, took, count, lines)


def _child(words: str, folder: Path, said: list[int], before: Callable[[], "Moments | None"]) -> NoReturn:
    code = 70
    try:
        os.chdir(folder)
        os.dup2(said[0], 1)
        os.dup2(said[1], 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
        moments = before()
        sys.argv = ["stir", *words.split()]
        code = stir(words.split())
        with os.fdopen(said[2], "w", closefd=False) as file:
            json.dump([moments.count, moments.appended] if moments else [0, []], file)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Moments:
    """Counts what changes files below a folder, and kills its process at one of them.

    Args:
        at: number of the moment; ``None``: only count.
        how: ``"before"`` or ``"after"`` it, or ``"torn"``: what is about to be flushed is only partly written.
    """

    def __init__(self, folder: Path, at: int | None, how: str, cut: float) -> None:
        self.count, self._folder, self._at, self._how, self._cut = 0, str(folder), at, how, cut
        self.appended: list[tuple[str, str]] = []
        self._sizes = {str(file): file.stat().st_size for file in folder.rglob("*.jsonl")}
        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **words: Any) -> Any:
            place = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else os.path.abspath(os.fspath(args[0]))
            if not place.startswith(self._folder) and words.get("dir_fd") is None:
                return real(*args, **words)
            self.count += 1
            if name == "fsync" and place.endswith(".jsonl"):
                self._note(Path(place))
            if name in ("replace", "rename", "unlink"):  # what is written there next is new
                self._sizes = {file: size for file, size in self._sizes.items() if not f"{file}/".startswith(f"{place}/")}
            if self.count != self._at:
                return real(*args, **words)
            if self._how == "torn" and name == "fsync" and os.path.isfile(place):
                _tear(place, self._cut)
            elif self._how != "before":
                with contextlib.suppress(OSError):  # as for a file that is deleted if it is there
                    real(*args, **words)
            os.kill(os.getpid(), signal.SIGKILL)

        return call

    def _note(self, file: Path) -> None:
        data = file.read_bytes()
        new = data[data.rfind(b"\n", 0, self._sizes.get(str(file), 0)) + 1 :]  # a torn line was cut off first
        self._sizes[str(file)] = len(data)
        for name, line in whole_lines({file.relative_to(self._folder).as_posix(): new}):
            self.appended.append((name, line.decode()))


def _tear(place: str, cut: float) -> None:
    """Cut a file short: one of ours anywhere, an appended one in its last line."""
    data = Path(place).read_bytes()
    start = 0 if place.endswith(OURS) else data[:-1].rfind(b"\n") + 1
    os.truncate(place, start + int(cut * (len(data) - start)))


# -- comparing -------------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by path, without locks and the log of times."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        _STUDY.sub("/causal/study.jsonl", file.relative_to(folder).as_posix()): file.read_bytes()
        for file in files
        if not file.name.endswith(".lock") and ".writer.json" not in file.name and file.name != "log.jsonl"
    }


def differences(expected: dict[str, bytes], seen: dict[str, bytes]) -> tuple[list[str], list[str]]:
    """Files whose contents differ; and those that only differ in their last bits, their order, or in digests of such files."""
    different, bits = [], []
    for name in sorted(set(expected) | set(seen)):
        if name not in seen or name not in expected:
            different.append(f"{name} is {'missing' if name in expected else 'new'}")
            continue
        a, b = (_content(name, files[name]) for files in (expected, seen))
        if not _alike(a, b, exact=True):
            if Path(name).name in APPENDED:  # results stand in the order in which they arrived
                a, b = sorted(a, key=_named), sorted(b, key=_named)
            (bits if _alike(a, b, exact=False) else different).append(name)
    return different, bits


def _named(record: dict[str, Any]) -> str:
    """What a result is of, for sorting: its fields without times and numbers with last bits."""
    return json.dumps({key: value for key, value in record.items() if key not in VOLATILE and not isinstance(value, float)}, sort_keys=True)


def _content(name: str, data: bytes) -> Any:
    """What a file says. Texts and tables that are written from records count only in that they are there."""
    if name.endswith(".safetensors"):
        return tensors_of(data)
    if name.endswith(DIGESTS_FILE):  # of files that hold times; the files themselves are compared
        return sorted(json.loads(data)["files"])
    if name.endswith("sweep.json"):  # how much of each point was decoded by this call, and how much was there
        return [re.sub(rb'"(?:reused|decoded)": \d+', b"", data)]
    if name.endswith((".json", ".jsonl")):
        return [json.loads(line) for line in (data.decode().splitlines() if name.endswith(".jsonl") else [data.decode()])]
    return None if name.endswith((".md", ".parquet")) else data


def _alike(a: Any, b: Any, *, exact: bool, rounded: bool = False) -> bool:
    """Equal but for times; without ``exact``, also but for digests, the last bits of numbers, and the map that UMAP makes of these.

    Args:
        rounded: the numbers were rounded to five decimals, so that a last bit may be worth one there.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        left_out = VOLATILE if exact else VOLATILE | DIGESTS
        return a.keys() == b.keys() and all(
            key in left_out or _alike(a[key], b[key], exact=exact, rounded=rounded or key in ROUNDED) for key in a
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(*each, exact=exact, rounded=rounded) for each in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and (np.array_equal(a, b) if exact else np.allclose(a, b, rtol=1e-4, atol=1e-5))
    if isinstance(a, float) and isinstance(b, float) and not exact:
        return bool(np.isclose(a, b, rtol=1e-4, atol=5e-5 if rounded else 1e-5))
    return a == b


def whole_lines(files: dict[str, bytes]) -> Counter[tuple[str, bytes]]:
    """Results that were finished when a command was killed: the whole lines of files that are appended to."""
    return Counter(
        (name.replace(".part/", "/"), line)
        for name, data in files.items()
        if Path(name).name in APPENDED or "/answers/" in name
        for line in data[: data.rfind(b"\n") + 1].splitlines()
    )


# -- the tests -------------------------------------------------------------------------------------------------------------


class Bench:
    """The folders that cases start from, and what every command makes of them undisturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self._numbers = folder, np.random.default_rng(seed), itertools.count()
        self._after: dict[str, tuple[Ended, dict[str, bytes], str]] = {}
        empty = folder / "empty"
        empty.mkdir()
        (empty / "tiny.toml").write_text(RUN)
        (empty / "sweep.toml").write_text(SWEEP)
        training.TrainingRecipe = lambda: SMALL  # pyright: ignore[reportAttributeAccessIssue]
        with contextlib.chdir(self.start("empty")), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            stir(COMMANDS["run"].words.split())  # here, so that forks find everything imported and compiled
        self._make("run", "empty", "run")
        self._make("exported", "run", "export")
        self._make("certified", "exported", "certify")
        self._make("coded", "run", "codebook")
        self._make("learned", "run", "policy")
        self._make("studied", "exported", "eval", "causal", "codebook", "policy", "critical", "curate")

    def _make(self, name: str, start: str, *commands: str) -> None:
        place = shutil.copytree(self.folder / start, self.folder / name)
        for command in commands:
            ended = execute(COMMANDS[command].words, place)
            assert ended.code == 0, ended

    def start(self, name: str, place: Path | None = None) -> Path:
        """A copy of a start folder."""
        return shutil.copytree(self.folder / name, place or self.folder / f"case-{next(self._numbers)}", dirs_exist_ok=place is not None)

    def undisturbed(self, name: str) -> tuple[Ended, dict[str, bytes], str]:
        """How a command ends when nothing disturbs it, the files after it, and the output of its check. Made twice, and compared."""
        if name not in self._after:
            made = []
            for _ in range(2):
                place = self.start(COMMANDS[name].start)
                ended = execute(COMMANDS[name].words, place, before=lambda place=place: Moments(place, None, "", 0))
                made.append((ended, tree(place), self.checked(name, place)))
                shutil.rmtree(place)
            different, _ = differences(made[0][1], made[1][1])  # last bits depend on which rows share a pass
            assert made[0][0].code in (0, 1) and not different, (name, different, made[0][0].err[-400:])
            self._after[name] = made[0]
        return self._after[name]

    def checked(self, name: str, place: Path) -> str:
        """The output of a command's check."""
        return execute(COMMANDS[name].check, place).out if COMMANDS[name].check else ""

    def judge(self, row: Row, name: str, place: Path, ended: Ended, kept: Counter[tuple[str, bytes]], why: str) -> None:
        """Compare what stands in ``place`` after the command was given again with what an undisturbed one makes."""
        expected, files, check = self.undisturbed(name)
        seen = tree(place)
        row["cases"] += 1
        row["tracebacks"] += "Traceback" in ended.err
        stuck = ended.code != expected.code
        different, bits = ([], []) if stuck else differences(files, seen)
        if COMMANDS[name].check and not stuck:
            different = [] if self.checked(name, place) == check else [COMMANDS[name].check]
        lost = [] if "--redo" in name else list(((kept - whole_lines(seen)) | (kept & ended.appended)).elements())
        repeated = sum((whole_lines(seen) - Counter(set(whole_lines(seen)))).values()) if not stuck else 0
        row["stuck"] += stuck
        row["different"] += bool(different)
        row["last bits"] += bool(bits) and not different
        row["lost"] += len(lost)
        row["repeated"] += repeated
        if stuck or different or lost or repeated or "Traceback" in ended.err:
            lines = [f"{name}, {why}: code {ended.code}", ended.lines.strip()[-400:], f"differ: {different[:6]}"]
            print(
                "  BAD", *lines, f"lost: {[(where, line[:80]) for where, line in lost[:3]]}", f"kept in {place}", sep="\n      ", flush=True
            )
        else:
            shutil.rmtree(place)


def kills(bench: Bench, row: Row, name: str, count: int) -> None:
    """Kill a command at chosen moments, evenly over all of them, and as often at random times; some twice in a row."""
    command, (whole, _, _) = COMMANDS[name], bench.undisturbed(name)
    chosen = np.unique(np.linspace(1, whole.moments, max(2, count // 2) + 2).round().astype(int))[1:-1].tolist()
    for number in range(count):
        place, why, kept = bench.start(command.start), [], Counter[tuple[str, bytes]]()
        for again in range(2 if number % 7 == 6 else 1):
            if number % 2 == 0 or count < FEW:
                at = (
                    int(chosen[(number if count < FEW else number // 2) % len(chosen)])
                    if not again
                    else int(bench.rng.integers(1, whole.moments + 1))
                )
                how, cut = ("before", "torn", "after")[int(bench.rng.integers(3))], float(bench.rng.random())
                why.append(f"{how} moment {at} of {whole.moments}")
                ended = execute(command.words, place, before=lambda at=at, how=how, cut=cut, place=place: Moments(place, at, how, cut))
            else:
                delay = float(bench.rng.random()) * whole.seconds
                why.append(f"after {delay:.2f} of {whole.seconds:.2f} s")
                ended = execute(command.words, place, kill_after=delay)
            row["tracebacks"] += "Traceback" in ended.err
            kept |= whole_lines(tree(place))
        then = execute(command.resume or command.words, place, before=lambda place=place: Moments(place, None, "", 0))
        bench.judge(row, name, place, then, kept, "killed " + " and ".join(why))


def second_writers(bench: Bench, row: Row, name: str, count: int) -> None:
    """The same command twice at one time: one writes, the other is refused in one line or does it after the first."""
    for _ in range(count):
        place, begin = bench.start(COMMANDS[name].start), time.time() + 0.2

        def wait(begin: float = begin) -> None:
            time.sleep(max(0.0, begin - time.time()))

        read, write = os.pipe()
        if (other := os.fork()) == 0:
            ended = execute(COMMANDS[name].words, place, before=wait)
            os.write(write, json.dumps([ended.code, ended.lines, "Traceback" in ended.err]).encode())
            os._exit(0)
        first = execute(COMMANDS[name].words, place, before=wait)
        os.waitpid(other, 0)
        code, lines, broke = json.loads(os.read(read, 1 << 16))
        os.close(read)
        os.close(write)
        row["tracebacks"] += broke
        done = first if first.code != 2 else first._replace(code=code)
        for each, said in ((first.code, first.lines), (code, lines)):
            row["stuck"] += each not in (done.code, 2) or (each == 2 and said.count("\n") != 1)
        bench.judge(row, name, place, done, Counter(), f"two writers: {first.code} and {code}: {lines.strip()[-200:]}")


def disks(bench: Bench, row: Row, name: str, count: int) -> None:
    """A disk that fills up, and one that is read-only: one line, and the same command goes on when there is room."""
    _, files, _ = bench.undisturbed(name)
    made = max(8, sum(map(len, files.values())) - sum(map(len, tree(bench.folder / COMMANDS[name].start).values()))) // 1024
    for room in [*(int(each) for each in np.linspace(0, made, count, endpoint=False)), None]:
        place = bench.folder / "disk"
        place.mkdir(exist_ok=True)
        _mount("-t", "tmpfs", "-o", "size=256m", "tmpfs", str(place))
        try:
            bench.start(COMMANDS[name].start, place)
            used = shutil.disk_usage(place).used // 1024
            _mount("-o", "remount,ro" if room is None else f"remount,size={used + room + 4}k", str(place))
            first = execute(COMMANDS[name].words, place)
            _mount("-o", "remount,rw,size=256m", str(place))
            row["tracebacks"] += "Traceback" in first.err
            fine = first.refused or (room is not None and first.code == bench.undisturbed(name)[0].code)
            row["stuck"] += not fine
            if not fine:
                print(f"  BAD {name} on a disk with room for {room} kB: code {first.code}\n{first.err[-600:]}", flush=True)
            kept = whole_lines(tree(place))
            then = execute(COMMANDS[name].words, place)
            copy = shutil.copytree(place, bench.folder / f"case-{next(bench._numbers)}")
            bench.judge(row, name, copy, then, kept, f"room for {room} kB")
        finally:
            subprocess.run(["umount", str(place)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def clocks(bench: Bench, row: Row, name: str, count: int) -> None:
    """A command that is killed while the clock is years ahead, and given again when it is years behind."""
    for _ in range(count):
        place, (whole, _, _) = bench.start(COMMANDS[name].start), bench.undisturbed(name)
        at = int(bench.rng.integers(1, whole.moments + 1))

        def ahead(place: Path = place, at: int = at) -> Moments:
            _shift(9e7)
            return Moments(place, at, "after", 0)

        execute(COMMANDS[name].words, place, before=ahead)
        for file in place.rglob("*"):
            os.utime(file, (2e9, 2e9))
        kept = whole_lines(tree(place))
        bench.judge(row, name, place, execute(COMMANDS[name].words, place, before=lambda: _shift(-9e7)), kept, f"clock, moment {at}")


def _shift(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds


def damage(bench: Bench, row: Row, count: int) -> None:
    """A file of a finished run, its studies or its bundle is cut, changed, emptied or deleted, and read by every command.

    It has to be refused in one line, or named by ``verify``, or give what the whole file gives: since it is not read, or made again.
    """
    whole = bench.folder / "studied"
    problem = json.loads((whole / "runs/x/steered/problems.jsonl").read_text().splitlines()[0])["id"]
    readers = [words.format(problem=problem) for words in READERS]
    right = {}
    for words in readers:
        place = bench.start("studied")
        ended = execute(words, place)
        assert ended.code == 0, (words, ended)
        right[words] = (ended, tree(place))
        shutil.rmtree(place)
    files = [name for name in tree(whole) if name.startswith(("runs/", "bundle/"))]
    cases = [(words, name, how) for words in readers for name in files for how in ("cut", "flipped", "emptied", "deleted")]
    for index in bench.rng.permutation(len(cases))[:count].tolist():
        words, name, how = cases[index]
        place = bench.start("studied")
        file = place / name
        data = file.read_bytes()
        middle = len(data) // 2
        if how == "deleted":
            file.unlink()
        else:
            flipped = data[:middle] + bytes([data[middle] ^ 1 if data else 0]) + data[middle + 1 :]
            file.write_bytes({"cut": data[:middle], "flipped": flipped, "emptied": b""}[how])
        ended = execute(words, place)
        row["cases"] += 1
        row["tracebacks"] += "Traceback" in ended.err
        expected, after = right[words]
        named = words.startswith(("verify", "status", "estimate")) and (
            ended.code in (1, 2) or name in ended.out or "left out: " in ended.out or how == "deleted"
        )
        same = ended.code == 0 and _said(ended.out) == _said(expected.out)
        left = {key: value for key, value in tree(place).items() if key != name}
        untouched = not differences({key: value for key, value in after.items() if key != name}, left)[0]
        unfinished = how == "deleted" and name.endswith("manifest.json") and "has not finished" in ended.err
        fine = ended.refused or named or unfinished or (same and untouched)
        row["different"] += not fine and ended.code == 0
        row["stuck"] += not fine and ended.code != 0
        if not fine or "Traceback" in ended.err:
            print(f"  BAD {words} with {name} {how}: code {ended.code}\n      {ended.err[-500:]}\n      {ended.out[-300:]}", flush=True)
        shutil.rmtree(place)


def _said(out: str) -> str:
    """Output without times and rates."""
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]\d+)? ?(?:s|seconds|tokens/s|h|min)\b|\"(?:seconds|rate)\": [\d.e+-]+", "", out)


def servers(bench: Bench, row: Row, count: int) -> None:
    """Two servers start a job at one instant: each started job is in the record, and not more than one runs."""
    from workbench.jobs import JobStore

    for _ in range(count):
        place, begin = bench.start("empty"), time.time() + 0.3
        children = []
        for _ in range(2):
            if (child := os.fork()) == 0:
                time.sleep(max(0.0, begin - time.time()))
                try:
                    JobStore(place / "runs", program=(sys.executable, "-c", "import time; time.sleep(3)")).start("x", ["run"])
                    os._exit(0)
                except StoreError:
                    os._exit(2)
                except BaseException:
                    traceback.print_exc()
                    os._exit(70)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        jobs, broken = JobStore(place / "runs").all()
        row["cases"] += 1
        row["tracebacks"] += 70 in codes
        row["different"] += len(jobs) != codes.count(0) or bool(broken) or codes.count(0) != 1
        for each in jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.job.pid, signal.SIGKILL)
        shutil.rmtree(place)


def measured(folder: Path, seed: int, *, quick: bool, only: list[str]) -> dict[str, Row]:
    """All tests, by name."""
    bench, rows = Bench(folder, seed), {}
    per_command = {kills: (24, 2), second_writers: (2, 1), disks: (4, 1), clocks: (3, 1)}
    titles = {kills: "killed", second_writers: "two writers", disks: "disk full or read-only", clocks: "clock shifted"}
    for test, (full, few) in per_command.items():
        row = rows[titles[test]] = Row()
        if test is disks and os.environ.get("STIR_FAULTS_INSIDE") != "1":
            continue
        for name, command in COMMANDS.items():
            if (only and name not in only) or (quick and command.weight < 1):
                continue
            count = max(1, round((few if quick else full) * command.weight))
            began, before = time.monotonic(), row.copy()
            test(bench, row, name, count)
            print(f"{titles[test]}: {name}: {row['cases'] - before['cases']} cases, {time.monotonic() - began:.0f} s", flush=True)
    if not only:
        damage(bench, rows.setdefault("a damaged file", Row()), 25 if quick else 600)
        servers(bench, rows.setdefault("two servers start a job", Row()), 2 if quick else 20)
    return rows


def _with_own_mounts() -> None:
    """Start this program again in a mount namespace of its own, where it may mount disks without being root."""
    if os.environ.get("STIR_FAULTS_INSIDE") != "1":
        words = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        with tempfile.TemporaryDirectory() as folder:
            tried = [*words, "mount", "-t", "tmpfs", "tmpfs", folder]
            if shutil.which("unshare") is None or subprocess.run(tried, capture_output=True).returncode:
                print("no disk can be mounted here: full and read-only disks are not run", flush=True)
                return
        os.execvpe("unshare", [*words, sys.executable, "-m", "scripts.faults", *sys.argv[1:]], os.environ | {"STIR_FAULTS_INSIDE": "1"})


def main() -> int:
    """Run the tests and print their table; exit code 1 if anything was lost, repeated, stuck or different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--only", nargs="*", default=[], help="these commands only, by name")
    options = parser.parse_args()
    _with_own_mounts()
    quick, began = os.environ.get("QUICK") == "1", time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stir-faults-") as folder:
        rows = measured(Path(folder).resolve(), options.seed, quick=quick, only=options.only)
        bad = any(row[column] for row in rows.values() for column in Row.COLUMNS[1:-1])
        if bad:
            shutil.copytree(folder, f"{folder}-kept")
    lines = [[name, *(row[column] if row["cases"] else "not run" for column in Row.COLUMNS)] for name, row in rows.items()]
    table = tabulate(lines, ["test", *Row.COLUMNS], "github")
    commit = short_environment()["revision"]
    print(table, f"\n{time.monotonic() - began:.0f} s, seed {options.seed}, commit {commit}")
    if options.write:
        page = PAGE.read_text("utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        made = f"`make faults` at commit {commit}, {time.strftime('%-d %B %Y')}, seed {options.seed}:"
        PAGE.write_text(f"{page[:start]}\n{made}\n\n{table}\n{page[end:]}", "utf-8")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
