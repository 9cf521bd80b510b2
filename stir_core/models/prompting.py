"""Turn a question into a prompt: its text in the task's template, or as typed, and its token ids."""

from stir_core.config import TaskConfig
from stir_core.errors import PromptError
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
        PromptError: empty, or too long for the context.
        DataError: the task or its template is not known.
    """
    return model.chat_ids(user_message(prompt, task, raw=raw), task.system, room=room)
