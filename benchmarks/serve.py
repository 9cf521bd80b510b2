"""``stir serve`` under load, steered and with steering off: ``python -m benchmarks.serve BUNDLE [--quick]``.

The server is a process of its own, started by its command; the clients stream. Three measurements, in which each answer is compared with
the answer to the same prompt on an otherwise idle server:

- one client, every prompt in turn, steered and unsteered (the reference of the others);
- 8 and 32 clients, steered and unsteered in turn. Tokens are counted as they arrive, from the time when all clients have begun (one after
  another) to the end of the turn; unfinished answers are then abandoned;
- 32 clients for two minutes, every fourth unsteered, with the memory of the server process.

*Committed* tokens are those that clients receive. *Decoded* tokens include previews; tokens reused from a preview are counted once. Writes
benchmarks/serve.md with the bundle's certificates.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from tabulate import tabulate

from benchmarks.harness import machine
from stir_core.deploy.bundle.reading import Bundle, read_bundle
from stir_core.deploy.certify.certificate import read_certificate
from stir_core.tasks import load_problems, render

NAME, ROWS, EVERY, GOAL = "bench", 32, 4, 0.8
OUT = Path(__file__).with_name("serve.md")


class Sizes(NamedTuple):
    """The sizes of the measurements."""

    prompts: int = 12
    budget: int = 128
    rounds: int = 3
    ramp: float = 25.0
    window: float = 40.0
    soak: float = 120.0


QUICK = Sizes(prompts=3, budget=24, rounds=1, ramp=0.5, window=3.0, soak=5.0)


class Answer(NamedTuple):
    """One finished streamed answer."""

    text: str
    tokens: int
    """Committed."""
    decoded: int
    injected: int
    first: float
    """Seconds to the first token."""
    seconds: float
    error: str | None


class Asker:
    """Streams answers, and collects their results."""

    def __init__(self, url: str, budget: int):
        self.url, self.budget = url, budget
        self.alone: dict[tuple[str, bool], str] = {}
        self.answers: list[Answer] = []
        self.wrong: list[str] = []
        """Prompts whose answer was not the one that they get alone."""
        self.errors: list[str] = []

    def ask(self, client: httpx.Client, message: str, off: bool, arrived: Callable[[], bool] = lambda: True) -> Answer | None:
        """One answer; ``None`` if it was abandoned because ``arrived``, called for each token, returned false."""
        began, first, text, end = time.perf_counter(), 0.0, "", {}
        body = {"model": NAME, "messages": [{"role": "user", "content": message}], "max_tokens": self.budget, "stream": True}
        body |= {"stream_options": {"include_usage": True}, "stir": {"off": off}}
        try:
            with client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
                for line in response.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    data = json.loads(line.removeprefix("data: "))
                    piece = data["choices"][0]["delta"].get("content") if data.get("choices") else None
                    end |= {key: data[key] for key in ("stir", "usage", "error") if data.get(key)}
                    text += piece or ""
                    first = first or (time.perf_counter() - began if piece else 0.0)
                    if piece and not arrived():
                        return None
        except httpx.HTTPError as error:
            end["error"] = repr(error)
        said = None if end.get("usage") and not end.get("error") else str(end.get("error", "no usage at the end"))
        gate, used = end.get("stir", {}), end.get("usage", {}).get("completion_tokens", 0)
        decoded = used + gate.get("probe_tokens", 0) - gate.get("reused_tokens", 0)
        return Answer(text, used, decoded, gate.get("injected", 0), first, time.perf_counter() - began, said)

    def keep(self, answer: Answer, message: str, off: bool) -> None:
        """Compare with the answer on an idle server, which is the first answer to each prompt."""
        if answer.error is not None:
            self.errors.append(answer.error)
        elif answer.text != self.alone.setdefault((message, off), answer.text):
            self.wrong.append(message)
        self.answers.append(answer)


def single(asker: Asker, messages: list[str]) -> list[dict[bool, Answer]]:
    """Every prompt alone, steered and unsteered in turn."""
    pairs = []
    with httpx.Client(timeout=600, trust_env=False) as client:
        asker.ask(client, messages[0], False)  # the first pass of a process is slow
        for message in messages:
            pair = {}
            for off in (False, True):
                answer = asker.ask(client, message, off)
                assert answer is not None  # nothing abandons it
                asker.keep(answer, message, off)
                pair[off] = answer
            pairs.append(pair)
    return pairs


def turn(asker: Asker, messages: list[str], clients: int, off: bool, sizes: Sizes) -> float:
    """Committed tokens per second with a number of clients."""
    begin = time.perf_counter() + sizes.ramp
    end, lock, counted = begin + sizes.window, threading.Lock(), [0]

    def arrived() -> bool:
        now = time.perf_counter()
        with lock:
            counted[0] += begin <= now < end
        return now < end

    def one(number: int) -> None:
        draws = random.Random(number)
        time.sleep(sizes.ramp * number / clients)  # one after another, so that they are not in step
        with httpx.Client(timeout=600, trust_env=False) as client:
            while time.perf_counter() < end:
                message = draws.choice(messages)
                answer = asker.ask(client, message, off, arrived)
                if answer is not None:
                    with lock:
                        asker.keep(answer, message, off)

    together(one, clients)
    return counted[0] / sizes.window


def soak(asker: Asker, messages: list[str], seconds: float, memory: Callable[[], int]) -> list[tuple[float, int]]:
    """32 clients that finish all their answers; the server's memory (MiB) every ten seconds."""
    begin, lock, held = time.perf_counter(), threading.Lock(), []
    done = threading.Event()

    def one(number: int) -> None:
        draws = random.Random(number)
        with httpx.Client(timeout=600, trust_env=False) as client:
            while time.perf_counter() < begin + seconds:
                message, off = draws.choice(messages), number % EVERY == 0
                answer = asker.ask(client, message, off)
                with lock:
                    assert answer is not None  # nothing abandons it
                    asker.keep(answer, message, off)

    def look() -> None:
        while not done.wait(10 if seconds > 20 else 1):
            held.append((time.perf_counter() - begin, memory()))

    looking = threading.Thread(target=look)
    looking.start()
    together(one, ROWS)
    done.set()
    looking.join()
    return held


