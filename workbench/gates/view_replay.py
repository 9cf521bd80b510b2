"""The Gates page's sections on all held-out answers: the badge, the sieves, one setting's curve, the flips and the margin map."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from stir_core.config import GateConfig, digest_of
from stir_core.saved import FlippedAnswer, SavedRedecision
from workbench import bootstrap, session
from workbench.gates import charts
from workbench.gates import data as tables
from workbench.gates.data import scales
from workbench.gates.view import reproduce
from workbench.shared import gate_evidence as evidence
from workbench.shared import gate_replay as replay
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.gate_replay import AnswerReplay
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart, gate_map
from workbench.shared.view_gate import FLIPPED_COLUMNS, sieves_line
from workbench.shared.view_tables import data_table

Answers = Mapping[str, AnswerReplay]
TAB, ONE, ALL, TWO = "gates_tab", "One answer", "All answers", "Two gates"
"""The page's tabs; a click on a step of all answers opens the one."""


def decided_again(facts: RunFacts, gate: GateConfig) -> Answers:
    """Decide all held-out answers again with the settings that are tried; a badge counts the decisions that flip."""
    own = facts.config.gate
    answers = replay.replay_all(facts.steered, own, gate, seed=facts.config.seed, policies=facts.policies)
    counted = replay.tally(answers.values())
    if gate == own and counted.flipped + counted.strengths:
        differ = counted.flipped + counted.strengths
        st.warning(f"With the run's own settings, {differ} decisions differ from the recording: it was made with other settings.")
    elif gate == own:
        st.badge(f"the run's own settings: all {counted.known} decisions come out as recorded", color="gray")
    else:
        st.badge(replay.flips_line(counted), color="orange")
        changed = ", ".join(f"{key} {getattr(own, key):g} → {value:g}" for key, value in replay.changes_of(own, gate).items())
        st.caption(plain(f"{changed}. {replay.reach_line(counted)}"))
        if st.button("Save these decisions", key="gates_save", help="Kept on the Saved page, with the settings; it can be shared there."):
            _save(facts, gate, answers, changed)
    return answers


def _save(facts: RunFacts, gate: GateConfig, answers: Answers, changed: str) -> None:
    counted, columns = replay.tally(answers.values()), ["problem", "m", "change", "recorded", "now", "why now"]
    rows = replay.flip_table(answers.values())[columns].itertuples(index=False, name=None)
    names = ("problem", "m", "change", "recorded", "now", "why")
    flips = tuple(FlippedAnswer.model_validate(dict(zip(names, row, strict=True))) for row in rows)
    content = SavedRedecision(
        own=facts.config.gate, gate=gate, answers=len(answers), known=counted.known, flipped=counted.flipped, flips=flips
    )
    outcome = f"{counted.flipped} of {counted.known} decisions flip, {len(answers)} answers"
    work = bootstrap.saved().keep(content, title=changed, outcome=outcome, run=facts.run, model=None)
    session.choose_saved(work.id)
    session.saved_is_open(work.id)
    st.success(plain(f"Saved as {work.id}."))


def open_what_is_asked() -> None:
    """Open the tab that a link to two gates means, where the link names none."""
    if TAB not in session.parameters() and any(map(session.link_asks, (session.EVIDENCE, session.FIRST_GATE, session.SECOND_GATE))):
        session.set_state(TAB, TWO)


def all_answers(facts: RunFacts, gate: GateConfig, answers: Answers) -> None:
    """Everything that is counted over all held-out answers, the map of their steps, and the code that makes it."""
    overview(facts, gate, answers)
    margin_map_view(facts, answers, session.chosen(session.PROBLEM), session.chosen(session.CONTROL_POINT))
    flips(answers, changed=gate != facts.config.gate)
    reproduce(facts, gate)


def overview(facts: RunFacts, gate: GateConfig, answers: Answers) -> None:
    """All answers: what the sieves leave, the share of steered steps against one setting, and the commits by control point."""
    sieves_line([step for answer in answers.values() for step in answer.steps], changed=gate != facts.config.gate)
    left, right = st.columns(2, gap="medium")
    with left:
        st.header("How much would another setting steer?", anchor=False)
        _curve(facts, gate)
    with right:
        st.header("At which steps does it act?", anchor=False)
        _firing(facts)


