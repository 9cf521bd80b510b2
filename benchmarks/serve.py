"""Tokens a second of the server, steered against the same server with steering off: ``python -m benchmarks.serve BUNDLE [--quick]``.

At each number of streaming clients both ways are loaded in turn, in slices, so that drift of the machine's speed falls on both. Every
answer is compared with the one that its prompt gets alone. Committed tokens are counted; previews are work, not output. Writes
benchmarks/serve.md, unless the machine is busy with something else.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from benchmarks.harness import machine
from stir_core.deploy.runtime import SteeredModel
from stir_core.deploy.serve import Limits
from stir_core.deploy.targets import serving
from stir_core.tasks import load_problems, render

NAME = "bench"
OUT = Path(__file__).with_name("serve.md")


class Load(NamedTuple):
    """One slice of load."""

    tokens: int
    seconds: float
    answers: int
    wrong: int
    """Answers that are not what their prompt gets alone."""
    errors: int
    first: list[float]
    """Seconds to the first token."""


def load(url: str, messages: list[str], alone: dict[str, str], *, clients: int, seconds: float, off: bool, budget: int) -> Load:
    """Keep so many clients streaming for so long; answers under way at the end are finished and counted, and so is their time."""
    begin, lock = time.perf_counter(), threading.Lock()
    counts = {"tokens": 0, "answers": 0, "wrong": 0, "errors": 0}
    first: list[float] = []

    def one(client: httpx.Client, number: int) -> None:
        turn = number
        while time.perf_counter() - begin < seconds:
            message = messages[turn % len(messages)]
            turn += clients
            text, tokens, waited = streamed(client, message, off, budget)
            with lock:
                counts["tokens"] += tokens
                counts["answers"] += 1
                counts["errors"] += tokens == 0
                counts["wrong"] += text != alone[message]
                first.append(waited)

    with httpx.Client(base_url=url, timeout=600, trust_env=False, limits=httpx.Limits(max_connections=clients)) as client:
        threads = [threading.Thread(target=one, args=(client, i)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return Load(seconds=time.perf_counter() - begin, first=first, **counts)


def streamed(client: httpx.Client, message: str, off: bool, budget: int) -> tuple[str, int, float]:
    """Text, tokens and seconds to the first token of one streamed answer; 0 tokens when it did not come."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": message}],
        "max_tokens": budget,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stir": {"off": off},
    }
    text, tokens, waited, began = "", 0, 0.0, time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            data = json.loads(line.removeprefix("data: "))
            if "error" in data:
                return text, 0, waited
            piece = data["choices"][0]["delta"].get("content") if data["choices"] else None
            waited = waited or (time.perf_counter() - began if piece else 0.0)
            text += piece or ""
            tokens = data["usage"]["completion_tokens"] if data.get("usage") else tokens
    return text, tokens, waited


def measure(
    url: str, steered: SteeredModel, messages: list[str], *, clients: int, seconds: float, slices: int, budget: int
) -> dict[str, Any]:
    """Both ways in turn; figures of one row of the table."""
    chats = [[{"role": "user", "content": message}] for message in messages]
    alone = {
        off: {m: steered.generate([chat], max_new_tokens=budget, off=off)[0].text for m, chat in zip(messages, chats, strict=True)}
        for off in (False, True)
    }
    process = psutil.Process()
    loads: dict[bool, list[Load]] = {False: [], True: []}
    memory: list[int] = []
    for _ in range(slices):
        for off in (False, True):
            loads[off].append(load(url, messages, alone[off], clients=clients, seconds=seconds / slices / 2, off=off, budget=budget))
            memory.append(process.memory_info().rss)
    speed = {off: sum(one.tokens for one in found) / sum(one.seconds for one in found) for off, found in loads.items()}
    every = [one for found in loads.values() for one in found]
    return {
        "clients": clients,
        "steered": speed[False],
        "vanilla": speed[True],
        "ratio": speed[False] / speed[True],
        "answers": sum(one.answers for one in every),
        "wrong": sum(one.wrong for one in every),
        "errors": sum(one.errors for one in every),
        "first": statistics.median(wait for one in loads[False] for wait in one.first),
        "memory": (memory[0] >> 20, memory[-1] >> 20),
    }


def table(rows: list[dict[str, Any]], facts: dict[str, Any], steered: SteeredModel, seconds: float) -> str:
    """benchmarks/serve.md."""
    lines = [
        "# The server under load",
        "",
        f"`python -m benchmarks.serve`: {seconds:g} s a row, steered and unsteered in turn, bundle {steered.bundle.manifest.digest} on "
        f"{steered.bundle.manifest.model.name}. {json.dumps(facts)}",
        "",
        "| clients | steered, tokens/s | vanilla, tokens/s | ratio | answers | not as alone | errors | first token, s | memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after = row["memory"]
        lines.append(
            f"| {row['clients']} | {row['steered']:.1f} | {row['vanilla']:.1f} | {row['ratio']:.2f} | {row['answers']} | {row['wrong']} | "
            f"{row['errors']} | {row['first']:.2f} | {before} to {after} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and write the file where the figures mean something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--model")
    parser.add_argument("--quick", action="store_true", help="a few seconds a row, short answers, nothing written")
    parser.add_argument("--seconds", type=float, default=120.0, help="load of each row")
    arguments = parser.parse_args()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    quick = arguments.quick
    seconds, budget, slices = (8.0, 32, 1) if quick else (arguments.seconds, 128, 6)
    steered = SteeredModel.load(arguments.bundle, arguments.model)
    task = steered.bundle.manifest.stage3.task
    messages = [render(problem, task.template) for problem in load_problems(task.name, "eval", n=4 if quick else 16)]
    rows = []
    with serving(steered, NAME, Limits(rows=32, waiting=64)) as url:
        for clients in (1, 8, 32):
            rows.append(measure(url, steered, messages, clients=clients, seconds=seconds, slices=slices, budget=budget))
            print(json.dumps(rows[-1]), flush=True)
    text = table(rows, machine(), steered, seconds)
    print(text)
    if quick or busy >= 3:
        print(f"not written: {'--quick' if quick else f'load average {busy:.1f}, other work would be measured too'}", file=sys.stderr)
    else:
        OUT.write_text(text, encoding="utf-8")
    return 1 if any(row["wrong"] or row["errors"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
