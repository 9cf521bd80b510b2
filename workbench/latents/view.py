"""The Latents page's sections: reasoner and problem, the chain, one latent, replacements, drawn runs, probes, reasoners compared."""

import streamlit as st
from streamlit import column_config as cc

from stir_core.errors import DataError, StoreError, line_of
from stir_core.readings import LatentReading
from stir_core.store.latents import SHIPPED, latent_facts, latent_report
from stir_core.tasks.modular import MODULAR
from workbench import bootstrap, session
from workbench.latents import data as tables
from workbench.latents.charts import latent_map
from workbench.latents.data import FIRST, ChosenReasoner, by_operations
from workbench.latents.view_strip import latent_strip
from workbench.shared.command_lines import latent_eval_command, latent_train_command
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
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
    slots = [str(slot + 1) for slot in range(len(reading.latents))]
    held = session.found(session.SLOT, "Latent", slots)
    slot = slots.index(held) if held else 0
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
        draw_chart(
            latent_map(attention, "attention", ".2f"), key="latents_attention", alt="Attention from the answer to each latent by block"
        )
        st.caption(
            "From the position whose output is the answer's number, averaged over heads. Attention is no proof of use: see replacements."
        )


def moved_latent(reading: LatentReading, slot: int) -> None:
    """The chosen latent on the line to another problem's, and with noise."""
    if not reading.samples:
        return
    with st.expander("Move this latent: to the other problem's, and by noise"):
        left, right = st.columns(2, gap="medium")
        with left:
            st.caption(plain(f"From z{slot + 1} to the same latent of {reading.other}, in steps of 10 %; the reasoner thinks on."))
            data_table(tables.line_rows(reading, slot), LINE_COLUMNS, "Answers on the line to the other latent", height="content")
        with right:
            st.caption(plain(tables.noise_line(reading)))
            data_table(tables.noise_rows(reading, slot), NOISE_COLUMNS, "Answers with noise on this latent", height="content")


def probes(reasoner: ChosenReasoner, reading: LatentReading, slot: int) -> None:
    """How often a linear probe reads the values of the chain, by latent and layer."""
    if not reading.latents:
        return
    st.header("What a linear probe reads, by latent and block", anchor=False)
    try:
        report = latent_report(reasoner.folder)
    except StoreError:
        return  # the table below says why
    if report is None or not report.probes:
        st.caption("No evaluation with probes lies beside this reasoner; the command at the end of the page makes one.")
        return
    values = sorted({each.after for each in report.probes})
    step = reading.latents[slot].step
    after = st.segmented_control(
        "Value after how many steps", values, default=step if step in values else values[0], required=True, key="latents_value"
    )
    rows = tables.probe_rows(report, values[0] if after is None else after)
    draw_chart(latent_map(rows, "read", ".0%"), key="latents_probes", alt="Share of values that a probe reads, by latent and block")
    st.caption(
        f"Share of held-out problems ({rows['problems'].min()} to {rows['problems'].max()} for a cell; intervals under the pointer) whose "
        f"value a linear probe, fitted on others, reads there. Chance is {1 / reasoner.setting.modulus:.0%}. fed: the latent itself; "
        "1, 2, ...: its position after that block. What can be read need not be used: see the swaps."
    )


def replacements(reading: LatentReading, slot: int) -> None:
    """What the answer becomes when the latents of the chosen latent's step are replaced."""
    if not reading.latents:
        return
    step = reading.latents[slot].step
    st.header(f"Swap or drop the latents of step {step}", anchor=False)
    truth = reading.steps[step - 1].truth
    here = "the problem has no such step" if truth is None else f"true step {truth}"
    value = reading.other_values[step - 1] if step <= len(reading.other_values) else None
    there = "" if value is None else f", whose value after step {step} is {value}"
    st.caption(plain(f"This problem: {here}. The other problem: {reading.other}{there}."))
    data_table(tables.change_rows(reading, step), CHANGE_COLUMNS, f"Answers with the latents of step {step} replaced", height="content")
    st.caption(
        "Swapped latents may bring the other problem's value after the step, its value before it (this problem's own operation is applied "
        "to that), or its operation: each implies an answer, which stands beside with its probability now. Later latents are kept, or made "
        "anew (thinking on). One problem shows what happens; `stir latent interchange` takes the latents one by one, and counts."
    )


