"""The Codebook page's sections: the codebook in words, one code's card, rate against distortion, and what the codes go with."""

from collections.abc import Mapping

import streamlit as st
from streamlit import column_config as cc

from stir_core.records import Lens
from workbench import session
from workbench.bootstrap import shelf
from workbench.codebook import charts
from workbench.codebook import data as tables
from workbench.codebook.data import Book
from workbench.shared.charts import lens_bars
from workbench.shared.command_lines import causal_command, codebook_command
from workbench.shared.facts import RunFacts, differing_identity
from workbench.shared.text import plain, segment
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import ACTION_COLUMNS, Columns, data_table, entry_table, number_column
from workbench.shared.view_text import text_strip

_READ = "codebook_lens_of"


def need_codebook(facts: RunFacts) -> Book:
    """The run's codebook at the chosen layer. If there is none, shows the command that makes one and stops the page."""
    report = facts.codebook
    if report is None or not report.layers:
        st.info(plain(f"Run {facts.name} has no codebook yet. It describes every step of the rollouts by one of K codes."))
        copied = " An embedded run is never written to, so a copy of it gets the codebook." if facts.run.embedded else ""
        command_line(codebook_command(facts.run), f"Make it: the rollouts are read with the model once.{copied}")
        st.stop()
    layers = [str(each.layer) for each in report.layers]
    layer = session.choose_short(session.CODED_LAYER, "Layer", layers) if len(layers) > 1 else layers[0]
    return tables.book_of(facts, report, int(layer))


def codebook_head(book: Book) -> None:
    """Size, stability and warnings."""
    st.caption(plain(tables.head_line(book.report)))
    if book.layer.flag:
        st.warning(plain(f"{book.layer.flag[0].upper()}{book.layer.flag[1:]}: no gain is to be expected from them."))


def lenses(facts: RunFacts, book: Book) -> dict[int, Lens]:
    """What each code promotes through the unembedding, by code; empty until the model is in memory or asked for."""
    made = facts.run.digest("codes")
    loaded = shelf().identity
    ready = loaded is not None and not differing_identity(loaded, facts.run.manifest("codes").model)
    if not ready and session.state_of(_READ) != made:

        def ask() -> None:
            session.set_state(_READ, made)

        st.button("Read with the model what each code promotes", key="codebook_read", on_click=ask, help="Loads the model of the run.")
        return {}
    names = [str(code) for code in range(len(book.directions))]
    with st.spinner("The model is loaded"):
        return {int(lens.entry_id): lens for lens in _read(made, book.layer.layer, facts, book, names)}


@st.cache_data(max_entries=16, show_spinner=False)
def _read(print_of_codes: str, layer: int, _facts: RunFacts, _book: Book, _names: list[str]) -> list[Lens]:
    return shelf().lens(_facts.run, _book.directions, _names)


def code_card(facts: RunFacts, book: Book, read: Mapping[int, Lens]) -> None:
    """Everything about one code."""
    name = session.choose_one(session.CODE, "Code", [str(code) for code in book.by_number], width=120)
    code = book.by_number[int(name)]
    left, middle, right = st.columns([1.25, 1, 1], gap="medium")
    with left:
        st.header(f"Steps nearest to the mean of code {code.code}", anchor=False)
        text_strip([segment(f"{text}\n") for text in code.exemplars], key="codebook_exemplars", height=220)
        st.caption(
            plain(
                f"{code.members} steps, {code.right:.0%} of them in right answers; median length {code.tokens:g} tokens. "
                f"Merging turns it into code {code.merged} of {book.layer.merged}."
            )
        )
        if code.flags:
            st.badge(" · ".join(tables.FLAGS[flag] for flag in code.flags), color="orange", help="What alone would explain the code.")
    with middle:
        st.header("Use by control point", anchor=False)
        draw_chart(
            charts.point_bars(tables.use_table(book, code), code.code), key="codebook_use", alt=f"Share of steps with code {code.code}"
        )
        st.caption("Lines: Wilson 95 % intervals, which treat steps as independent.")
    with right:
        st.header("Through the unembedding", anchor=False)
        if (lens := read.get(code.code)) is None:
            st.caption("Not read yet: press the button above.")
        else:
            draw_chart(lens_bars(lens, 5), key="codebook_lens", alt=f"Tokens that code {code.code} promotes and suppresses")
            st.caption("Of the mean member minus the mean of all steps; the direct path only.")
    _effects(facts, book, code.code)


