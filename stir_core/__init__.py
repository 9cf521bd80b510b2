"""STIR on TransformerLens: harvest latent actions, select a control basis, replay actions under a gate.

    import stir_core as stir

    run = stir.open_run("smollm2")                  # records and raw arrays; no model, no torch
    session = stir.open_session(run)                # the run's library on the model it was harvested from
    answer = stir.steer(session, "Tom has 5 pens and buys 3 more. How many pens does he have?")

``__all__`` is the whole public surface, and its names are stable. Everything else is private by convention and may move between versions.
Importing this package costs nothing (no torch, no language model library): a name is looked up when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stir_core.version import VERSION

if TYPE_CHECKING:
    from stir_core.api import (
        CausalStudy,
        calibrate,
        certify_bundle,
        codebook,
        coherence,
        curriculum,
        evaluate_methods,
        export_library,
        export_targets,
        harvest_run,
        logit_lens,
        measure_causal,
        measure_impulse,
        model_folder,
        open_library,
        open_run,
        open_session,
        policy,
        probe,
        read_action,
        read_causal,
        read_tokens,
        report_text,
        select_basis,
        steer,
        to_frame,
        what_if,
    )
    from stir_core.basis.selection import register_selector
    from stir_core.config import RunConfig, with_changes
    from stir_core.deploy.bundle.reading import read_bundle
    from stir_core.deploy.certify.certificate import Certificate
    from stir_core.deploy.export import ExportTarget
    from stir_core.deploy.serving.process import serving
    from stir_core.deploy.serving.runtime import SteeredModel
    from stir_core.errors import StirError
    from stir_core.evaluate.dose import degenerates_at, strength_for
    from stir_core.evaluate.interchange import interchange
    from stir_core.evaluate.latent_readings import read_latents
    from stir_core.evaluate.latent_steering import evaluate_latent_steering, latent_config
    from stir_core.evaluate.latents import evaluate_latents
    from stir_core.intervene.replay import redecide
    from stir_core.intervene.session import Session, Steered
    from stir_core.latent.training import load_reasoner, train_latent, train_latent_model
    from stir_core.models.loading import LoadedModel, load_model
    from stir_core.records import Problem, StepEvent, TokenEvent, Trace, TraceEvent
    from stir_core.requests import Change
    from stir_core.store.curation import Curation
    from stir_core.store.runs import Run
    from stir_core.store.saved import SavedFolder
    from stir_core.tasks.catalogue import TaskSpec, register_task
    from stir_core.tasks.registry import load_problems
    from stir_core.tasks.segment import register_segmenter, split_steps

__version__ = VERSION

__all__ = [
    "CausalStudy",
    "Certificate",
    "Change",
    "Curation",
    "ExportTarget",
    "LoadedModel",
    "Problem",
    "Run",
    "RunConfig",
    "SavedFolder",
    "Session",
    "Steered",
    "SteeredModel",
    "StepEvent",
    "StirError",
    "TaskSpec",
    "TokenEvent",
    "Trace",
    "TraceEvent",
    "calibrate",
    "certify_bundle",
    "codebook",
    "coherence",
    "curriculum",
    "degenerates_at",
    "evaluate_latent_steering",
    "evaluate_latents",
    "evaluate_methods",
    "export_library",
    "export_targets",
    "harvest_run",
    "interchange",
    "latent_config",
    "load_model",
    "load_problems",
    "load_reasoner",
    "logit_lens",
    "measure_causal",
    "measure_impulse",
    "model_folder",
    "open_library",
    "open_run",
    "open_session",
    "policy",
    "probe",
    "read_action",
    "read_bundle",
    "read_causal",
    "read_latents",
    "read_tokens",
    "redecide",
    "register_segmenter",
    "register_selector",
    "register_task",
    "report_text",
    "select_basis",
    "serving",
    "split_steps",
    "steer",
    "strength_for",
    "to_frame",
    "train_latent",
    "train_latent_model",
    "what_if",
    "with_changes",
]

_ELSEWHERE = {
    "Certificate": "deploy.certify.certificate",
    "Change": "requests",
    "Curation": "store.curation",
    "ExportTarget": "deploy.export",
    "LoadedModel": "models.loading",
    "Problem": "records",
    "Run": "store.runs",
    "RunConfig": "config",
    "SavedFolder": "store.saved",
    "Session": "intervene.session",
    "Steered": "intervene.session",
    "SteeredModel": "deploy.serving.runtime",
    "StepEvent": "records",
    "StirError": "errors",
    "TaskSpec": "tasks.catalogue",
    "TokenEvent": "records",
    "Trace": "records",
    "TraceEvent": "records",
    "degenerates_at": "evaluate.dose",
    "evaluate_latent_steering": "evaluate.latent_steering",
    "evaluate_latents": "evaluate.latents",
    "interchange": "evaluate.interchange",
    "latent_config": "evaluate.latent_steering",
    "load_model": "models.loading",
    "load_problems": "tasks.registry",
    "load_reasoner": "latent.training",
    "read_bundle": "deploy.bundle.reading",
    "read_latents": "evaluate.latent_readings",
    "redecide": "intervene.replay",
    "register_segmenter": "tasks.segment",
    "register_selector": "basis.selection",
    "register_task": "tasks.catalogue",
    "serving": "deploy.serving.process",
    "split_steps": "tasks.segment",
    "strength_for": "evaluate.dose",
    "train_latent": "latent.training",
    "train_latent_model": "latent.training",
    "with_changes": "config",
}
"""The module of every public name that is not defined in ``api``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no public name {name!r}")
    value = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
