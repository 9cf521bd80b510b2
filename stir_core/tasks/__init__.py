"""Problems (synthetic and benchmark), prompts, segmentation into steps, and grading. Uses no model and writes no files."""

from stir_core.tasks.catalogue import TaskSpec, register_task
from stir_core.tasks.grading import Grader
from stir_core.tasks.prompts import TEMPLATES, asks_for_box, render
from stir_core.tasks.registry import ROLES, load_problems, task_names, task_spec
from stir_core.tasks.segment import StepScanner, boundaries, register_segmenter, split_steps

__all__ = [
    "ROLES",
    "TEMPLATES",
    "Grader",
    "StepScanner",
    "TaskSpec",
    "asks_for_box",
    "boundaries",
    "load_problems",
    "register_segmenter",
    "register_task",
    "render",
    "split_steps",
    "task_names",
    "task_spec",
]
