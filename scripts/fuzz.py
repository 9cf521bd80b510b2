"""Every parser of what comes from outside, on inputs that nobody would write: ``python -m scripts.fuzz [--inputs N] [--guided SECONDS]``.

Texts are grown from pieces of each format; files are real ones with bytes or values changed. A parser may return or refuse
(``errors.FAULTS``); anything else is an *escape*, and more than two seconds a *hang*. Hypothesis draws the inputs and shrinks what it
finds; with ``--guided``, the parsers of text are also driven by coverage with atheris, if it is installed.
"""

import argparse
import contextlib
import copy
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1")

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tabulate import tabulate

from stir_core.commands.overrides import overridden
from stir_core.config import RunConfig, config_from
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.serving.protocol import parse
from stir_core.deploy.targets.published import read_published
from stir_core.errors import FAULTS, DataError
from stir_core.evaluate import codes
from stir_core.evaluate.decoders.registry import method
from stir_core.findings import CodebookReport, LoggedDecision, PolicyReport
from stir_core.organisms.rungs import read_steps
from stir_core.records import Entry, PolicyWeights, Record, Rollout, StepState, Trace
from stir_core.store.causal import CausalFolder
from stir_core.store.configs import read_config
from stir_core.store.curation import Curation
from stir_core.store.evaluations import evaluations
from stir_core.store.jsonl import read_appended, read_record, read_records
from stir_core.store.progress import read_progress
from stir_core.store.runs import Run, list_runs
from stir_core.store.seals import read_seal
from stir_core.store.tensors import read_tensors
from stir_core.store.verify import verify_run
from stir_core.tasks.benchmarks import read_benchmark
from stir_core.tasks.catalogue import SOURCES
from stir_core.tasks.chain import Chain
from stir_core.tasks.extract import extract
from stir_core.tasks.latex import based_number, normalise, other_unit, plain_number
from stir_core.tasks.segment import boundaries, count_steps, split_steps
from stir_core.tasks.structure import same_answer
from stir_core.tasks.thinking import TAGS, ThinkingStream, split_thinking, tags_like

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 2
"""Seconds of processor time after which a parser hangs."""
MEMORY = 12 << 30
"""Bytes of address space, so that an input cannot take the machine's memory."""
CHUNK = 1000
"""Inputs of one call of hypothesis."""

PIECES = [
    *(
        "\\boxed{",
        "\\frac{",
        "\\frac",
        "\\sqrt{",
        "\\text{",
        "\\mathrm{",
        "\\left(",
        "\\right]",
        "\\{",
        "\\}",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
    ),
    *(
        "\\cup",
        "\\pm",
        "\\le",
        "\\in",
        "\\infty",
        "\\mathbb{R}",
        "\\land",
        "\\overline{",
        "\\Omega",
        "\\mu",
        "^",
        "^{",
        "_",
        "_{",
        "|",
        "\\|",
    ),
    *(
        "$",
        "\\(",
        "\\)",
        "####",
        "The answer is",
        "<answer>",
        "Answer:",
        " or ",
        " and ",
        " base ",
        "half",
        "million",
        "negative",
        "times as",
    ),
    *(
        "=",
        "<",
        ">",
        "≤",
        "x",
        "pi",
        "i",
        "e",
        "!",
        "%",
        "°",
        "€",
        "½",
        "²",
        "₅",
        "∈",
        "ℝ",
        "km/h",
        "cm",
        "0",
        "1",
        "12",
        "1,000",
        "3.5",
        "-",
        "/",
    ),
    *(
        "...",
        "\n",
        "\n\n",
        " ",
        ".",
        ",",
        ";",
        "\\",
        "\\\\",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "\u202e",
        "A",
        "(B)",
        "yes",
        "#",
        "9" * 40,
        "1e999",
    ),
    *(tag for pair in TAGS for tag in pair),
    *("so let me see", "well", "plus", "minus", "gives", "makes", "start with", "17", "add"),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(PIECES)
    | st.sampled_from([10**400, -1, "", "../..", "a/b", {}, []]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*PIECES, "name", "question", "answer", "solution"]), inner, max_size=3)
    ),
    max_leaves=8,
)


class Parser(NamedTuple):
    """One parser and what it is fed."""

    call: Callable[[Any], object]
    inputs: SearchStrategy[Any]
    text: bool = False
    """Whether it takes any text, and so can be driven by coverage."""


