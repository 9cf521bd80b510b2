"""The Harvest page's form: the settings to start from, a widget for each setting, the estimated cost, the command, and the start button."""

import shlex
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from stir_core.config import STAGES, RunConfig, config_from, refusals
from stir_core.errors import FAULTS, line_of
from stir_core.evaluate.estimate import CostEstimate, bound_and_expectation, estimate
from workbench import session
from workbench.bootstrap import PAGES, jobs, known_runs, offered_models, runs_root
from workbench.harvest import data as form
from workbench.harvest.data import Base, Field
from workbench.jobs import RESERVED
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import data_table

HUB = "another model, by its hub name"
MARK = " ●"


def setting_widget(field: Field, base: RunConfig, prefix: str, task: str, *, dotted: bool = False) -> Any:
    """Draw a setting's widget and return its value as the config takes it.

    Args:
        prefix: of the widget keys; another prefix gives another form.
        task: the task chosen in this form, which decides the levels.
        dotted: label the widget with the dotted key, for a setting shown outside its section.
    """
    value, key = form.value_of(base, field.key), f"{prefix}_{field.key}"
    if field.key == "model.name":
        return _model(field, str(value), key)
    if field.kind == "choices":
        return _levels(field, list(value), f"{key}_{task}", task, changed_task=task != base.task.name)
    start = form.shown(field, value)
    now = session.state_of(key, start)
    common: dict[str, Any] = {"key": key, "help": field.help, "persist_state": "session"}
    label = (field.key if dotted else field.key.rpartition(".")[2]) + (MARK if now != start else "")
    return form.parsed_value(field, _widget(field, label, start, common))


def _widget(field: Field, label: str, start: Any, common: dict[str, Any]) -> Any:
    if field.kind == "choice":
        options = [*field.options, *([] if start in field.options else [start])]
        return st.selectbox(label, options, options.index(start), **common)
    if field.kind == "bool":
        return st.toggle(label, start, **common)
    if field.kind == "prose":
        return st.text_area(label, start, height=68, placeholder="none", **common)
    if field.kind in ("line", "list", "table"):
        return st.text_input(label, start, placeholder="none" if field.optional else None, **common)
    number, step, form_ = (int, 1, "%d") if field.kind == "int" else (float, 0.05, "%g")
    if field.kind == "float" and start and abs(start) < step:
        step = start
    low, high, value = (None if each is None else number(each) for each in (field.low, field.high, start))
    return st.number_input(label, low, high, value, step, format=form_, placeholder="none", **common)


def _levels(field: Field, value: list[str], key: str, task: str, *, changed_task: bool) -> list[str]:
    options = list(form.levels_of(task))
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
_TITLES |= {
    "basis": "Basis (Stage II)",
    "gate": "Gate (Stage III)",
    "decode": "Decoding of held-out answers",
    "model": "Model",
    "codes": "Codes",
}
_COLUMNS = 5


class RunForm(NamedTuple):
    """The values of the form."""

    base: Base
    name: str
    """Name of the run."""
    until: str
    """Last stage to make."""
    config: RunConfig | None
    """``None`` if a setting is refused."""


def run_form() -> RunForm | None:
    """Draw the form; ``None`` if there is nothing to start from."""
    bases, broken = form.bases(PAGES.parent / "configs", [facts.run for facts in known_runs().runs.values()])
    for line in broken:
        st.warning(plain(line))
    if not bases:
        st.info(
            "No experiment file lies in the folder `configs` and there is no run yet: write a file, and make a run with `stir run FILE`."
        )
        return None
    base, name, until, prefix = _choose_base(bases)
    values, slots = _fields(base, prefix)
    refused = refusals(form.as_mapping(values))
    if line := form.model_refusal(str(values["model.name"]), offered_models(base.config.model.name)):
        refused.setdefault("model", []).append(line)
    for section, lines in refused.items():
        for line in lines:
            slots[section].error(plain(line))
    return RunForm(base, name, until, None if refused else config_from(form.as_mapping(values)))


