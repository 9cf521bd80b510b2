"""What is sent to the model for a question: the task's template around it, or the question as typed."""

from stir_core.config import TaskConfig
from stir_core.records import Problem
from stir_core.tasks import render, task_spec


def user_message(prompt: str | Problem, task: TaskConfig, *, raw: bool = False) -> str:
    """Text of the user message: a problem or a question in the task's template; an empty question stays empty.

    Args:
        raw: send a question as typed, without the template.

    Raises:
        DataError: the task or its template is not known.
    """
    question = prompt if isinstance(prompt, str) else prompt.question
    if not question.strip() or (raw and isinstance(prompt, str)):
        return question
    if isinstance(prompt, str):
        spec = task_spec(task.name)
        prompt = Problem(id="prompt", task=spec.name, split="free", question=prompt, answer="", kind=spec.kind)
    return render(prompt, task.template)
