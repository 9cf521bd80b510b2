"""Chat templates: their arguments, the date that they write, the token that ends a turn, and whether they write what they are given.

A template is a program from the model's folder. It may drop the system text or the question, fail in any way, or write the day of the run
into the prompt. So it is tried once when the model is loaded, its errors are one line, and its date is fixed.
"""

import difflib
import inspect
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from types import FrameType
from typing import Any

from jinja2.exceptions import TemplateError, TemplateRuntimeError
from transformers import PreTrainedTokenizerBase

from stir_core.errors import ModelError, PromptError, StirError, first_line
from stir_core.tasks.thinking import TAGS, ThinkingTags, tags_like

DATE = "2024-07-26"
"""The date that a template writes where ``template_args`` has none; templates of Llama 3 write this day where there is no clock."""
_NOW = re.compile(r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""")
_OURS = {"self", "messages", *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
"""Names that have a meaning of their own when a template is rendered."""
_QUESTION, _SYSTEM, _ANSWER = "stir question", "stir system", "stir answer"
TRIAL_S = 20.0
"""Seconds that a chat template may take for the first question; it takes milliseconds, unless it does not end."""
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError)
"""What a template can raise: its own refusal, or any error of the expressions in it."""


def settled_args(tokenizer: Any, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a model's chat template is rendered with: those given, and ``date`` where it writes the day.

    Raises:
        ModelError: an argument that the template does not read, or a date that is none or cannot be fixed.
    """
    source = _source(tokenizer)
    dated = "strftime_now" in source
    for key in args:
        if key in _OURS or not (re.search(rf"\b{re.escape(key)}\b", source) or (dated and key == "date")):
            close = difflib.get_close_matches(key, sorted(set(re.findall(r"\b[a-z]\w{2,}\b", source)) - _OURS), n=1)
            hint = f"did you mean {close[0]}?" if close else "take it out of model.template_args"
            raise ModelError(f"the chat template of {name} reads no argument {key!r}: {hint}")
    if not dated:
        return dict(args)
    settled = {"date": DATE, **args}
    try:
        date.fromisoformat(settled["date"])
    except (TypeError, ValueError):
        raise ModelError(f'template argument date = {settled["date"]!r} is not a date: write e.g. date = "{DATE}"') from None
    if "strftime_now(" in _dated(source, settled):
        raise ModelError(f"the chat template of {name} writes the date in a computed format, so it cannot be fixed: name the format in it")
    return settled


def rendered(tokenizer: Any, messages: list[dict[str, str]], args: Mapping[str, Any], *, answering: bool = True) -> str:
    """A conversation as the chat template writes it.

    Args:
        args: from :func:`settled_args`.
        answering: whether the beginning of the next answer follows.

    Raises:
        PromptError: the template fails, in one line.
    """
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=_dated(_source(tokenizer), args), add_generation_prompt=answering, tokenize=False, **args
        )
    except _FAILURES as error:
        kind = "" if isinstance(error, TemplateError) else f" ({type(error).__name__})"
        raise PromptError(f"the model's chat template refuses this conversation{kind}: {first_line(error, 300)}") from None
    return str(text)


def says_system(tokenizer: Any, args: Mapping[str, Any]) -> bool:
    """Whether the chat template writes a system text and the question after it."""
    try:
        text = rendered(tokenizer, [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}], args)
    except PromptError:
        return False
    return _SYSTEM in text and _QUESTION in text


def check_question_is_written(tokenizer: Any, name: str, args: Mapping[str, Any]) -> None:
    """Refuse a chat template that fails, or does not write the question. A base model has none, and gets the question as it is.

    Raises:
        ModelError: with the remedy.
    """
    if not tokenizer.chat_template:
        return
    remedy = "mend chat_template.jinja (or chat_template in tokenizer_config.json) in its folder"
    try:
        with _ending(TRIAL_S):
            text = rendered(tokenizer, [{"role": "user", "content": _QUESTION}], args)
    except StirError as error:
        raise ModelError(f"{name} cannot be asked: {error}; {remedy}, or give the arguments it needs in model.template_args") from None
    if _QUESTION not in text:
        raise ModelError(f"{name} cannot be asked: its chat template does not write the question (it writes {text[:80]!r}); {remedy}")


@contextmanager
def _ending(seconds: float) -> Iterator[None]:
    """Raise a ``TemplateError`` in the block after a time, at its next line of Python: a template may loop without end."""
    end, before = time.monotonic() + seconds, sys.gettrace()

    def check(frame: FrameType, event: str, value: Any) -> Any:
        if time.monotonic() > end:
            raise TemplateRuntimeError(f"it has not ended after {seconds:g} s")
        return check

    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


def turn_end(tokenizer: Any, args: Mapping[str, Any]) -> int | None:
    """The special token that the chat template writes after an answer; ``None``: it writes none, or no answers."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        _, answer, after = rendered(tokenizer, turns, args, answering=False).rpartition(_ANSWER)
    except PromptError:
        return None
    if not answer:
        return None
    marks = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    at = next((i for i, token_id in enumerate(ids) if token_id in marks), None)
    return ids[at] if at is not None and not tokenizer.decode(ids[:at]).strip() else None


def known_tags(tokenizer: Any, given: tuple[str, str] | None = None) -> ThinkingTags | None:
    """The tags of a model's thinking: those given, or the usual ones that its chat template or its added tokens hold."""
    source, added = _source(tokenizer), tokenizer.get_added_vocab()
    usual = [tags for tags in TAGS if tags[1] in source] + [tags for tags in TAGS if tags[1] in added]
    found = given or (usual[0] if usual else None)
    return tags_like(*found) if found else None


def _source(tokenizer: Any) -> str:
    return str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""


def _dated(source: str, args: Mapping[str, Any]) -> str:
    """The template with its ``strftime_now(FORMAT)`` replaced by the fixed date; transformers passes no functions to a template."""
    if "strftime_now" not in source:
        return source
    day = date.fromisoformat(args["date"])
    return _NOW.sub(lambda match: json.dumps(day.strftime(match[2])), source)
