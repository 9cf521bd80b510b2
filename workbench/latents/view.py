"""The Latents page's sections: choice of reasoner and problem, the chain, one latent, replacements, drawn runs, reasoners compared."""

import streamlit as st
from streamlit import column_config as cc

from stir_core.errors import DataError, line_of
from stir_core.readings import LatentReading
from stir_core.store.latents import SHIPPED, latent_facts
from workbench import bootstrap, session
from workbench.latents import data as tables
from workbench.latents.charts import attention_map
from workbench.latents.data import FIRST, ChosenReasoner
from workbench.latents.view_strip import latent_strip
from workbench.shared.command_lines import latent_eval_command, latent_train_command
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table, number_column


def choose_reasoner() -> ChosenReasoner | None:
    """The chosen reasoner; without any the page says how to train one."""
    st.info(
        "Small reasoners, trained on chains of operations in which the content of every step is known. Nothing on this page is evidence "
        "about large models, and one problem is no statistic: the table below has figures over many problems."
    )
    folders = bootstrap.known_reasoners()
    if not folders:
        st.info("There is no trained reasoner here yet. It appears as soon as a training has finished.")
        command_line(latent_train_command(bootstrap.runs_root()), TRAIN)
        return None
    name = session.choose_one(
        session.LATENT,
        "Reasoner",
        list(folders),
        width=320,
        help="Shipped ones, and trained folders below STIR_RUNS (or ./runs) and STIR_MODELS.",
    )
    chosen = ChosenReasoner(name, folders[name], latent_facts(folders[name]))
    facts = chosen.facts
    st.caption(
        plain(
            f"{facts['strategy']}, stage {facts['stage']}, seed {facts['seed']}, setting {chosen.setting.name}: "
            f"numbers modulo {chosen.setting.modulus}, trained on {min(chosen.setting.counts)} to {max(chosen.setting.counts)} operations."
        )
    )
    return chosen


def read_question(reasoner: ChosenReasoner) -> LatentReading | None:
    """The problem and what is read of it; a bad problem is one line."""

    def another() -> None:
        number = session.state_of(_DRAWN, 0) + 1
        session.set_state(_DRAWN, number)
        session.point_at(session.CHAIN, tables.drawn_problem(reasoner.setting, number))
        session.point_at(session.PARTNER, "")

    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = session.write_line(session.CHAIN, "Problem", FIRST, max_chars=60, width=240)
        st.button("Another problem", key="latents_another", on_click=another, help="Drawn from those that no training has seen.")
        other = session.write_line(
            session.PARTNER,
            "Swap with",
            "",
            max_chars=60,
            width=240,
            placeholder="drawn",
            help="The problem whose latents are swapped in, with as many operations.",
        )
    try:
        question = tables.question_of(text, reasoner.setting)
        partner = tables.question_of(other, reasoner.setting) if other.strip() else None
        with st.spinner("Reading the latents (the first time loads the model)"):
            return bootstrap.latent_reading(reasoner.folder, question, partner)
    except DataError as error:
        st.error(plain(line_of(error)))
        return None


_DRAWN = "latents_drawn"
TRAIN = "Train reasoners like the shipped ones (each takes up to an hour on two cores, and resumes); they appear here"


def answer_line(reading: LatentReading) -> None:
    """The answer in a few badges, and its text."""
    with st.container(horizontal=True):
        for text, colour in tables.answer_badges(reading):
            st.badge(plain(text), color=colour)  # type: ignore[arg-type]
    st.text(f"Written{' after the latents' if reading.latents else ''}: {reading.text}")


def chain(reading: LatentReading) -> int:
    """The strip; returns the chosen latent."""
    held = session.chosen(session.SLOT) or ""
    slot = int(held) - 1 if held.isdecimal() and 1 <= int(held) <= len(reading.latents) else 0
    latent_strip(tables.strip(reading), slot, lambda picked: session.point_at(session.SLOT, str(picked + 1)), key="latents_strip")
    if reading.latents:
        st.caption(
            "z1, z2, ...: latents in order; click one. H: entropy (nats) of the next token that the last block predicts there. stop: "
            "probability that the stop head ends the chain there. read: what the step decoder writes from the step's latents alone. "
            "strict: the step is true, uses known numbers, and is used; published: its result occurs in a later text."
        )
    return slot


def one_latent(reading: LatentReading, slot: int) -> None:
    """Read-outs of the chosen latent."""
    if not reading.latents:
        return
    st.markdown(f"**Latent z{slot + 1}** of step {reading.latents[slot].step}")
    left, right = st.columns([2, 1], gap="medium")
    with left:
        st.caption("Logit lens at its position: likeliest next tokens with probabilities, through the final norm and the unembedding.")
        data_table(tables.lens_rows(reading, slot), LENS_COLUMNS, "Logit lens at this latent by layer", height="content")
    with right:
        st.caption(plain(tables.size_line(reading, slot)))
        data_table(tables.nearest_rows(reading, slot), NEAREST_COLUMNS, "Nearest tokens by cosine", height="content")
    attention = tables.attention_rows(reading)
    if attention.empty:
        st.caption("The answer states no number, so there is no place whose attention could be read.")
        return
    with st.expander("Where the answer looks: attention to each latent, by block"):
        st.altair_chart(attention_map(attention), key="latents_attention", alt="Attention from the answer to each latent by block")
        st.caption(
            "From the position whose output is the answer's number, averaged over heads. Attention is no proof of use: see replacements."
        )