def _choose_base(bases: dict[str, Base]) -> tuple[Base, str, str, str]:
    """Base, name of the run, last stage, and the prefix of the widget keys: another base, or a reset, gives fresh widgets."""
    left, middle, right, last = st.columns([1.4, 1.2, 1, 0.7], vertical_alignment="bottom")
    help_ = "An experiment file or a run; the fields below start at its values."
    label = left.selectbox("Start from", list(bases), key="harvest_base", help=help_, persist_state="session")
    base = bases[label if label in bases else next(iter(bases))]
    round_ = session.first_state("harvest_round", 0)
    prefix = f"harvest_{round_}_{base.label}"
    session.first_state(f"{prefix}_name", _free_name(base.name))
    name = middle.text_input("Run name", key=f"{prefix}_name", help="Name of the run's folder.", persist_state="session")
    help_ = "Last stage to make; the others can be made later with the same settings."
    until = right.selectbox("Until", STAGES, len(STAGES) - 1, key="harvest_until", help=help_, persist_state="session")
    last.button("Reset fields", key="harvest_reset", on_click=_next_round, width="stretch", help="Back to the values of the base.")
    return base, (name or "").strip(), until if until in STAGES else STAGES[-1], prefix


def _next_round() -> None:
    session.set_state("harvest_round", session.state_of("harvest_round", 0) + 1)


def _free_name(name: str) -> str:
    own, taken = jobs(), known_runs().runs
    tries = [name, *(f"{name}-{i}" for i in range(2, 100))]
    free = (each for each in tries if each not in RESERVED and each not in taken and not own.run_folder(each).exists())
    return next(free, name)


def _fields(base: Base, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw all widgets, the frequent ones on top.

    Returns:
        The values by key, and for each section a container for its refusals.
    """
    schema = form.fields()
    by_key = {field.key: field for field in schema}
    task = session.state_of(f"{prefix}_task.name", base.config.task.name)
    values: dict[str, Any] = {key: form.value_of(base.config, key) for key in form.NOT_HERE}
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


def plan(asked: RunForm) -> None:
    """The estimated cost, the changed settings and the command, and the button that starts the run."""
    own, config = jobs(), asked.config
    if config is None:
        st.caption("The run can be started once the settings marked above are corrected.")
        st.button("Start", key="harvest_start", disabled=True)
        return
    try:
        folder, toml = own.run_folder(asked.name), form.toml_of(asked.base, config)
        words = form.arguments(asked.base, config, own.config_file(asked.name, toml), folder, asked.until)
        cost = estimate(config, runs_root(), until=asked.until)
    except FAULTS as error:
        st.error(plain(line_of(error)))
        st.button("Start", key="harvest_start", disabled=True)
        return
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        _cost(cost, config)
    with right:
        _changes(asked.base, config)
        command_line(shlex.join(["stir", *words]), "The command (the page adds `--progress FILE`)")
        if folder.exists():
            st.caption(plain(f"{folder} exists: its finished stages are kept; a stage made with other settings is refused."))
    with st.container(horizontal=True):  # the last thing above the jobs, so that a started one stands where it was pressed
        pressed = st.button("Start", type="primary", key="harvest_start")
        st.download_button("Config (TOML)", toml, f"{asked.name}.toml", "application/toml", key="harvest_toml", on_click="ignore")
    if pressed:
        try:
            own.start(asked.name, words, toml=None if asked.base.file else toml)
        except FAULTS as error:
            st.error(plain(line_of(error)))


def _changes(base: Base, config: RunConfig) -> None:
    changed = form.changed_fields(base.config, config)
    if not changed:
        st.caption(plain(f"No setting differs from {base.label}."))
        return
    listed = ", ".join(f"{key} {before} → {now}" for key, before, now in changed)
    differ = "setting differs" if len(changed) == 1 else "settings differ"
    st.caption(plain(f"{len(changed)} {differ} from {base.label}: {listed}"))


def _cost(cost: CostEstimate, config: RunConfig) -> None:
    """The estimate: upper bounds, and expectations measured on an earlier run."""
    st.header("Estimated cost", anchor=False)
    rows = [(each.name, *bound_and_expectation(each), each.note) for each in cost.quantities]
    table = pd.DataFrame(rows, columns=["what", "at most", "expected", "how"])
    widths = {"what": 105, "at most": 85, "expected": 150}
    columns = {name: st.column_config.TextColumn(width=width) for name, width in widths.items()}
    data_table(table, columns, "Estimated cost of the run", key="harvest_cost")
    expected = "not measured."
    if measured := cost.measured:
        mean = f"{measured.rollouts} rollouts of {measured.tokens_per_rollout:.0f} tokens on average, {measured.device}"
        expected = f"from run {measured.run} ({mean}). Empty: not measured."
    st.caption(plain(f"At most: an upper bound. Expected: {expected}"))
    for note in cost.notes:
        st.caption(plain(note))
    st.caption(plain(form.pairs_line(config, known_runs().runs.get(cost.measured.run) if cost.measured else None)))
