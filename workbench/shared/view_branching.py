"""Branches and rerolls of an answer: the choice of how they are drawn, and decoding in a thread that saves what it makes."""

from collections.abc import Callable, Container, Generator, Iterator, Sequence

import streamlit as st

from stir_core.config import with_changes
from stir_core.errors import FAULTS, line_of
from stir_core.intervene.changes import decode_after
from stir_core.records import Event, TokenEvent, Trace, TraceEvent
from stir_core.requests import Change
from stir_core.saved import SavedBranch, SavedKind, SavedRerolls, SavedWork
from stir_core.store.saved import new_id, run_digest
from workbench import bootstrap, session
from workbench.live import Decoding
from workbench.shared.branching import BranchOrigin, origin_of, parting_line
from workbench.shared.command_lines import PROMPT_FILE, whatif_command
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.saved import change_text
from workbench.shared.text import plain
from workbench.shared.trace_comparison import changed_settings, grade_of

AS_IT_WAS, SAMPLED = "as the answer was", "sampled"
Path = Sequence[tuple[Change, Trace]]
"""Changes from the origin to an answer, each with the answer after it."""


def draw_form(facts: RunFacts, key: str) -> int | None:
    """How a branch is decoded: the seed that it is sampled with, or ``None``, as the answer was."""
    sampler = facts.config.rollouts
    text = (
        f"Sampled: temperature {sampler.temperature:g} and top-p {sampler.top_p:g}, as the run's rollouts; equal seeds give equal branches."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        how = st.segmented_control(
            "Decoded", [AS_IT_WAS, SAMPLED], default=AS_IT_WAS, required=True, key=f"{key}_draw", persist_state="session", help=text
        )
        if how != SAMPLED:
            return None
        return int(st.number_input("Seed", 0, 9999, 0, key=f"{key}_seed", persist_state="session", width=110))


def roll_form(key: str) -> int | None:
    """The number of rerolls, on the one run of the page in which the button was pressed."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = int(st.number_input("Rerolls", 2, 64, 8, key=f"{key}_rolls", persist_state="session", width=110))
        text = "Samples so many continuations from here, with seeds 0 and up, and draws them as a tree with right and wrong counts."
        return n if st.button(f"Reroll {n} times", key=f"{key}_reroll", help=text) else None


def decode_branches(facts: RunFacts, origin: BranchOrigin, path: Path, changes: Sequence[Change], name: str) -> Decoding:
    """Begin to decode a branch for each change of an answer; each is saved as it ends, the first under the id of the decoding.

    Args:
        path: to the answer; empty: the origin.
        name: of the answer, in lines that compare.
    """
    shelf, saved, before = bootstrap.shelf(), bootstrap.saved(), _answer(origin, path)
    decode = decode_after((change for change, _ in path), origin.decode, facts.config)
    made = [[change_text(change), ""] for change in changes]

    def work(decoding: Decoding) -> None:
        with shelf.lent(facts.run, run_fingerprint(facts.run)) as steering:
            for event in _ends(decoding, steering.branch(before, changes, origin.gate, decode, problem=origin.problem), made):
                saved.keep(
                    origin.saved([*path, (changes[event.row], event.trace)]),
                    title=f"{made[event.row][0]} · {origin.question}",
                    outcome=f"{grade_of(event.trace)}; {parting_line(event.trace, before, name)[1]}",
                    run=facts.run,
                    model=steering.identity,
                    id_=decoding.id if event.row == 0 else None,
                )

    return _started(Decoding(new_id("what-if"), f"{made[0][0]} · {origin.question}", facts.name, made), work)


def decode_rerolls(facts: RunFacts, origin: BranchOrigin, path: Path, change: Change, n: int) -> Decoding:
    """Begin to sample ``n`` continuations of an answer; they are saved together when they have ended.

    Stopped: those up to the first that had not ended are saved.
    """
    shelf, saved, before = bootstrap.shelf(), bootstrap.saved(), _answer(origin, path)
    decode = decode_after((change for change, _ in path), origin.decode, facts.config)
    changes = [with_changes(change, seed=seed) for seed in range(n)]
    made, ended = [[f"seed {seed}", ""] for seed in range(n)], dict[int, Trace]()
    title = f"from {change_text(with_changes(change, seed=None))} · {origin.question}"

    def work(decoding: Decoding) -> None:
        with shelf.lent(facts.run, run_fingerprint(facts.run)) as steering:
            for event in _ends(decoding, steering.branch(before, changes, origin.gate, decode, problem=origin.problem), made):
                ended[event.row] = event.trace
            whole = next((seed for seed in range(n) if seed not in ended), n)
            if not whole:
                return
            rolls = [ended[seed] for seed in range(whole)]
            right = sum(grade_of(roll) == "right" for roll in rolls)
            saved.keep(
                origin.saved_rerolls(path, with_changes(change, seed=None), rolls),
                title=title,
                outcome=f"{right} of {whole} right" if origin.problem else f"{whole} continuations, not graded",
                run=facts.run,
                model=steering.identity,
                id_=decoding.id,
            )

    return _started(Decoding(new_id("rerolls"), title, facts.name, made), work)


def saved_of(
    facts: RunFacts, origin: BranchOrigin, kind: SavedKind, leave_out: Container[str] = ()
) -> Iterator[tuple[SavedWork, SavedBranch | SavedRerolls]]:
    """The saved branches or rerolls of an answer, the latest first, whichever tab or server made them; one line for each damaged one."""
    origins: dict[str, str] = session.first_state("branching_origins", {})
    digest = run_digest(facts.run)
    for work in bootstrap.saved().all()[0]:
        if work.kind != kind or work.run_digest != digest or work.id in leave_out or origins.get(work.id, origin.key) != origin.key:
            continue
        try:
            content = bootstrap.saved_content(work.id)
        except FAULTS as error:
            st.warning(plain(line_of(error)))
            continue
        assert isinstance(content, SavedBranch | SavedRerolls)  # by their kinds
        origins[work.id] = origin_of(content, origin.run).key
        if origins[work.id] == origin.key:
            yield work, content


def branch_command(facts: RunFacts, origin: BranchOrigin, changes: Sequence[Change], rolls: int | None = None) -> str:
    """The command that decodes a branch, or the last change so many times."""
    defaults = {"gate": facts.config.gate.model_dump(mode="json"), "decode": facts.config.decode.model_dump(mode="json")}
    decode = origin.decode.model_dump(mode="json", exclude={"batch_problems"})
    changed = {} if origin.recorded else changed_settings(defaults, {"gate": origin.gate.model_dump(mode="json"), "decode": decode})
    prompt = origin.problem.id if origin.problem else origin.question
    instead = origin.source or PROMPT_FILE
    return whatif_command(facts.run, prompt, changes, raw=origin.raw, changed=changed, of=origin.of, rolls=rolls, instead=instead)


def _answer(origin: BranchOrigin, path: Path) -> Trace:
    return path[-1][1] if path else origin.trace


def _started(decoding: Decoding, work: Callable[[Decoding], None]) -> Decoding:
    session.choose_saved(decoding.id)
    return bootstrap.decodings().start(decoding, work)


def _ends(decoding: Decoding, events: Generator[Event, None, None], made: list[list[str]]) -> Iterator[TraceEvent]:
    """The ends of branches; what is decoded on the way is added to the texts of ``made``, which the followers see."""
    for event in decoding.told(events):
        if isinstance(event, TokenEvent):
            made[event.row][1] += event.text
        elif isinstance(event, TraceEvent):
            yield event
