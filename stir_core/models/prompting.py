"""Turn a question into a prompt: its text in the task's template, or as typed, and its token ids."""

from collections.abc import Sequence

from stir_core.config import TaskConfig
from stir_core.errors import LongPromptError, PromptError
from stir_core.models.loading import LoadedModel
from stir_core.records import Problem
from stir_core.tasks import render, task_spec


def user_message(prompt: str | Problem, task: TaskConfig, *, raw: bool = False) -> str:
    """Text of the user message: a problem or a question in the task's template; an empty question stays empty.

    Args:
        raw: send a question as typed, without the template.

    Raises:
        PromptError: neither a question nor a problem.
        DataError: the task or its template is not known.
    """
    if not isinstance(prompt, str | Problem):
        raise PromptError(f"{prompt!r:.80} is not a prompt: give a question as text, or a problem")
    question = prompt if isinstance(prompt, str) else prompt.question
    if not question.strip() or (raw and isinstance(prompt, str)):
        return question
    if isinstance(prompt, str):
        spec = task_spec(task.name)
        prompt = Problem(id="prompt", task=spec.name, split="free", question=prompt, answer="", kind=spec.kind)
    return render(prompt, task.template)


def prompt_ids(model: LoadedModel, prompt: str | Problem, task: TaskConfig, *, room: int = 1, raw: bool = False) -> list[int]:
    """Prompt ids: a problem or question in the task's template, with the task's system prompt, inside the chat template.

    Args:
        room: tokens that must still fit after the prompt.
        raw: send a question as typed, without the task's template.

    Raises:
        PromptError: empty, or too long for the context; a problem is named.
        DataError: the task or its template is not known.
    """
    try:
        return model.chat_ids(user_message(prompt, task, raw=raw), task.system, room=room)
    except LongPromptError as error:
        raise LongPromptError(f"problem {prompt.id}: {error}" if isinstance(prompt, Problem) else str(error)) from None


def fitting_prompts(
    model: LoadedModel, problems: Sequence[Problem], task: TaskConfig, *, room: int
) -> tuple[list[tuple[Problem, list[int]]], tuple[str, ...]]:
    """The problems that fit the context with their prompt ids, and notes that name those that do not.

    Raises:
        PromptError: no problem fits, or as :func:`prompt_ids`.
    """
    fitting: list[tuple[Problem, list[int]]] = []
    refusals: list[LongPromptError] = []
    for problem in problems:
        try:
            fitting.append((problem, prompt_ids(model, problem, task, room=room)))
        except LongPromptError as error:
            refusals.append(error)
    if refusals and not fitting:
        raise refusals[0]
    return fitting, tuple(f"left out: {error}" for error in refusals)
