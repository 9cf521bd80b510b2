"""The certificate of the control vectors: each exported file must change llama.cpp's logits as it changes ours.

It does not cover STIR's decisions, which a control vector does not make.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Certificate, CertifiedPrompt, CertifiedVector, Tolerances, Worst, sealed
from stir_core.deploy.certify.llamacpp import (
    LlamaCpp,
    VectorEffect,
    effects,
    float32_copy,
    our_changes,
    package,
    quantised,
    read_directions,
)
from stir_core.deploy.certify.parity import software_versions
from stir_core.deploy.export import export_files
from stir_core.deploy.targets import INDEX
from stir_core.deploy.targets.gguf import MEAN
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import user_message
from stir_core.records import OnProgress, Problem, Progress


def certify_vectors(
    bundle: Bundle,
    model: LoadedModel,
    gguf: Path,
    problems: Sequence[Problem],
    *,
    actions: int = 4,
    tolerances: Tolerances | None = None,
    report: OnProgress = lambda progress: None,
) -> Certificate:
    """Export, load into llama.cpp, and compare the changes in logits after each prompt, each file at its nominal strength.

    Args:
        model: the bundle's model in our engine.
        gguf: the file that llama.cpp runs.
        actions: number of actions to compare, spread over the library, beside the mean.

    Raises:
        DeployError: an action of block 0, llama-cpp-python is not installed, or the file is of another model.
    """
    package()  # a missing package is refused before anything is computed
    tolerances = tolerances or Tolerances()
    files = export_files(bundle, "gguf")
    scales = _scales(json.loads(files[INDEX]), actions)
    task = bundle.manifest.stage3.task
    questions = [user_message(problem, task) for problem in problems]
    prompts = [model.chat_ids(question, task.system) for question in questions]
    vectors = {name: read_directions(files[name]) for name in scales}
    report(Progress("workbench", 0, len(prompts), "prompts"))
    ours = our_changes(model, prompts, vectors, scales)
    report(Progress("workbench", len(prompts), len(prompts), "prompts"))

    def measured(path: Path, weights: str) -> list[VectorEffect]:
        done: list[VectorEffect] = []
        with LlamaCpp(path, n_ctx=max(map(len, prompts)) + 1) as other:
            for effect in effects(other, prompts, vectors, scales, ours):
                done.append(effect)
                report(Progress(f"llamacpp, {weights}", len(done), len(prompts) * len(scales), "changes"))
        return done

    packed = quantised(gguf)
    with float32_copy(gguf) as unpacked:
        exact = measured(unpacked, "weights in float32")
    as_it_is = measured(gguf, "weights as they are") if packed else []
    rows = tuple(_compared(file, scale, exact, as_it_is) for file, scale in scales.items())
    worst = min(exact, key=lambda effect: effect.correlation)
    passed = worst.correlation >= tolerances.correlation
    difference = f"the changes in logits under {worst.file} correlate at {worst.correlation:.4f}, less than {tolerances.correlation:g}"
    return sealed(
        bundle,
        target="llamacpp",
        passed=passed,
        first_difference=None if passed else f"{problems[worst.prompt].id}: {difference}",
        reference="the exported vectors in the workbench's engine, at every token of the prompt",
        device=str(model.device),
        max_new_tokens=0,
        tolerances=tolerances,
        worst=Worst(),
        prompts=tuple(
            CertifiedPrompt(
                id=problem.id,
                question=question,
                prompt_tokens=len(ids),
                tokens=0,
                decisions=(),
                same=all(effect.correlation >= tolerances.correlation for effect in exact if effect.prompt == i),
            )
            for i, (problem, question, ids) in enumerate(zip(problems, questions, prompts, strict=True))
        ),
        injected=len(exact),
        vectors=rows,
        versions=software_versions() | {"llama-cpp-python": version("llama_cpp_python")},
    )


def _scales(index: Mapping[str, Any], most: int) -> dict[str, float]:
    """The files of the mean and of at most ``most`` actions, spread over the library, with their nominal strengths."""
    listed = index["actions"]
    rows = sorted({round(i) for i in np.linspace(0, len(listed) - 1, min(most, len(listed)))})
    return {MEAN: index["mean"]["scale"]} | {listed[i]["file"]: listed[i]["scale"] for i in rows}


def _compared(file: str, scale: float, exact: Sequence[VectorEffect], as_it_is: Sequence[VectorEffect]) -> CertifiedVector:
    own = [effect for effect in exact if effect.file == file]
    return CertifiedVector(
        file=file,
        scale=scale,
        correlation=min(effect.correlation for effect in own),
        spread=min(effect.spread for effect in own),
        as_it_is=min((effect.correlation for effect in as_it_is if effect.file == file), default=None),
    )