@contextmanager
def served(bundle: str, model: str | None) -> Iterator[tuple[str, psutil.Process]]:
    """The server as a process of its own: its address, and the process."""
    command = [sys.executable, "-m", "stir_core", "serve", bundle, "--name", NAME, "--port", "0", "--rows", str(ROWS), "--queue", "64"]
    process = subprocess.Popen([*command, *(["--model", model] if model else [])], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(process.wait())
        yield line.split()[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def measure(bundle: str, model: str | None, messages: list[str], sizes: Sizes) -> dict[str, Any]:
    """Run the three measurements and return their figures by name."""
    rows: list[dict[str, Any]] = []
    with served(bundle, model) as (url, process):

        def memory() -> int:
            return process.memory_info().rss >> 20

        asker, began = Asker(url, sizes.budget), memory()
        pairs = single(asker, messages)
        speeds = {off: [pair[off].tokens / pair[off].seconds for pair in pairs] for off in (False, True)}
        rows.append(_row(1, speeds, asker.answers))
        print(json.dumps(rows[-1]), flush=True)
        for clients in (8, ROWS):
            before, speeds = len(asker.answers), {False: [], True: []}
            for i in range(sizes.rounds):
                for off in (False, True) if i % 2 == 0 else (True, False):
                    speeds[off].append(turn(asker, messages, clients, off, sizes))
            rows.append(_row(clients, speeds, asker.answers[before:] or asker.answers))
            print(json.dumps(rows[-1]), flush=True)
        before, warm, started = len(asker.answers), memory(), time.perf_counter()
        held = soak(asker, messages, sizes.soak, memory)
        soaked = {
            "answers": len(asker.answers) - before,
            "seconds": time.perf_counter() - started,
            "memory": [began, warm, *held, memory()],
        }
        soaked["tokens"] = sum(answer.tokens for answer in asker.answers[before:])
        soaked["injected"] = sum(answer.injected for answer in asker.answers[before:])
    print(json.dumps(soaked), flush=True)
    return {"machine": machine(), "rows": rows, "soak": soaked, "answers": len(asker.answers), "wrong": asker.wrong, "errors": asker.errors}


def report(found: dict[str, Any], bundle: Bundle, sizes: Sizes) -> str:
    """benchmarks/serve.md."""
    facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    manifest, soaked = bundle.manifest, found["soak"]
    gate = manifest.stage3.gate
    began, warm, *held, ended = soaked["memory"]
    most = max([warm, ended, *(each for _, each in held)])
    speeds = [
        {
            "clients": row["clients"],
            "steered, tokens/s": row["steered"],
            "vanilla, tokens/s": row["vanilla"],
            "ratio": row["ratio"],
            "spread": "{:.2f} to {:.2f}".format(*row["spread"]),
            "steered, decoded tokens/s": row["decoded"],
            "of vanilla": row["decoded"] / row["vanilla"],
            "first token, s": row["first"],
        }
        for row in found["rows"]
    ]
    forms = ("", ".1f", ".1f", ".2f", "", ".1f", ".2f", ".2f")
    lines = [
        "# The server under load",
        "",
        "<!-- written by python -m benchmarks.serve -->",
        "",
        f"Bundle {manifest.digest} on {manifest.model.name} ({manifest.model.dtype}): {gate.candidates} candidates, previews of "
        f"{gate.probe_tokens} tokens; {sizes.prompts} prompts, answers of at most {sizes.budget} tokens, at most {ROWS} rows. {facts}.",
        "",
        "Vanilla is the same server with `stir.off`. Tokens are committed ones by the clients' clock; *decoded* are those of previews too. "
        f"One client: medians over {sizes.prompts} prompts, asked both ways in turn. More: medians of {sizes.rounds} pairs of turns of "
        f"{sizes.window:g} s. The spread is that of the pairs.",
        "",
        tabulate(speeds, "keys", "github", forms),
        "",
        *_short(found["rows"]),
        f"{ROWS} clients for {sizes.soak:g} s, one in {EVERY} of them unsteered: {soaked['answers']} answers, {soaked['tokens']} tokens "
        f"and {soaked['injected']} impulses in {soaked['seconds']:.0f} s. Memory of the process: {began} MiB when it began, {warm} before "
        f"these two minutes, at most {most} in them, {ended} after them.",
        "",
        f"Of all {found['answers']} answers that came to their end, {len(found['wrong'])} are not what their prompt gets alone; "
        f"{len(found['errors'])} errors.",
        "",
        *_certificates(bundle),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _short(rows: list[dict[str, Any]]) -> list[str]:
    """The explanation of a ratio below the goal."""
    short = [row for row in rows if row["ratio"] < GOAL]
    if not short:
        return []
    most = rows[-1]
    each = most["decoded"] / most["steered"]
    return [
        f"The goal is {GOAL:g} of vanilla; with {' and '.join(str(row['clients']) for row in short)} clients it is missed. An answer "
        f"decodes {each:.2f} tokens for each that it commits, the others in previews. With few rows these ride along in passes that read "
        "all weights anyway; with many, products are bound by arithmetic and each token costs the same, so that the ratio comes down to "
        f"1 / {each:.2f} = {1 / each:.2f} where decoding itself is as fast steered as not (the column *of vanilla*). What raises it is the "
        "gate: fewer candidates, shorter previews.",
        "",
    ]


def _certificates(bundle: Bundle) -> list[str]:
    names = sorted(name for name in bundle.manifest.files if name.startswith("certificate-"))
    if not names:
        return []
    heads = ("target", "against", "prompts the same", "decisions", "of them injections", "largest differences", "")
    rows = []
    for name in names:
        made = read_certificate(bundle, name.removeprefix("certificate-").removesuffix(".json"))  # type: ignore[arg-type]  # checked there
        worst = ", ".join(f"{what} {gap:.1e}" for what, gap in made.worst.model_dump().items() if gap is not None)
        same, steps = sum(prompt.same for prompt in made.prompts), sum(len(prompt.decisions) for prompt in made.prompts)
        passed = "passed" if made.passed else "FAILED"
        rows.append((made.target, made.reference, f"{same} of {len(made.prompts)}", steps, made.injected, worst, passed))
    return ["## Certificates of this bundle", "", tabulate(rows, heads, "github", disable_numparse=True)]


def _row(clients: int, speeds: dict[bool, list[float]], answers: list[Answer]) -> dict[str, Any]:
    steered = [answer for answer in answers if answer.decoded > answer.tokens]
    per_token = sum(answer.decoded for answer in steered) / max(1, sum(answer.tokens for answer in steered))
    ratios = [one / two for one, two in zip(speeds[False], speeds[True], strict=True)]
    middle = {off: statistics.median(found) for off, found in speeds.items()}
    return {
        "clients": clients,
        "steered": middle[False],
        "vanilla": middle[True],
        "ratio": statistics.median(ratios),
        "spread": (min(ratios), max(ratios)),
        "decoded": middle[False] * per_token,
        "first": statistics.median(answer.first for answer in answers),
    }


def together(one: Callable[[int], None], clients: int) -> None:
    """Run one thread for each client, and wait for all."""
    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    """Measure, print and write; exit code 1 if an answer differs from the one on an idle server, or is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--model", help="another place where the bundle's own model lies")
    parser.add_argument("--quick", action="store_true", help="a minute in all, short answers, nothing written")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    bundle = read_bundle(Path(arguments.bundle))
    task = bundle.manifest.stage3.task
    messages = [render(problem, task.template) for problem in load_problems(task.name, "eval", n=sizes.prompts)]
    found = measure(arguments.bundle, arguments.model, messages, sizes)
    text = report(found, bundle, sizes)
    print(text)
    if not arguments.quick:
        OUT.write_text(text, encoding="utf-8")
    return 1 if found["wrong"] or found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