def _curve(facts: RunFacts, gate: GateConfig) -> None:
    offered = {scale.label: scale for scale in scales(facts.config.gate, facts.steered.values())}
    label = st.segmented_control("Setting", list(offered), default="β", required=True, key="gates_curve", persist_state="session")
    scale = offered[label or "β"]
    steps = sum(len(trace.steps) for trace in facts.steered.values())
    table = _points(digest_of(run_fingerprint(facts.run), gate, scale.name), facts, gate, scale.name, scale.points(steps))
    if not any(table["n"].tolist()):
        st.caption("The recording holds no decision of the gate.")
        return
    chart = charts.steered_share(table, f"{scale.label} ({scale.name})", scale.own, float(getattr(gate, scale.name)))
    draw_chart(chart, key="gates_share", alt=f"Share of steered steps against {scale.name}")
    least, most = min(table["n"].tolist()), max(table["n"].tolist())
    unknown = max(table["unknown"].tolist())
    known = (f"{most}" if least == most else f"{least} to {most}") + (f" (up to {unknown} need the model)" if unknown else "")
    st.caption(
        plain(
            f"n = {known} steps, each decided by itself with its recorded text. Band: Wilson 95 % interval, which treats steps as "
            f"independent. Dashed: the run's own value, {scale.own:g}; solid: the slider."
        )
    )


@st.cache_data(max_entries=256, show_spinner=False)
def _points(print_of_settings: str, _facts: RunFacts, _gate: GateConfig, name: str, values: list[float]) -> pd.DataFrame:
    return replay.curve(_facts.steered, _facts.config.gate, _gate, name, values, seed=_facts.config.seed, policies=_facts.policies)


def _firing(facts: RunFacts) -> None:
    table = evidence.firing_rates(facts.steered.values())
    if table.empty:
        st.caption("Every held-out answer ended after its first step, which is never steered.")
        return
    draw_chart(
        charts.firing_chart(table), key="gates_firing", alt="Share of held-out answers with a commit at each control point, as recorded"
    )
    total = f"{sum(table['fired'].tolist())} of {sum(table['n'].tolist())} steps"
    st.caption(
        f"As recorded. n = {len(facts.steered)} answers; a commit at {total}. Above a bar: answers that reached the control point. "
        "Vertical lines: Wilson 95 % intervals."
    )


def margin_map_view(facts: RunFacts, answers: Answers, problem: str | None, m: str | None) -> None:
    """Every step of every answer on the gate's axes; a click opens the step."""
    st.header("How far from null was each step's best candidate?", anchor=False)
    outcomes = {id_: tables.outcome(trace, facts.vanilla.get(id_)) for id_, trace in facts.steered.items()}
    gate_map(
        tables.map_rows(answers, outcomes),
        partial(charts.step_map, problem=problem, m=int(m) if m else None),
        lambda data: _open(answers, str(data[0]), str(data[1])),
        what="steps",
        text="Decided with the settings above. Colour: the recorded answer against the vanilla one. Diamond: committed. "
        "Ring: flips. Pale: after a flip. Click a point to open its step.",
        key="gates_map",
        alt="Steps of all held-out answers by preview gain and margin of their best candidate",
    )


def flips(answers: Answers, *, changed: bool) -> None:
    """The answers in which a decision flips, and the first such step; a click opens it."""
    st.header("Which answers would turn?", anchor=False)
    table = replay.flip_table(answers.values())
    if table.empty:
        st.caption("No decision flips." if changed else "No setting is changed: move a slider above to see which decisions flip.")
        return

    def choose_row(row: int) -> None:
        _open(answers, str(table["problem"].iloc[row]), str(table["m"].iloc[row]))

    height = min(400, 38 + 35 * len(table))
    data_table(
        table,
        FLIPPED_COLUMNS,
        "Answers in which a decision flips with these settings",
        key="gates_flips",
        height=height,
        clicked=choose_row,
    )
    st.caption(
        f"{len(table)} of {len(answers)} answers: the first step of each that flips, changes its strength or needs the model. "
        "Click a row to open it."
    )


def _open(answers: Answers, problem: str, m: str) -> None:
    if problem in answers and answers[problem].at(int(m)) is not None:
        session.point_at(session.PROBLEM, problem)
        session.point_at(session.CONTROL_POINT, m)
        session.set_state(TAB, ONE)