def drawn_runs(reading: LatentReading) -> None:
    """Runs with drawn latents, side by side."""
    if not reading.latents:
        return
    st.header("Runs with drawn latents", anchor=False)
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
    st.header("Strategies compared", anchor=False)
    found = tables.compared(folders)
    data_table(found.table, STRATEGY_COLUMNS, "Trained reasoners with their evaluations", height="content")
    st.caption(
        "Shares with 95 % intervals over held-out problems (Wilson; for steps, problems as clusters). Rows are comparable where setting, n "
        "and training agree; there are as many problems of each number of operations. zero, shuffled: as many latents, all zero or those "
        "of another problem."
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
IMPLIED = "The answer if that of the other problem is followed, with its probability when a number is forced to be stated now."
CHANGE_COLUMNS: Columns = {
    "in their place": cc.TextColumn("in their place", width=180),
    "then": cc.TextColumn("then", width=140),
    "answer": cc.TextColumn("answer", width=66),
    "outcome": cc.TextColumn("outcome", width=190),
    "p own": number_column("p(own answer)", "%.3f", "Probability of the unchanged answer's number, forced to be stated now.", width=104),
    "after": cc.TextColumn("by value after", help=IMPLIED, width=104),
    "before": cc.TextColumn("by value before", help=IMPLIED, width=112),
    "operation": cc.TextColumn("by operation", help=IMPLIED, width=98),
}
LINE_COLUMNS: Columns = {
    "way": cc.TextColumn("way", help="Share of the way to the other problem's latent.", width=100),
    "read": cc.TextColumn("decoded step", width=130),
    "answer": cc.TextColumn("answer", width=66),
    "outcome": cc.TextColumn("outcome", width=80),
}
NOISE_COLUMNS: Columns = {
    "noise": cc.TextColumn("noise", help="In standard deviations.", width=60),
    "stay": cc.TextColumn("answers that stay", width=150),
    "draws": number_column("draws", "%d", "", width=56),
    "read": cc.TextColumn("decoded step", width=130),
    "answer": cc.TextColumn("answer", width=66),
}
RUN_COLUMNS: Columns = {
    "run": number_column("run", "%d", "", width=48),
    "right": cc.TextColumn("right", width=48),
    "answer": cc.TextColumn("answer", width=66),
    "latents": number_column("latents", "%d", "Until the stop head said stop.", width=62),
    "steps": cc.TextColumn("decoded steps", width=420),
}
STRATEGY_COLUMNS: Columns = {
    "name": cc.TextColumn("reasoner", pinned=True, width=96),
    "right": cc.TextColumn("right", help="Share of right answers.", width=165),
    **{
        by_operations(count): cc.TextColumn(by_operations(count), help="Share of right answers.", width=165)
        for setting in MODULAR.values()
        for count in setting.counts
    },
    "n": number_column("n", "%d", "Problems.", width=54),
    "zero": cc.TextColumn("latents zero", width=165),
    "shuffled": cc.TextColumn("latents shuffled", width=165),
    "sampled": cc.TextColumn("latents drawn", width=165),
    "decoded": cc.TextColumn("decoded results right", width=165),
    "strict": cc.TextColumn("strict coherence", width=150),
    "stops": cc.TextColumn("stops exactly", width=165),
    "latents": number_column("latents", "%.1f", "Mean per answer.", width=64),
    "passes": number_column("passes", "%.1f", "Forward passes, one after the other; mean per answer.", width=64),
    "strategy": cc.TextColumn("strategy", width=110),
    "stage": cc.TextColumn("stage", width=54),
    "setting": cc.TextColumn("setting", width=64),
    "seed": number_column("seed", "%d", "Of the training.", width=50),
}
