"""One widget for each setting, made from its schema: kind, bounds, choices, help. A changed setting carries a mark."""

from typing import Any

import streamlit as st

from stir_core.config import RunConfig
from workbench.bootstrap import offered_models
from workbench.harvest.settings import Field, levels_of, shown, typed, value_of

HUB = "another model, by its hub name"
MARK = " ●"


def draw(field: Field, base: RunConfig, prefix: str, task: str, *, dotted: bool = False) -> Any:
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
    now = st.session_state.get(key, start)
    common: dict[str, Any] = {"key": key, "help": field.help, "persist_state": "session"}
    label = (field.key if dotted else field.key.rpartition(".")[2]) + (MARK if now != start else "")
    return typed(field, _widget(field, label, start, common))


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
    now = st.session_state.get(key, start)
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
    now = st.session_state.get(key, value)
    help_ = f"{field.help} Offered here: models on this machine, and .gguf files in the folder that STIR_MODELS names."
    chosen = st.selectbox(field.key + (MARK if now != value else ""), options, key=key, help=help_, persist_state="session")
    if chosen != HUB:
        return chosen if chosen in options else value
    return st.text_input("Hub name", key=f"{key}_hub", placeholder="org/model", persist_state="session").strip()
