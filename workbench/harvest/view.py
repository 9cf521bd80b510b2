"""The Harvest page's form: what a run starts from, one widget for each setting, what it will cost, the command, and the start."""

from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from stir_core.config import STAGES, RunConfig, config_from, refusals
from stir_core.errors import StirError
from stir_core.evaluate.estimate import CostEstimate, estimate, in_words
from workbench import session
from workbench.bootstrap import PAGES, jobs, known_runs, offered_models, runs_root
from workbench.harvest import data as form
from workbench.harvest.data import (
    Base,
    Field,
    arguments,
    bases,
    levels_of,
    model_refusal,
    parsed_value,
    shown,
    toml_of,
    typed_command,
    value_of,
)
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import data_table

HUB = "another model, by its hub name"
MARK = " ●"


def setting_widget(field: Field, base: RunConfig, prefix: str, task: str, *, dotted: bool = False) -> Any:
    """Draw a setting's widget and return its value as the config takes it.

    Args:
        dotted: label it with its section, where it does not stand in one.
        prefix: of the widget keys; another prefix is another form.
        task: the task chosen in this form, which the levels hang on.
    """
    value, key = value_of(base, field.key), f"{prefix}_{field.key}"
    if field.key == "model.name":
        return _model(field, str(value), key)
    if field.kind == "choices":
        return _levels(field, list(value), f"{key}_{task}", task, changed_task=task != base.task.name)
    start = shown(field, value)
    now = session.state_of(key, start)
    common: dict[str, Any] = {"key": key, "help": field.help, "persist_state": "session"}
    label = (field.key if dotted else field.key.rpartition(".")[2]) + (MARK if now != start else "")
    return parsed_value(field, _widget(field, label, start, common))


def _widget(field: Field, label: str, start: Any, common: dict[str, Any]) -> Any:
    if field.kind == "choice":
        options = [*field.options, *([] if start in field.options else [start])]
        return st.selectbox(label, options, options.index(start), **common)
    if field.kind == "bool":
        return st.toggle(label, start, **common)
    if field.kind == "prose":
        return st.text_area(label, start, height=68, placeholder="none", **common)
    if field.kind in ("line", "list"):
        return st.text_input(label, start, placeholder="none" if field.optional else None, **common)
    whole = field.kind == "int"
    number = int if whole else float
    low, high = (None if each is None else number(each) for each in (field.low, field.high))
    step = 1 if whole else start if start and abs(start) < 0.05 else 0.05
    value = None if start is None else number(start)
    return st.number_input(label, low, high, value, step, format="%d" if whole else "%g", placeholder="none", **common)


def _levels(field: Field, value: list[str], key: str, task: str, *, changed_task: bool) -> list[str]:
    options = list(levels_of(task))
    start = [] if changed_task else value
    options += [level for level in start if level not in options]
    now = session.state_of(key, start)
    label = field.key + (MARK if now != start or (changed_task and value) else "")
    return list(
        st.multiselect(
            label,
            options,
            start,
            key=key,
            help=field.help,
            persist_state="session",
            placeholder="all" if options else "this task has no levels",
            disabled=not options,
        )
    )


def _model(field: Field, value: str, key: str) -> str:
    options = [*offered_models(value), HUB]
    now = session.state_of(key, value)
    help_ = f"{field.help} Offered here: models on this machine, and .gguf files in the folder that STIR_MODELS names."
    chosen = st.selectbox(field.key + (MARK if now != value else ""), options, key=key, help=help_, persist_state="session")
    if chosen != HUB:
        return chosen if chosen in options else value
    return st.text_input("Hub name", key=f"{key}_hub", placeholder="org/model", persist_state="session").strip()


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


def run_form() -> Asked | None:
    """Draw the form; ``None`` where there is nothing to start from."""
    found, broken = bases(PAGES.parent / "configs", [facts.run for facts in known_runs().runs.values()])
    for line in broken:
        st.warning(plain(line))
    if not found:
        st.info("There are no experiment files beside the workbench and no runs: write one, and use `stir run FILE`.")
        return None
    base, name, until, prefix = _what(found)
    values, slots = _fields(base, prefix)
    refused = refusals(form.as_mapping(values))
    if line := model_refusal(str(values["model.name"]), offered_models(base.config.model.name)):
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
    round_ = session.first_state("harvest_round", 0)
    prefix = f"harvest_{round_}_{base.label}"
    with middle:
        session.first_state(f"{prefix}_name", _free_name(base.name))
        name = st.text_input("Run name", key=f"{prefix}_name", help="Folder below the folder of runs.", persist_state="session")
    with right:
        help_ = "Last stage to make; the others can be made later with the same settings."
        until = st.selectbox("Until", STAGES, len(STAGES) - 1, key="harvest_until", help=help_, persist_state="session")
    with last:
        st.button("Reset fields", key="harvest_reset", on_click=_next_round, width="stretch", help="Back to the values of the base.")
    return base, (name or "").strip(), until if until in STAGES else STAGES[-1], prefix


def _next_round() -> None:
    session.set_state("harvest_round", session.state_of("harvest_round", 0) + 1)


def _free_name(name: str) -> str:
    own, taken = jobs(), known_runs().runs
    tries = [name, *(f"{name}-{i}" for i in range(2, 100))]
    return next((each for each in tries if each not in taken and not own.run_folder(each).exists()), name)


def _fields(base: Base, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All widgets, the frequent ones on top; gives the values by key, and a place for refusals beside each section."""
    schema = form.fields()
    by_key = {field.key: field for field in schema}
    task = session.state_of(f"{prefix}_task.name", base.config.task.name)
    values: dict[str, Any] = {}
    for start in range(0, len(form.FIRST), _COLUMNS):
        for column, key in zip(st.columns(_COLUMNS), form.FIRST[start : start + _COLUMNS], strict=False):
            with column:
                values[key] = setting_widget(by_key[key], base.config, prefix, task, dotted=True)
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
                        values[field.key] = setting_widget(field, base.config, prefix, task)
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
        found = estimate(config, runs_root(), until=asked.until)
    except StirError as error:
        st.error(plain(str(error)))
        st.button("Start", key="harvest_start", disabled=True)
        return
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        cost(found)
    with right:
        _changes(asked.base, config)
        command_line(typed_command(words), "The command (the page adds `--progress FILE`)")
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
    changed = form.changed_fields(base.config, config)
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
    data_table(table, columns, "Estimated cost of the run", key="harvest_cost")
    measured = found.measured
    if measured:
        mean = f"{measured.rollouts} rollouts of {measured.tokens_per_rollout:.0f} tokens on average, {measured.device}"
        st.caption(plain(f"At most: cannot be exceeded. Expected: from run {measured.run} ({mean}). Empty: not measured."))
    else:
        st.caption("At most: cannot be exceeded. Expected: not measured.")
    for note in found.notes:
        st.caption(plain(note))