class Escape(Exception):
    """A parser ended in something else than a refusal."""


class Hang(BaseException):
    """A parser took more than :data:`LIMIT_S`."""


def changed(data: bytes) -> SearchStrategy[bytes]:
    """The bytes with a few places cut, replaced, repeated or deleted."""
    place = st.floats(0, 1, exclude_max=True)
    edit = st.tuples(
        st.sampled_from(["cut", "replace", "insert", "delete", "repeat"]),
        place,
        st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"[" * 5000]),
    )

    def apply(edits: list[tuple[str, float, bytes]]) -> bytes:
        out = data
        for how, where, blob in edits:
            i = int(where * len(out))
            j = i + len(blob)
            out = {
                "cut": out[:i],
                "replace": out[:i] + blob + out[j:],
                "insert": out[:i] + blob + out[i:],
                "delete": out[:i] + out[j:],
                "repeat": out[:j] + out[i:],
            }[how]
        return out

    return st.lists(edit, max_size=4).map(apply)


def changed_json(data: bytes, *, values_only: bool = False) -> SearchStrategy[bytes]:
    """A JSON text, or the first line of a JSON-lines file, with some of its values replaced, or its bytes changed."""
    line, _, rest = data.partition(b"\n") if not data.startswith(b"{\n") else (data, b"", b"")
    whole = json.loads(line)

    def apply(edits: list[tuple[list[int], Any]]) -> bytes:
        out = copy.deepcopy(whole)
        for path, value in edits:
            place, key = out, None
            for number in path:
                keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
                if not keys:
                    break
                parent, key = place, keys[number % len(keys)]
                place = place[key]
            if key is not None:
                parent[key] = value
        return json.dumps(out).encode("utf-8", "surrogatepass") + b"\n" + rest

    edit = st.tuples(st.lists(st.integers(0, 40), min_size=1, max_size=5), values)
    in_values = st.lists(edit, min_size=1, max_size=3).map(apply)
    return in_values if values_only else in_values | changed(data)


