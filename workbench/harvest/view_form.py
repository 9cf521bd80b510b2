"""The Harvest page's form: what to start from, every setting, what it will cost, the command, and the start."""

from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from stir_core.config import STAGES, RunConfig, config_from, refusals
from stir_core.errors import StirError
from stir_core.evaluate.estimate import CostEstimate, in_words
from workbench.bootstrap import estimated, jobs, offered_models, store, to_start_from
from workbench.harvest import settings as form
from workbench.harvest import view_fields as config_fields
from workbench.harvest.bases import Base, arguments, toml_of, typed
from workbench.harvest.model_names import refusal
from workbench.shared.view_command import command_line
from workbench.shared.visible_text import plain

_TITLES = {form.GENERAL: "General", "task": "Problems", "rollouts": "Rollouts (Stage I)", "mining": "Mining (Stage I)"}
_TITLES |= {"basis": "Basis (Stage II)", "gate": "Gate (Stage III)", "decode": "Decoding of held-out answers", "model": "Model"}
_COLUMNS = 5


class Asked(NamedTuple):
    """The form as it stands."""

    base: Base
    name: str
    """Of the run."""
    until: str
    config: RunConfig | None
    """``None``: it is refused."""


def draw() -> Asked | None:
    """Draw the form; ``None`` where there is nothing to start from."""
    found, broken = to_start_from()
    for line in broken:
        st.warning(plain(line))
    if not found:
        st.info("There are no experiment files beside the workbench and no runs: write one, and use `stir run FILE`.")
        return None
    base, name, until, prefix = _what(found)
    values, slots = _fields(base, prefix)
    refused = refusals(form.as_mapping(values))
    if line := refusal(str(values["model.name"]), offered_models(base.config.model.name)):
        refused.setdefault("model", []).append(line)
    for section, lines in refused.items():
        for line in lines:
            slots[section].error(plain(line))
    return Asked(base, name, until, None if refused else config_from(form.as_mapping(values)))


def _what(found: dict[str, Base]) -> tuple[Base, str, str, str]:
    left, middle, right, last = st.columns([1.4, 1.2, 1, 0.7], vertical_alignment="bottom")
    with left:
        label = st.selectbox("Start from", list(found), key="harvest_base", help="Fields start at its values.", persist_state="session")
        base = found[label if label in found else next(iter(found))]
    round_ = st.session_state.setdefault("harvest_round", 0)
    prefix = f"harvest_{round_}_{base.label}"
    with middle:
        st.session_state.setdefault(f"{prefix}_name", _free_name(base.name))
        name = st.text_input("Run name", key=f"{prefix}_name", help="Folder below the folder of runs.", persist_state="session")
    with right:
        help_ = "Last stage to make; the others can be made later with the same settings."
        until = st.selectbox("Until", STAGES, len(STAGES) - 1, key="harvest_until", help=help_, persist_state="session")
    with last:
        st.button("Reset fields", key="harvest_reset", on_click=_next_round, width="stretch", help="Back to the values of the base.")
    return base, (name or "").strip(), until if until in STAGES else STAGES[-1], prefix


def _next_round() -> None:
    st.session_state["harvest_round"] = st.session_state.get("harvest_round", 0) + 1


def _free_name(name: str) -> str:
    own, taken = jobs(), store().runs
    tries = [name, *(f"{name}-{i}" for i in range(2, 100))]
    return next((each for each in tries if each not in taken and not own.run_folder(each).exists()), name)


def _fields(base: Base, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All widgets, the frequent ones on top; gives the values by key, and a place for refusals beside each section."""
    schema = form.fields()
    by_key = {field.key: field for field in schema}
    task = st.session_state.get(f"{prefix}_task.name", base.config.task.name)
    values: dict[str, Any] = {}
    for start in range(0, len(form.FIRST), _COLUMNS):
        for column, key in zip(st.columns(_COLUMNS), form.FIRST[start : start + _COLUMNS], strict=False):
            with column:
                values[key] = config_fields.draw(by_key[key], base.config, prefix, task, dotted=True)
    slots: dict[str, Any] = {}
    sections = list(dict.fromkeys(field.section for field in schema))
    halves = st.columns(2, gap="small")
    for i, section in enumerate(sections):
        with halves[i % 2]:
            rest = [field for field in schema if field.section == section and field.key not in form.FIRST]
            with st.expander(_TITLES.get(section, section)):
                columns = st.columns(3)
                for j, field in enumerate(rest):
                    with columns[j % 3]:
                        values[field.key] = config_fields.draw(field, base.config, prefix, task)
            slots[section] = st.container(gap="xxsmall")
    return values, slots


def plan(asked: Asked) -> None:
    """What is changed, what it will cost, and the command; then the button that starts it."""
    own, config = jobs(), asked.config
    if config is None:
        st.caption("Nothing can be started until the fields above are right.")
        st.button("Start", key="harvest_start", disabled=True)
        return
    try:
        folder, toml = own.run_folder(asked.name), toml_of(asked.base, config)
        words = arguments(asked.base, config, own.config_file(asked.name, toml), folder, asked.until)
        found = estimated(config, asked.until)
    except StirError as error:
        st.error(plain(str(error)))
        st.button("Start", key="harvest_start", disabled=True)
        return
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        cost(found)
    with right:
        _changes(asked.base, config)
        command_line(typed(words), "The command (the page adds `--progress FILE`)")
        if folder.exists():
            st.caption(plain(f"{folder} is there already: its finished stages are kept, and one made with other settings is refused."))
        with st.container(horizontal=True):
            pressed = st.button("Start", type="primary", key="harvest_start")
            st.download_button("Config (TOML)", toml, f"{asked.name}.toml", "application/toml", key="harvest_toml", on_click="ignore")
    if pressed:
        try:
            own.start(asked.name, words, toml=None if asked.base.file else toml)
        except StirError as error:
            st.error(plain(str(error)))


def _changes(base: Base, config: RunConfig) -> None:
    changed = form.changes(base.config, config)
    if not changed:
        st.caption(plain(f"Every setting is that of {base.label}."))
        return
    listed = ", ".join(f"{key} {before} → {now}" for key, before, now in changed)
    st.caption(plain(f"{len(changed)} changed from {base.label}: {listed}"))


def cost(found: CostEstimate) -> None:
    """The estimate: bounds apart from what was measured."""
    st.markdown("**What it will cost**")
    rows = [(each.name, *in_words(each), each.note) for each in found.quantities]
    table = pd.DataFrame(rows, columns=["what", "at most", "expected", "how"])
    widths = {"what": 105, "at most": 85, "expected": 150}
    columns = {name: st.column_config.TextColumn(width=width) for name, width in widths.items()}
    st.dataframe(table, hide_index=True, placeholder="", alt="Estimated cost of the run", key="harvest_cost", column_config=columns)
    measured = found.measured
    if measured:
        mean = f"{measured.rollouts} rollouts of {measured.tokens_per_rollout:.0f} tokens on average, {measured.device}"
        st.caption(plain(f"At most: cannot be exceeded. Expected: from run {measured.run} ({mean}). Empty: not measured."))
    else:
        st.caption("At most: cannot be exceeded. Expected: not measured.")
    for note in found.notes:
        st.caption(plain(note))