def _effects(facts: RunFacts, book: Book, code: int) -> None:
    """Measured effects of the code's own vectors, else of the mined actions that belong to it; else the command that measures."""
    effects = book.effects.get(code, [])
    of = "of its own vectors" if book.own else "of mined actions"
    st.header(f"Causal effect{f' {of}' if effects else ''}: {plain(tables.effect_line(effects))}", anchor=False)
    alt = f"Measured advantages of code {code}"
    if effects and book.own:
        data_table(tables.effect_table(effects), EFFECT_COLUMNS, alt)
    elif effects:
        entry_table(tables.effect_table(effects), EFFECT_COLUMNS, key=f"codebook_effects_{code}", alt=alt)
        st.caption("Mined actions of which a wrong rollout has the code at their control point. A click chooses the action everywhere.")
    if not book.own and not facts.run.embedded:
        command_line(causal_command(facts.run, "codes"), "Measure the codes' own vectors")


def rate_distortion(book: Book) -> None:
    """Held-out error over the number of codes, beside what the codebook is compared with."""
    st.header("Rate and distortion on held-out problems", anchor=False)
    left, right = st.columns([1.5, 1], gap="medium")
    with left:
        figure = charts.rate_chart(tables.error_table(book.layer))
        draw_chart(figure, key="codebook_rate", alt="Held-out error over the number of codes")
    with right:
        data_table(tables.fit_table(book.layer), FIT_COLUMNS, "The codebook and what it is compared with at equal size")
        st.caption(plain(tables.stability_line(book.layer)))
    st.caption(
        f"Squared error on steps of {book.report.held_out} held-out problems as a share of their variance, in whitened components. "
        "PCA has one component for each bit of a code; random vectors are as long as the codes."
    )


def associations(book: Book) -> None:
    """What the codes tell about each step."""
    st.header("What the codes tell about a step", anchor=False)
    data_table(tables.information_table(book.layer), INFORMATION_COLUMNS, "Mutual information of the codes with labels of the steps")
    notes = [note for note in book.report.notes if book.layer.flag is None or book.layer.flag not in note]
    st.caption(plain(" ".join(["On held-out problems.", *(f"{note[0].upper()}{note[1:]}." for note in notes)])))


def codebook_files(facts: RunFacts, book: Book) -> None:
    """The command that makes this codebook again, and its report as a file."""
    command_line(codebook_command(facts.run, book.report), "Make it again (another --kind or --size needs no model)")
    data = book.report.model_dump_json(indent=2)
    name = f"{facts.name}_codebook.json"
    st.download_button("Report (JSON)", data, name, "application/json", key="codebook_json", on_click="ignore")


FIT_COLUMNS: Columns = {
    "method": cc.TextColumn("method", pinned=True, width=150),
    "codes": number_column("codes", "%d", "Number of codes; for pca, of the codes that it is compared with.", width=56),
    "error": number_column("error", "%.3f", "Held-out squared error as a share of the variance; 1 is as good as the mean.", width=60),
    "95 %": cc.TextColumn("95 %", help="Interval of the error over held-out problems.", width=120),
    "perplexity": number_column("perplexity", "%.1f", "Codes in use, weighted by use.", width=76),
    "dead": number_column("dead", "%d", "Codes that no train step has.", width=50),
}
INFORMATION_COLUMNS: Columns = {
    "about": cc.TextColumn("label", pinned=True, width=120),
    "verdict": cc.TextColumn(
        "told", help="told: AMI above its 95th percentile by chance, and at least 0.1; hardly: above chance, but below 0.1.", width=70
    ),
    "information": number_column("AMI", "%.2f", "Adjusted mutual information: 0 by chance, 1 when each tells the other.", width=60),
    "95 %": cc.TextColumn("95 %", help="Interval of the AMI over held-out problems.", width=120),
    "null": number_column("AMI by chance", "%.2f", "95th percentile when whole problems exchange their codes.", width=104),
    "ari": number_column("ARI", "%.2f", "Adjusted Rand index; far below 1 for clean codes that split a label.", width=56),
    "read_as": number_column("ARI read as", "%.2f", "When each code is read as the commonest label of its train steps.", width=86),
    "shuffled": number_column("shuffled", "%.2f", "The same with the codes of all steps shuffled.", width=70),
    "steps": number_column("steps", "%d", "Held-out steps that have the label.", width=56),
    "problems": number_column("problems", "%d", "Their problems.", width=70),
}
EFFECT_COLUMNS: Columns = {name: ACTION_COLUMNS[name] for name in ("entry", "advantage", "advantage 95 %", "verdict")} | {
    "problems": number_column("problems", "%d", "Problems of the states it was tried at: the clusters of the interval.", width=70),
    "pairs": number_column("pairs", "%d", "Pairs of continuations with and without it.", width=56),
}
