"""``stir certify``: the same prompts through the workbench and through a deployed bundle, and their differences."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, progress, say
from stir_core.config import DecodeConfig, section_from
from stir_core.errors import DeployError

if TYPE_CHECKING:
    from stir_core.deploy.bundle.reading import Bundle
    from stir_core.deploy.certify.certificate import Certificate
    from stir_core.records import OnProgress, Problem


def add(command: Command) -> None:
    """Add ``stir certify`` and its arguments."""
    description = "Send the same prompts through the workbench and a target, compare, and add the certificate to the bundle."
    certify = command("certify", _certify, description, "--model", "--json")
    certify.add_argument("bundle", type=Path, help="bundle folder")
    certify.add_argument("--target", choices=("runtime", "server", "llamacpp"), required=True, help="deployment to certify")
    certify.add_argument("--run", help="compare with this run's library and settings (default: the bundle's, in the workbench's engine)")
    certify.add_argument("--n", type=int, default=20, help="prompts: held-out problems of the run, or of the bundle's task (default 20)")
    certify.add_argument("--max-new-tokens", type=int, help="maximum number of tokens of an answer (default: the bundle's own)")
    certify.add_argument("--gguf", type=Path, help="llamacpp: the GGUF file to run (default: the bundle's model, if that is one)")
    certify.add_argument("--actions", type=int, help="llamacpp: actions to certify beside the mean (default 4)")


def _certify(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.reading import read_bundle
    from stir_core.deploy.certify.certificate import put

    if arguments.n < 1:
        raise DeployError(f"--n is {arguments.n}: compare at least one prompt")
    vectors = arguments.target == "llamacpp"
    unread = {"--max-new-tokens": arguments.max_new_tokens} if vectors else {"--gguf": arguments.gguf, "--actions": arguments.actions}
    for option, value in unread.items():
        if value is not None:
            raise DeployError(f"{option} is {value}, which --target {arguments.target} does not use: leave it out")
    if arguments.max_new_tokens is not None:
        section_from(DecodeConfig, {"max_new_tokens": arguments.max_new_tokens}, {"max_new_tokens": "--max-new-tokens"})
    if arguments.actions is not None and arguments.actions < 0:
        raise DeployError(f"--actions is {arguments.actions}: give 0 or more")
    bundle = read_bundle(arguments.bundle)
    name = arguments.model or bundle.manifest.model.name
    problems = _problems(bundle, arguments.run, arguments.n)
    measure = _vectors if vectors else _decisions
    with progress() as report:
        certificate = measure(arguments, bundle, name, problems, report)
    file = put(arguments.bundle, certificate)
    if arguments.json:
        print_json(certificate)
    else:
        _print(certificate, file)
    return 0 if certificate.passed else 1


def _decisions(
    arguments: argparse.Namespace, bundle: "Bundle", name: str, problems: "list[Problem]", report: "OnProgress"
) -> "Certificate":
    """Certify the decisions, tokens and numbers of a target that decodes by itself."""
    from stir_core.deploy.bundle.reading import session_on
    from stir_core.deploy.certify.parity import certify_decisions
    from stir_core.deploy.serving.runtime import SteeredModel
    from stir_core.models.loading import model_of
    from stir_core.store.runs import Run

    source = Run.open(arguments.run) if arguments.run else bundle
    session = session_on(source, model_of(bundle.config.model, name))
    reference = f"run {Path(arguments.run).name}" if arguments.run else "the bundle in the workbench's engine"
    return certify_decisions(
        SteeredModel.load(bundle, name),
        session,
        problems,
        arguments.target,
        reference=reference,
        max_new_tokens=arguments.max_new_tokens,
        report=report,
    )


def _vectors(arguments: argparse.Namespace, bundle: "Bundle", name: str, problems: "list[Problem]", report: "OnProgress") -> "Certificate":
    """Certify the effect of control vectors on the logits."""
    from stir_core.deploy.certify.vectors import certify_vectors
    from stir_core.models.catalogue import resolve
    from stir_core.models.loading import model_of

    source = resolve(str(arguments.gguf) if arguments.gguf else name)
    if source.kind != "gguf" or source.path is None:
        raise DeployError(f"{name} is not a GGUF file: name the one that llama.cpp runs with --gguf FILE")
    model = model_of(bundle.config.model, name)
    bundle.manifest.check_model(model.identity)
    actions = {} if arguments.actions is None else {"actions": arguments.actions}
    return certify_vectors(bundle, model, source.path, problems, report=report, **actions)


def _problems(bundle: "Bundle", run: str | None, n: int) -> "list[Problem]":
    from stir_core.store.runs import Run
    from stir_core.tasks import load_problems

    opened = Run.open(run) if run is not None else None
    held_out = opened.problems("steered") if opened is not None and opened.finished("steered") else []
    task = bundle.manifest.stage3.task
    if len(held_out) < n:
        known = {problem.id for problem in held_out}
        more = load_problems(task.name, "eval", n=n + len(held_out))
        held_out += [problem for problem in more if problem.id not in known]
    return held_out[:n]


def _print(certificate: "Certificate", file: Path) -> None:
    say(f"{certificate.target} against {certificate.reference}: {'PASSED' if certificate.passed else 'FAILED'}")
    same = sum(prompt.same for prompt in certificate.prompts)
    if certificate.vectors:
        least = certificate.tolerances.correlation
        say(f"  changes in logits after {len(certificate.prompts)} prompts; {same} correlate at {least:g} or more")
        for vector in certificate.vectors:
            packed = "" if vector.as_it_is is None else f"; as the quantised file computes: {vector.as_it_is:.4f}"
            say(f"  {vector.file} × {vector.scale:.3f}: correlation at least {vector.correlation:.5f}{packed}")
    else:
        worst = ", ".join(f"{name} {gap:.1e}" for name, gap in certificate.worst.model_dump().items() if gap is not None)
        steps = sum(len(prompt.decisions) for prompt in certificate.prompts)
        say(f"  {same} of {len(certificate.prompts)} prompts the same; {steps} decisions, {certificate.injected} of them injections")
        say(f"  largest differences: {worst or 'none could be measured'}")
    if certificate.first_difference:
        say(f"  first difference: {certificate.first_difference}")
    say(f"  {file}  sha256 {certificate.sha256[:16]}")
