"""``stir watch``: the rollouts of a run while another process samples them, with verdicts, the share of right ones and the pace."""

import argparse
import time
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, say

if TYPE_CHECKING:
    from stir_core.records import Rollout
    from stir_core.store.watching import HarvestSoFar


def add(command: Command) -> None:
    """Add ``stir watch`` and its arguments."""
    watch = command("watch", _watch, "Show a run's rollouts while they are sampled; it only reads, and ends with them.", "run", "--json")
    watch.add_argument("-n", type=int, default=3, help="how many of the last rollouts to begin with (at most 8)")
    watch.add_argument("--text", action="store_true", help="with the texts of the answers")
    watch.add_argument("--once", action="store_true", help="look once, and end; --json does so, too")
    watch.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="time between two looks (default: 2)")


def _watch(arguments: argparse.Namespace) -> int:
    from stir_core.errors import DataError

    if not 0.1 <= arguments.every <= 3600 or arguments.n < 0:
        raise DataError(f"--every {arguments.every:g} -n {arguments.n}: give 0.1 to 3600 seconds, and no negative number of rollouts")
    try:
        return _follow(arguments)
    except KeyboardInterrupt:  # the usual way to stop watching
        return 0


def _follow(arguments: argparse.Namespace) -> int:
    from stir_core.store.runs import Run
    from stir_core.store.watching import HarvestWatch, writer_of

    run = Run.open(arguments.run)
    watch, shown = HarvestWatch(run), -1
    while True:
        writer = writer_of(run)  # before the look, so that what a process wrote before it ended is seen
        found = watch.look(time.monotonic())
        if found is not None and arguments.json:
            print_json(found._replace(right={name: sum(values) for name, values in found.right.items()})._asdict())
            return 0
        if found is not None and (found.done > shown or found.finished):
            for rollout in reversed(found.last[: arguments.n if shown < 0 else found.done - shown]):
                _say_rollout(rollout, text=arguments.text)
            say(harvest_line(found))
            shown = found.done
        if found is not None and found.finished:
            return 0
        if writer is None:
            say("no process writes this run: the command that made it continues it", error=True)
            return 1
        if arguments.once or arguments.json:
            return 0
        time.sleep(arguments.every)


def _say_rollout(rollout: "Rollout", *, text: bool) -> None:
    say(f"  {verdict_word(rollout):10} {rollout.problem_id}  k {rollout.k}  {rollout.n_tokens} tokens: {rollout.verdict.reason}")
    if text:
        say(*(f"    | {line}" for line in rollout.text.split("\n")))


def verdict_word(rollout: "Rollout") -> str:
    """How an answer ended, in a word or two: right, wrong, cut off (at the token budget, and not right), or no answer."""
    if rollout.verdict.correct:
        return "right"
    if rollout.finish == "length":
        return "cut off"
    return "wrong" if rollout.verdict.finished else "no answer"


def harvest_line(found: "HarvestSoFar") -> str:
    """How far sampling has come in one line, with the share of right rollouts and its interval."""
    from stir_core.evaluate.statistics import clustered_share

    parts = [f"{found.done:,} of {found.total:,} rollouts"]
    if found.done:
        parts.append(f"right so far {clustered_share(found.right.values()):.1%} (n = {found.done:,} of {len(found.right):,} problems)")
        parts.append(f"cut off {found.cut / found.done:.0%}, no answer stated {found.unstated / found.done:.0%}")
        parts.append(f"{found.tokens:,} tokens")
    if found.rate is not None:
        parts.append(f"{found.rate:.0f} tokens/s")
    return " · ".join([*parts, "finished"] if found.finished else parts)
