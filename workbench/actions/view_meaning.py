"""What an action means: tabs for the steps along it, the Jacobian lens, the task's subspace and erasure, a dictionary, and other runs."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import streamlit as st
from streamlit import column_config as cc

from stir_core.evaluate.activations import StepStates, Subject, activation, step_states, subject
from stir_core.evaluate.meaning import decompose, erasure, subspace
from stir_core.readings import ActivatingStep, Activation, Decomposition, Erasure, JacobianReading, SubspaceShare
from stir_core.records import Entry
from stir_core.store.dictionaries import dictionaries_in
from workbench import bootstrap, session
from workbench.actions import meaning as reading
from workbench.actions.charts import projection_shares
from workbench.shared.charts import DIRECT, lens_bars
from workbench.shared.command_lines import show_command
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line, lazy_tabs
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip

TAB = "meaning"
_STEP = "actions_meaning_step"


def meaning(facts: RunFacts, entry: Entry) -> None:
    """The whole section; only the open tab is computed."""
    st.header("Meaning", anchor=False)
    if entry.action_row is None:
        st.caption("A null entry has no action to read.")
        return
    if not {"states", "steps"} & {*facts.stages}:
        st.caption("This run holds no states of its steps: run its states stage again to read what an action means.")
        return
    of = _subject(run_fingerprint(facts.run), entry.layer, entry.id, facts)
    lazy_tabs(
        TAB,
        {
            "Steps along it": partial(_steps, facts, of),
            "Jacobian lens": partial(_jacobian, facts, of),
            "Subspace and erasure": partial(_controls, facts, of),
            "Dictionary": partial(_dictionary, facts, of),
            "Other runs": partial(_elsewhere, facts, of),
        },
    )


@st.cache_resource(max_entries=4, show_spinner="Reading the states of the run's steps")
def _states(print_of_run: str, layer: int, _facts: RunFacts) -> StepStates:
    return step_states(_facts.run, layer)


@st.cache_resource(max_entries=16, show_spinner=False)
def _subject(print_of_run: str, layer: int, entry_id: str, _facts: RunFacts) -> Subject:
    return subject(_facts.run, entry_id, _states(print_of_run, layer, _facts))


@st.cache_resource(max_entries=64, show_spinner=False)
def _activation(print_of_run: str, entry_id: str, _of: Subject) -> Activation:
    return activation(_of)


@st.cache_resource(max_entries=64, show_spinner="Erasing right against wrong, each problem by the others")
def _controlled(print_of_run: str, entry_id: str, _of: Subject) -> tuple[tuple[SubspaceShare, ...], Erasure]:
    return subspace(_of), erasure(_of.others, _of.unit, _of.entry.layer)


def _steps(facts: RunFacts, of: Subject) -> None:
    seen = _activation(run_fingerprint(facts.run), of.entry.id, of)
    if not seen.steps:
        st.caption("No step of a rollout has a state at this layer.")
        return
    for column, title, steps in zip(st.columns(2), ("Furthest along it", "Furthest against it"), (seen.high, seen.low), strict=True):
        with column:
            st.markdown(f"**{title}**")
            _step_list(title.split()[1], steps, of.entry.id)
    more = "" if seen.steps == seen.recorded else " `stir codebook` reads the others."
    st.caption(f"{reading.steps_line(seen)} A click shows the answer.{more}")
    _chosen_step(facts, of.entry.id, (*seen.high, *seen.low))
    draw_chart(
        projection_shares(reading.counts_table(seen.spread)),
        key="actions_projections",
        alt="Steps of right and wrong rollouts along the action",
    )
    st.caption(plain(reading.separation_line(seen)))
    command_line(show_command(facts.run, of.entry.id))


def _step_list(end: str, steps: Sequence[ActivatingStep], entry_id: str) -> None:
    def choose_row(number: int) -> None:
        session.set_state(_STEP, (entry_id, steps[number]))

    table, alt = reading.activating_table(steps), f"Steps whose states lie furthest {end} the action"
    data_table(table, _STEPS, alt, key=f"actions_steps_{end}_{entry_id}", height="content", clicked=choose_row)


def _chosen_step(facts: RunFacts, entry_id: str, steps: Sequence[ActivatingStep]) -> None:
    """The question and the answer of the step that was clicked."""
    of, step = session.state_of(_STEP, (None, None))
    if of != entry_id or step not in steps:
        return
    rollout = facts.rollouts[step.problem_id, step.k]
    question = facts.problems[step.problem_id].question if step.problem_id in facts.problems else step.problem_id
    st.caption(plain(f"{step.problem_id}, rollout {step.k}: {'right' if rollout.verdict.correct else 'wrong'}, {rollout.verdict.reason}"))
    st.text(question)
    text_strip(reading.rollout_segments(facts, step), key=f"actions_step_{entry_id}_{step.problem_id}_{step.k}_{step.m}", height=240)


def _jacobian(facts: RunFacts, of: Subject) -> None:
    if facts.run.on_latents:
        st.caption("The control points of this run are latents: there are no tokens for a lens to read.")
        return
    key = (run_fingerprint(facts.run), of.entry.id)
    place, loads = st.empty(), "Loads the run's model on first use."
    if key not in _lenses() and place.button("Read on the model", type="primary", key="actions_jacobian", help=loads):
        place.empty()
        with st.spinner("Carrying the action to the last block, answer by answer"):
            _lenses()[key] = bootstrap.shelf().jacobian(of)
    found = _lenses().get(key)
    if found is None:
        st.caption(
            "Not read yet. The logit lens ignores all later blocks; the Jacobian lens carries the action through them, to first order, "
            "over the run's own answers. It takes about a minute on the embedded model, and is kept while this server runs."
        )
    else:
        _lens_figures(facts, of, found)
    command_line(show_command(facts.run, of.entry.id, jacobian=True))


def _lens_figures(facts: RunFacts, of: Subject, found: JacobianReading) -> None:
    drawn = (
        ("Jacobian lens", found.lens, "logit effect to first order (per unit α)"),
        ("Logit lens", facts.lenses.get(of.entry.id), DIRECT),
    )
    for column, (name, lens, title) in zip(st.columns(2), drawn, strict=True):
        with column:
            st.markdown(f"**{name}**")
            if lens is not None:
                key = f"actions_{name.split()[0].lower()}_lens"
                draw_chart(lens_bars(lens, title=title), key=key, alt=f"Tokens that the action promotes and suppresses, {name}")
    steady = "" if found.agreement is None else f"; one answer's result agrees with the others' by a mean cosine of {found.agreement:.2f}"
    st.caption(
        f"Mean over n = {found.answers} answers, {found.positions:,} tokens{steady}. At the last block the action's norm is "
        f"{found.gain:.2f} times its own. {found.logit_overlap} of {len(found.lens.promoted)} promoted tokens are the logit lens's, too. "
        "Estimated as TransformerLens does (Gurnee et al. 2026). "
        "A derivative: it does not say what an impulse of full strength does, which is measured below."
    )


@st.cache_resource(show_spinner=False)
def _lenses() -> dict[tuple[str, str], JacobianReading]:
    """What was read on the model by this server."""
    return {}


def _controls(facts: RunFacts, of: Subject) -> None:
    shares, erased = _controlled(run_fingerprint(facts.run), of.entry.id, of)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**Share in the task's subspace**")
        if shares:
            data_table(
                reading.subspace_table(shares), _SHARES, "Share of the action in principal directions of step states", height="content"
            )
            st.caption(
                "Of the action's squared norm, in the leading principal directions of other problems' step states. Differences of this "
                "task's states lie there anyhow: compare with the run's other actions rather than with chance."
            )
        else:
            st.caption("Too few states of other problems.")
    with right:
        st.markdown("**Erasure of right against wrong (LEACE)**")
        st.badge(erased.outcome, color="gray" if erased.outcome in ("cannot tell", "does not separate") else "blue")
        st.markdown(plain(erased.verdict))
        data_table(reading.erasure_table(erased), _ERASED, "Separation before and after erasure", height="content")
        st.caption(
            "Each problem's states are erased by what was fitted to the others. AUC: share of pairs, a right and a wrong rollout of one "
            "problem and control point, whose right one scores higher; 0.5 is chance. Not corrected for the number of actions looked at."
        )
    command_line(show_command(facts.run, of.entry.id))


def _dictionary(facts: RunFacts, of: Subject) -> None:
    folder = os.environ.get("STIR_MODELS")
    files = {str(file.relative_to(folder)): file for file in dictionaries_in(Path(folder), len(of.unit))} if folder else {}
    if not files:
        st.caption(
            f"No dictionary of width {len(of.unit)} is in the folder that STIR_MODELS names: put a safetensors file with the decoder of a "
            "sparse autoencoder or a transcoder there (W_dec or decoder.weight), or name it on the command line."
        )
        command_line(show_command(facts.run, of.entry.id, dictionary="FILE"))
        return
    name = st.selectbox("Dictionary", list(files), key="actions_dictionary", help="Safetensors files in STIR_MODELS that hold a decoder.")
    stamp = files[name].stat()
    found = _decomposed(run_fingerprint(facts.run), of.entry.id, f"{files[name]} {stamp.st_mtime_ns}", files[name], of)
    data_table(reading.feature_table(found), _FEATURES, "Features of the dictionary", key="actions_features", height="content")
    natural = ""
    if found.states is not None and found.states_most is not None:
        natural = f"; of differences of two other problems' states {found.states:.1%} (at most {found.states_most:.1%})"
    st.caption(
        f"A sum of {len(found.chosen)} of {found.features:,} features with weights above 0 explains {found.explained:.1%} of the action's "
        f"squared norm. Sums of as many explain {found.random:.1%} (at most {found.random_most:.1%}) of random directions{natural}; n = "
        f"{found.draws} of each. The file does not say which model and layer it belongs to: "
        "its width is checked, and the layer where cfg.json lies beside it."
    )
    command_line(show_command(facts.run, of.entry.id, dictionary=str(files[name])))


@st.cache_resource(max_entries=32, show_spinner="Decomposing the action and its controls")
def _decomposed(print_of_run: str, entry_id: str, print_of_file: str, _file: Path, _of: Subject) -> Decomposition:
    return decompose(_of, _file)


def _elsewhere(facts: RunFacts, of: Subject) -> None:
    same, other = reading.other_runs(facts, bootstrap.known_runs().runs)
    found, refused = reading.elsewhere(of, same)
    n = len(same) - len(refused)
    left_out = f" Left out, of other models: {other}." if other else ""
    if not found:
        st.caption(f"No other run of this model has actions at layer {of.entry.layer}.{left_out}")
    else:
        data_table(
            reading.elsewhere_table(found),
            _ELSEWHERE,
            "Actions of other runs that point the same way",
            key="actions_elsewhere",
            height="content",
        )
        st.caption(
            f"n = {n} other run{'s' * (n != 1)} of this model with actions at layer {of.entry.layer}.{left_out} By chance: "
            "expected cosine of the nearest of as many random directions; typical: the median of what this run's actions reach there."
        )
    for line in refused:
        st.caption(plain(line))
    if found:
        names = dict.fromkeys(each.run for each in found)
        command_line(show_command(facts.run, of.entry.id, others=[each.run for each in same if each.name in names]))


_STEPS: Columns = {
    "projection": number_column("along", "%+.3g", "Projection of the state minus the mean state, in residual-stream units.", 62),
    "right": number_column("right", "%d", "Rollouts that begin so and end right.", 50),
    "wrong": number_column("wrong", "%d", "Rollouts that begin so and end wrong.", 54),
    "m": number_column("m", "%d", "Finished steps: the state is that at this step's end.", 40),
    "step": cc.TextColumn("step", help="Text of the step.", width=300),
    "own": cc.TextColumn("own", help="Whether the action was mined from its problem.", width=44),
    "problem": cc.TextColumn("problem", width=170),
}
_SHARES: Columns = {
    "directions": number_column("directions", "%d", "Principal directions, largest variance first.", 80),
    "share": number_column("this action", "%.3f", "Share of its squared norm.", 90),
    "other actions": number_column("other actions", "%.3f", "Median of the run's other actions at this layer.", 100),
    "by chance": number_column("chance", "%.3f", "Expected share of a random direction.", 66),
    "chance high": number_column("95 % of chance", "%.3f", "What 95 % of random directions stay below.", 110),
}
_ERASED: Columns = {
    "read-out": cc.TextColumn("read-out", width=270),
    "AUC": number_column("AUC", "%.2f", "0.5 is chance.", 54),
    "95 %": cc.TextColumn("95 %", help="Interval over problems; none for too few of them.", width=96),
    "pairs": number_column("pairs", "%d", "Pairs of a right and a wrong rollout.", 60),
    "problems": number_column("problems", "%d", "Other problems with such a pair.", 72),
}
_FEATURES: Columns = {
    "feature": number_column("feature", "%d", "Row of the decoder.", 80),
    "cosine": number_column("cosine", "%+.3f", "With the action.", 80),
    "weight": number_column("weight in the sum", "%.3f", "For features and action of unit norm; empty: not in the sum.", 130),
}
_ELSEWHERE: Columns = {
    "run": cc.TextColumn("run", width=130),
    "entry": cc.TextColumn("action", width=80),
    "cosine": number_column("cosine", "%+.3f", "With this action, raw vectors.", 64),
    "by chance": number_column("chance", "%.3f", "Expected cosine of the nearest of as many random directions.", 64),
    "typical": number_column("typical", "%+.3f", "Median, over this run's actions, of the cosine with the nearest action there.", 66),
    "m": number_column("m", "%d", "Its control point.", 40),
    "problem": cc.TextColumn("mined from", width=200),
    "promotes": cc.TextColumn("promotes", help="Through the unembedding, white space drawn.", width=240),
}