def parsers(folder: Path) -> dict[str, Parser]:
    """All parsers by name; files are written below ``folder``."""
    run = Path(shutil.copytree(Run.open("two_habits").path, folder / "runs" / "x"))
    bundle = folder / "bundle"
    published = folder / "published"
    from stir_core.cli import main as stir

    codes.SIZES, codes.EXCHANGES = (4,), 2  # any codebook is one to be changed
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        stir(["curate", str(run), "star", "p0000c"])
        for words in (["codebook", str(run), "--size", "4"], ["policy", str(run), *["--n", "8", "--further", "2", "--rollouts", "1"]]):
            if stir(words):
                raise DataError(f"what `stir {words[0]}` makes could not be made, so it cannot be changed")
        for target, place in (("bundle", bundle), ("published", published)):
            if stir(["export", str(run), "--to", target, "--out", str(place)]):
                raise DataError(f"the {target} to be changed could not be exported")

    def file(path: Path, read: Callable[[], object], *, json_values: bool = False) -> Parser:
        """A reader of one file, which is changed, and put back."""
        whole = path.read_bytes()

        def call(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read()
            finally:
                path.write_bytes(whole)

        return Parser(call, (changed_json if json_values else changed)(whole))

    def listed() -> None:
        list_runs(folder / "runs")
        verify_run(Run.open(run))

    def split(text: str) -> None:
        split_thinking(text)
        for tags in TAGS:
            stream = ThinkingStream(tags_like(*tags))
            for sign in text:
                stream.push(sign)
            stream.push("", last=True)

    def steps(text: str) -> None:
        assert "".join(split_steps(text)) == text
        count_steps(text)
        ids = list(text.encode("utf-8", "surrogatepass"))
        boundaries(ids, lambda some: bytes(some).decode("utf-8", "replace"))
        read_steps(Chain("add", (17, 3, 2)), split_steps(text))

    def compare(texts: tuple[str, str]) -> None:
        gold, answer = (normalise(text) for text in texts)
        other_unit(*texts)
        for text in (gold, answer):
            plain_number(text)
            based_number(text)
        same_answer(gold, answer, lambda a, b: False)

    def grade(text: str) -> None:
        for kind in ("number", "math", "choice", "yesno"):
            extract(kind, text, ("one", "two"))

    def benchmark(pair: tuple[str, bytes]) -> None:
        (path := folder / SOURCES[pair[0]]["test"].file).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair[1])
        read_benchmark.cache_clear()
        read_benchmark(pair[0], "test", str(folder))

    def toml(data: bytes) -> None:
        (folder / "c.toml").write_bytes(data)
        read_config(folder / "c.toml")

    records: dict[str, type[Record]] = {
        "rollouts/rollouts.jsonl": Rollout,
        "steered/steered.jsonl": Trace,
        "actions/entries.jsonl": Entry,
        "steps/steps.jsonl": StepState,
        "policy/decisions.jsonl": LoggedDecision,
        "policy/weights.jsonl": PolicyWeights,
    }
    reports: dict[str, type[Record]] = {"codes/report.json": CodebookReport, "policy/report.json": PolicyReport}
    names = st.sampled_from([name for name, splits in SOURCES.items() if "test" in splits])
    fields = st.sampled_from(
        [
            "question",
            "answer",
            "solution",
            "level",
            "type",
            "Body",
            "Question",
            "Answer",
            "Equation",
            "choices",
            "answerKey",
            "id",
            "problem",
            "facts",
        ]
    )
    row = st.dictionaries(fields, values, max_size=6)
    chat = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "q"}], "stop": ["a"], "temperature": 0.5, "stream": True}
    ).encode()
    config = RunConfig().model_dump(mode="json")
    found: dict[str, Parser] = {
        "answers": Parser(grade, texts, text=True),
        "answer against gold": Parser(compare, st.tuples(texts, texts)),
        "thinking": Parser(split, texts, text=True),
        "steps": Parser(steps, texts, text=True),
        "benchmark file": Parser(
            benchmark,
            st.tuples(
                names, row.map(lambda each: json.dumps(each).encode()) | row.flatmap(lambda each: changed(json.dumps(each).encode()))
            ),
        ),
        "config values": Parser(lambda data: config_from(json.loads(data)), changed_json(json.dumps(config).encode(), values_only=True)),
        "config file": Parser(toml, changed((ROOT / "configs" / "demo.toml").read_bytes())),
        "--set": Parser(
            lambda text: overridden(RunConfig(), [text]),
            texts | st.tuples(st.sampled_from(["gate.rho=", "model.template_args.a="]), texts).map("".join),
            text=True,
        ),
        "method": Parser(method, texts | st.tuples(st.sampled_from(["stir:", "static:", "stir:library="]), texts).map("".join), text=True),
        "chat request": Parser(parse, changed_json(chat)),
        "run.json": file(run / "run.json", listed, json_values=True),
        "stage manifest": file(run / "actions" / "manifest.json", listed, json_values=True),
        "curation": file(run.parent / "x" / "curation" / "edits.jsonl", lambda: Curation.open(Run.open(run)), json_values=True),
        "evaluation report": file(
            next((run / "evaluation").glob("*/report.json")),
            lambda: [each.report() for each in evaluations(Run.open(run))],
            json_values=True,
        ),
        "causal report": file(run / "causal" / "report.json", lambda: CausalFolder(Run.open(run)).report(), json_values=True),
        "seal": file(run / "causal" / "digests.json", lambda: read_seal(run / "causal" / "digests.json"), json_values=True),
        "tensors": file(run / "basis" / "map.safetensors", lambda: read_tensors(run / "basis" / "map.safetensors")),
    }
    for name, kind in records.items():
        path = folder / Path(name).name
        lines = (run / name).read_bytes().splitlines(keepends=True)[:2]
        path.write_bytes(b"".join(lines))
        found[Path(name).stem if Path(name).stem not in found else name] = file(
            path, lambda path=path, kind=kind: (read_appended(path, kind), read_records(path, kind)), json_values=True
        )
    for name, kind in reports.items():  # copies: the digests beside the originals would refuse every change
        path = Path(shutil.copyfile(run / name, folder / name.replace("/", "-")))
        found[name] = file(path, lambda path=path, kind=kind: read_record(path, kind, "make it again"), json_values=True)
    progress = folder / "progress.jsonl"
    progress.write_text('{"at": 1.0, "stage": "rollouts", "done": 1, "total": 2, "unit": "rollouts"}\n')
    found["progress"] = file(progress, lambda: read_progress(progress), json_values=True)
    for each in sorted(bundle.iterdir()):
        if each.suffix in (".json", ".parquet", ".safetensors"):
            found[f"bundle, {each.name}"] = file(each, lambda: read_bundle(bundle), json_values=each.suffix == ".json")
    for pattern in ("**/keys.npy", "**/entries.jsonl", "**/*.pt"):
        each = min(published.glob(pattern))
        found[f"published, {each.name if pattern[-2:] != 'pt' else 'vector.pt'}"] = file(
            each, lambda: read_published(published), json_values=each.suffix == ".jsonl"
        )
    return found


