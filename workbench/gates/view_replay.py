"""The Gates page's pieces that speak of all held-out answers: the badge, the funnel, one setting's curve, the flips and the margin map."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from stir_core.config import GateConfig, digest_of
from workbench import session
from workbench.gates import charts as gate_funnel
from workbench.gates import data as tables
from workbench.gates.charts import step_map
from workbench.gates.data import scales
from workbench.shared import gate_evidence as evidence
from workbench.shared import gate_replay as replay
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.gate_replay import AnswerReplay
from workbench.shared.text import plain
from workbench.shared.view_charts import gate_map
from workbench.shared.view_gate import FLIPPED_COLUMNS, funnel_view
from workbench.shared.view_tables import data_table

Answers = Mapping[str, AnswerReplay]


def decided_again(facts: RunFacts, gate: GateConfig) -> Answers:
    """All held-out answers under the settings that are tried, and a badge that says what flips."""
    own = facts.config.gate
    answers = replay.replay_all(facts.steered, own, gate, seed=facts.config.seed)
    counted = replay.tally(answers.values())
    if gate == own and counted.flipped:
        st.warning(f"The recording does not follow from the run's own settings: {counted.flipped} decisions come out otherwise.")
    elif gate == own:
        st.badge(f"the run's own settings: all {counted.known} decisions come out as recorded", color="gray")
    else:
        st.badge(replay.flips_line(counted), color="orange")
        changed = ", ".join(f"{key} {getattr(own, key):g} → {value:g}" for key, value in replay.changes_of(own, gate).items())
        st.caption(plain(f"{changed}. {replay.reach_line(counted)}"))
    return answers


def overview(facts: RunFacts, gate: GateConfig, answers: Answers) -> None:
    """All answers at once: the funnel, the share of steered steps as one setting moves, and where the gate fired."""
    one, two, three = st.tabs(["Funnel, all answers", "As one setting moves", "Fired, by control point"], key="gates_overview")
    with one:
        steps = [step for answer in answers.values() for step in answer.steps]
        funnel_view(steps, "all held-out answers", changed=gate != facts.config.gate)
    with two:
        _curve(facts, gate)
    with three:
        _firing(facts)


def _curve(facts: RunFacts, gate: GateConfig) -> None:
    found = {scale.name: scale for scale in scales(facts.config.gate, facts.steered.values())}
    labels = {name: scale.label for name, scale in found.items()}
    chosen = st.segmented_control(
        "Setting", list(found), default="beta", required=True, format_func=labels.__getitem__, key="gates_curve", persist_state="session"
    )
    scale = found[chosen or "beta"]
    print_of_run = digest_of(run_fingerprint(facts.run), gate, scale.name)
    table = _points(print_of_run, facts, gate, scale.name, scale.points(sum(len(trace.steps) for trace in facts.steered.values())))
    if not any(table["n"].tolist()):
        st.caption("The gate decided nothing that the recording knows.")
        return
    chart = gate_funnel.steered_share(table, f"{scale.label} ({scale.name})", scale.own, float(getattr(gate, scale.name)))
    st.altair_chart(chart, alt=f"Share of steered steps as {scale.name} moves")
    least, most = min(table["n"].tolist()), max(table["n"].tolist())
    lost = max(table["unknown"].tolist())
    known = (f"{most}" if least == most else f"{least} to {most}") + (f" (up to {lost} need the model)" if lost else "")
    st.caption(
        plain(
            f"n = {known} steps, each decided by itself with its recorded text. Band: Wilson 95 %, as if steps were independent. "
            f"Dashed: the run's {scale.own:g}; solid: the slider."
        )
    )


@st.cache_data(max_entries=256, show_spinner=False)
def _points(print_of_settings: str, _facts: RunFacts, _gate: GateConfig, name: str, values: list[float]) -> pd.DataFrame:
    return replay.curve(_facts.steered, _facts.config.gate, _gate, name, values, seed=_facts.config.seed)


def _firing(facts: RunFacts) -> None:
    table = evidence.firing_rates(facts.steered.values())
    if table.empty:
        st.caption("No held-out answer got past its first step, which is never steered.")
        return
    st.altair_chart(gate_funnel.firing_chart(table), alt="Share of held-out answers with a commit at each control point, as recorded")
    total = f"{sum(table['fired'].tolist())} of {sum(table['n'].tolist())} steps"
    st.caption(f"As recorded. n = {len(facts.steered)} answers; {total} fired. Above a bar: answers that got there. Spans: Wilson 95 %.")


def margin_map_view(facts: RunFacts, answers: Answers, problem: str, m: int | None) -> None:
    """Every step of every answer on the gate's axes; a click opens it."""
    st.markdown("**Margin map: best candidate of every step, all answers**")
    outcomes = {id_: tables.outcome(trace, facts.vanilla.get(id_)) for id_, trace in facts.steered.items()}
    gate_map(
        tables.map_rows(answers, outcomes),
        partial(step_map, problem=problem, m=m),
        lambda data: _open(answers, str(data[0]), str(data[1])),
        what="steps",
        text="Decided with the settings above. Colour: the recorded answer against the vanilla one. Diamond: committed. "
        "Ring: flips. Pale: after a flip. Click a point to open its step.",
        key="gates_map",
        alt="Steps of all held-out answers by preview gain and margin of their best candidate",
    )


def flips(answers: Answers, *, changed: bool) -> None:
    """The answers that turn and where; a click opens the step."""
    st.markdown("**Where answers turn**")
    table = replay.flip_table(answers.values())
    if table.empty:
        st.caption("No decision flips." if changed else "Nothing is changed: move a slider above to see where decisions would flip.")
        return

    def choose_row(row: int) -> None:
        _open(answers, str(table["problem"].iloc[row]), str(table["m"].iloc[row]))

    height = min(400, 38 + 35 * len(table))
    data_table(table, FLIPPED_COLUMNS, "Answers that turn under these settings", key="gates_flips", height=height, clicked=choose_row)
    st.caption(
        f"{len(table)} of {len(answers)} answers turn, each at its first flip or at a step that needs the model. Click a row to open it."
    )


def _open(answers: Answers, problem: str, m: str) -> None:
    if problem in answers and answers[problem].at(int(m)) is not None:
        session.point_at(session.PROBLEM, problem)
        session.point_at(session.CONTROL_POINT, m)