def replacements(reading: LatentReading, slot: int) -> None:
    """What the answer becomes when the latents of the chosen latent's step are replaced."""
    if not reading.latents:
        return
    step = reading.latents[slot].step
    st.markdown(f"**Swap or drop the latents of step {step}**")
    truth = reading.steps[step - 1].truth
    here = "the problem has no such step" if truth is None else f"true step {truth}"
    value = reading.other_values[step - 1] if step <= len(reading.other_values) else None
    there = "" if value is None else f", whose value after step {step} is {value}"
    st.caption(plain(f"This problem: {here}. The other problem: {reading.other}{there}."))
    data_table(tables.change_rows(reading, step), CHANGE_COLUMNS, f"Answers with the latents of step {step} replaced", height="content")
    st.caption(
        "If the latents hold the step's value and the answer is computed from it, swapped latents give the answer that the other value "
        "implies. Later latents are kept, or made anew (thinking on). *another*: it may follow the other problem's operation, or its value "
        "before the step. One problem shows what happens; `stir latent interchange` tells these apart, latent by latent, and counts."
    )


def drawn_runs(reading: LatentReading) -> None:
    """Runs with drawn latents, side by side."""
    if not reading.latents:
        return
    st.markdown("**Runs with drawn latents**")
    if not reading.runs:
        st.caption(plain(f"The latents of {reading.strategy} are not drawn: every run is the one above."))
        return
    st.caption(plain(tables.vote_line(reading)))
    data_table(tables.run_rows(reading), RUN_COLUMNS, "Runs with drawn latents", height="content")


def strategies(reasoner: ChosenReasoner | None) -> None:
    """All trained reasoners with their evaluations."""
    folders = bootstrap.known_reasoners()
    if not folders:
        return
    st.markdown("**Strategies compared**")
    found = tables.compared(folders)
    data_table(found.table, STRATEGY_COLUMNS, "Trained reasoners with their evaluations", height="content")
    st.caption(
        "Shares with 95 % intervals over held-out problems (Wilson; for steps, problems as clusters). Rows are comparable where setting, n "
        "and training agree. zero, shuffled: as many latents, all zero or those of another problem."
    )
    for line in found.broken:
        st.warning(plain(line))
    if reasoner is None:
        return
    if reasoner.folder.parent == SHIPPED:
        command_line(latent_train_command(bootstrap.runs_root()), TRAIN)
    else:
        command_line(latent_eval_command(reasoner.folder), f"Evaluate {plain(reasoner.name)} (its row is filled from that file)")


def reading_download(reading: LatentReading) -> None:
    """The reading as a file."""
    data = reading.model_dump_json(indent=2)
    st.download_button("Reading (JSON)", data, "latents.json", "application/json", key="latents_json", on_click="ignore")


LENS_COLUMNS: Columns = {
    "layer": cc.TextColumn("layer", width=100),
    "top": cc.TextColumn("likeliest tokens", width=380),
    "entropy": number_column("entropy", "%.2f", "In nats.", width=64),
    "attention": number_column("attention", "%.3f", "From the place that decides the answer's number, in this block.", width=76),
}
NEAREST_COLUMNS: Columns = {
    "token": cc.TextColumn("nearest token", width=110),
    "cosine": number_column("cosine", "%.3f", "Of its embedding with the latent.", width=70),
}
CHANGE_COLUMNS: Columns = {
    "in their place": cc.TextColumn("in their place", width=180),
    "then": cc.TextColumn("then", width=140),
    "answer": cc.TextColumn("answer", width=66),
    "outcome": cc.TextColumn("outcome", width=210),
    "p own": number_column("p(own answer)", "%.3f", "Probability of the unchanged answer's number, forced to be stated now.", width=104),
    "implied": number_column("other implies", "%d", "The answer that the other problem's value implies.", width=96),
    "p implied": number_column("p(implied)", "%.3f", "Probability of that answer.", width=84),
}
RUN_COLUMNS: Columns = {
    "run": number_column("run", "%d", "", width=48),
    "right": cc.TextColumn("right", width=48),
    "answer": cc.TextColumn("answer", width=66),
    "latents": number_column("latents", "%d", "Until the stop head said stop.", width=62),
    "steps": cc.TextColumn("decoded steps", width=420),
}
STRATEGY_COLUMNS: Columns = {
    "name": cc.TextColumn("reasoner", pinned=True, width=120),
    "strategy": cc.TextColumn("strategy", width=84),
    "stage": cc.TextColumn("stage", width=50),
    "setting": cc.TextColumn("setting", width=60),
    "seed": number_column("seed", "%d", "Of the training.", width=46),
    "right": cc.TextColumn("right", help="Share of right answers.", width=150),
    "n": number_column("n", "%d", "Problems.", width=54),
    "zero": cc.TextColumn("latents zero", width=150),
    "shuffled": cc.TextColumn("latents shuffled", width=150),
    "sampled": cc.TextColumn("latents drawn", width=150),
    "decoded": cc.TextColumn("decoded results right", width=150),
    "strict": cc.TextColumn("strict coherence", width=140),
    "stops": cc.TextColumn("stops exactly", width=150),
    "latents": number_column("latents", "%.1f", "Mean per answer.", width=60),
    "passes": number_column("passes", "%.1f", "Forward passes, one after the other; mean per answer.", width=60),
}