def tried(parser: Parser, drawn: Any) -> None:
    """One input, as drawn: refused or taken, in time.

    Raises:
        Escape: something else.
        Hang: it took too long.
    """
    try:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        parser.call(drawn)
    except FAULTS:
        pass
    except Hang:
        raise
    except BaseException as error:
        raise Escape(f"{type(error).__name__}: {str(error)[:200]}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _late(number: int, frame: object) -> None:
    raise Hang(f"more than {LIMIT_S} s")


def fuzzed(parser: Parser, inputs: int, first_seed: int) -> tuple[int, list[str]]:
    """Feed a parser; the number of inputs, and a line for each escape or hang, with the smallest input."""
    count, found = 0, []
    chunks = -(-inputs // CHUNK)
    for number in range(chunks):

        @seed(first_seed + number)
        @settings(
            max_examples=min(CHUNK, inputs),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
        )
        @given(parser.inputs)
        def run(drawn: Any) -> None:
            nonlocal count, last
            count, last = count + 1, drawn
            tried(parser, drawn)

        last: Any = None
        try:
            run()
        except (Escape, Hang) as error:
            found.append(f"{type(error).__name__} {error} on {last!r:.400}")
            break  # the next chunks would find the same
    return count, found


def guided(parser: Parser, seconds: float) -> tuple[int, list[str]]:
    """Drive a parser of text by coverage, in a fork of this process, which atheris ends."""
    atheris: Any = importlib.import_module("atheris")

    read, write = os.pipe()
    if (child := os.fork()) == 0:
        count, began = 0, time.monotonic()

        def one(data: bytes) -> None:
            nonlocal count
            count += 1
            if time.monotonic() - began > seconds:
                os.write(write, json.dumps([count, []]).encode())
                os._exit(0)
            text = atheris.FuzzedDataProvider(data).ConsumeUnicode(400)
            try:
                tried(parser, text)
            except (Escape, Hang) as error:
                os.write(write, json.dumps([count, [f"{type(error).__name__} {error} on {text!r:.400}"]]).encode())
                os._exit(0)

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        atheris.Setup([sys.argv[0], "-max_len=600", "-timeout=100"], atheris.instrument_func(one))
        atheris.Fuzz()
    os.waitpid(child, 0)
    os.set_blocking(read, False)
    try:
        count, found = json.loads(os.read(read, 1 << 16))
    except (BlockingIOError, ValueError):
        count, found = 0, ["atheris ended without a word"]
    os.close(read)
    os.close(write)
    return count, found


def main() -> int:
    """Fuzz every parser; exit code 1 if one escaped or hung."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs for each parser")
    parser.add_argument("--guided", type=float, default=0, metavar="SECONDS", help="time for each parser of text under atheris")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _late)
    lines, escapes, total = [], 0, 0
    with tempfile.TemporaryDirectory(prefix="stir-fuzz-") as folder:
        for name, each in parsers(Path(folder)).items():
            if options.only and name not in options.only:
                continue
            began = time.monotonic()
            count, found = fuzzed(each, options.inputs, options.seed)
            more, more_found = guided(each, options.guided) if options.guided and each.text else (0, [])
            for line in [*found, *more_found]:
                print(f"  {name}: {line}", flush=True)
            escapes += len(found) + len(more_found)
            total += count + more
            lines.append((name, count, more, len(found) + len(more_found)))
            print(f"{name}: {count} + {more} inputs, {time.monotonic() - began:.0f} s", flush=True)
    print(
        tabulate(lines, ["parser", "inputs", "by coverage", "escapes and hangs"], "github"),
        f"\n{total} inputs, {escapes} escapes and hangs",
    )
    return int(escapes > 0)


if __name__ == "__main__":
    sys.exit(main())
