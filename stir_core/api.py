"""The functions of ``import stir_core as stir``: each does in one call what a notebook needs in one line.

Thin on purpose: every function opens its arguments and calls the code that does the work. Importing this module is cheap; torch is loaded
by the calls that need a model.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from stir_core.basis.making import Basis, choose_basis
from stir_core.config import STAGES, DecodeConfig, GateConfig, RunConfig, section_from, with_changes
from stir_core.deploy.bundle.reading import Bundle, open_source, session_on
from stir_core.deploy.certify.certificate import Certificate
from stir_core.errors import ConfigError, DataError, StoreError, first_line
from stir_core.findings import (
    CalibrationReport,
    CausalReport,
    CodebookReport,
    CoherenceReport,
    CurriculumReport,
    EvaluationReport,
    PolicyReport,
    ProbeReport,
    Roll,
)
from stir_core.readings import ActionReading, TokenReading
from stir_core.records import Lens, OnProgress, Problem, Record, Trace, TraceEvent
from stir_core.requests import CausalRequest, CausalStudyName, CurriculumRequest, EvaluationRequest, PolicyRequest
from stir_core.responses import ImpulseResponse, Spot
from stir_core.store.causal import CausalFolder
from stir_core.store.configs import read_config
from stir_core.store.frames import library_frame, records_frame, run_frame
from stir_core.store.runs import Library, Run

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from jaxtyping import Float

    from stir_core.deploy.export import ExportTarget
    from stir_core.deploy.serving.runtime import SteeredModel
    from stir_core.intervene.session import Session, Steered
    from stir_core.models.loading import LoadedModel
    from stir_core.requests import Change


_FROM = {
    "Run": "open one with stir.open_run",
    "LoadedModel": "load one with stir.load_model",
    "Session": "open one with stir.open_session",
    "Trace": "take one of run.traces(), or of stir.steer's answers",
    "Change": 'make it with stir.Change(m=4, to="null")',
    "GateConfig": "take run.config.gate, or stir.with_changes of it",
    "DecodeConfig": "take run.config.decode, or stir.with_changes of it",
    "CausalReport": "take the result of stir.measure_causal or stir.evaluate_methods",
    "RunConfig": "make one with stir.RunConfig(), or name its TOML file",
}
"""How a user gets an object of a class that functions take."""


def _checked(value: object, kind: str) -> None:
    """Refuse an argument of another class, by its name, so that torch is not loaded for it."""
    if all(base.__name__ != kind for base in type(value).__mro__):
        raise DataError(f"{value!r:.80} is not a {kind}: {_FROM[kind]}")


class CausalStudy(NamedTuple):
    """A run's causal study on disk."""

    report: CausalReport
    """Effects, advantages of single actions, and how well the gate predicts them, with their intervals."""
    rolls: list[Roll]
    """Every continuation: state, arm, repetition (equal ``rep`` means the same random stream), and whether its answer is right."""


def open_run(where: str | Path = "demo") -> Run:
    """Open a finished or unfinished run. Needs no model and no torch.

    Args:
        where: its folder, or the name of an embedded one, ``"two_habits"`` (also ``"demo"``) or ``"smollm2"``; a folder of that name comes
            first.

    Returns:
        The run; its records and raw arrays are methods: ``entries()``, ``rollouts()``, ``traces()``, ``key_rows()`` ``[n_keys, d_model]``,
        ``action_rows()`` ``[n_actions, d_model]`` (residual-stream units, Hugging Face coordinates).

    Raises:
        StoreError: no such run, or its run.json is malformed.
    """
    return Run.open(where)


def harvest_run(
    config: RunConfig | str | Path,
    out: str | Path,
    *,
    until: str = STAGES[-1],
    model: "LoadedModel | None" = None,
    base: Run | None = None,
    report: OnProgress | None = None,
) -> Run:
    """Make a run from a config: rollouts, states, actions (Stage I), basis (II), steered held-out answers (III).

    Finished results at ``out`` are kept, so calling it again resumes. Source: arXiv 2602.04925; `stir run` is this call.

    Args:
        config: a config, or the TOML file of one.
        out: run folder, new or to be resumed.
        until: last stage to make, one of rollouts, states, actions, basis, steered.
        model: the config's model, if it is loaded already.
        base: a finished run whose rollouts are taken, to mine or select with other settings.
        report: called with the progress of each stage (items, and tokens decoded).

    Raises:
        ConfigError: an unusable config, or no such stage.
        StoreError: the folder holds stages made with other settings, or the base's rollouts were sampled with others.
        ModelError, DataError: the model or the task's problems cannot be loaded.
    """
    if model is not None:
        _checked(model, "LoadedModel")
    if until not in STAGES:
        raise ConfigError(f"there is no stage {until!r}: take one of {', '.join(STAGES)}")
    config = read_config(Path(config)) if isinstance(config, str | Path) else config
    _checked(config, "RunConfig")
    from stir_core.stages.pipeline import run_stages

    return run_stages(config, Path(out), until=until, model=model, base=base, report=report or (lambda progress: None))


def to_frame(source: Run | Bundle | Library | Iterable[Record]) -> "pd.DataFrame":
    """A library, or any records (token readings, doses, picks, ...), as a pandas frame.

    Args:
        source: a run gives every mined entry with its rank in the basis, controls and measured advantage; a bundle or a
            library its own entries; an iterable of records gives one row for each.

    Returns:
        For entries, columns ``entry``, ``kind``, ``m``, ``layer``, ``quality`` (reward gap), ``key_norm``, ``action_norm`` (residual-stream
        units) and others, with ``key`` and ``action`` as raw float32 arrays ``[d_model]``; ``None`` is "not measured".

    Raises:
        StoreError: the run has no finished actions.
    """
    if isinstance(source, str | Path):
        _checked(source, "Run")
    if isinstance(source, Run):
        return run_frame(source)
    if isinstance(source, Bundle):
        return library_frame(source.library)
    return library_frame(source) if isinstance(source, Library) else records_frame(source)


def select_basis(run: Run, **changes: Any) -> Basis:
    """Select a control basis from a run's mined entries, as Stage II would under other settings. Writes nothing, needs no model.

    The objective is ``sum_i log(1 + q_i) + diversity * logdet(K + epsilon I)`` over cosines ``K`` of the keys, maximised greedily
    (arXiv 2602.04925, Stage II; Chen, Zhang and Zhou 2018, arXiv 1709.05135).

    Args:
        run: with finished actions.
        changes: keys of the config's ``[basis]`` section: ``budget`` (B, entries), ``diversity`` (lambda), ``selector`` (``"dpp"``,
            ``"top"``, ``"random"``), ``min_per_control_point``, ``similarity``, ``quality``, ...; the default is the run's own value.

    Returns:
        ``picks`` in pick order with marginal gains, the compared ``keys`` ``[n, d]``, and ``notes``: warnings to read.

    Raises:
        ConfigError: an unusable key or value.
        SelectionError: the run has no entry.
    """
    _checked(run, "Run")
    config = with_changes(run.config, basis=changes)
    tried = Run.at(run.path, config, {})  # the same folder read under other settings
    entries = run.entries()
    keys = run.key_rows()[[entry.key_row for entry in entries]]
    advantages = run.advantages() if config.basis.quality == "measured" else {}
    return choose_basis(entries, keys, config, tried.key_space(), advantages)


def open_library(run: Run, which: str | Basis = "basis") -> Library:
    """Entries of a run with their raw vectors, to look at or to steer with.

    Args:
        which: ``"basis"``, ``"all"`` (every mined entry), ``"curated"``, ``"measured"``, ``"codes"``; a control: ``"zero"``,
            ``"shuffled"``, ``"length_matched"``; or the result of :func:`select_basis`.

    Returns:
        ``entries``, ``keys`` and ``actions``, both float32 ``[n_entries, d_model]`` in residual-stream units; null entries' actions are 0.

    Raises:
        ConfigError: no such library.
        StoreError: the run lacks the files that the library is made of.
    """
    _checked(run, "Run")
    if isinstance(which, Basis):
        return run.library_of(which.picks)
    from stir_core.store.libraries import library_named

    return library_named(run, which)


def open_session(source: Run | Bundle | str | Path, model: "LoadedModel | None" = None, *, library: Library | None = None) -> "Session":
    """A library on its model, ready to steer any prompt.

    Args:
        source: a run, a bundle, or the folder of one (or the name of an embedded run).
        model: a loaded model; by default the model that the library was harvested from is loaded (about 3 s for the embedded one).
        library: entries of the run to steer with instead of its control basis, from :func:`open_library`.

    Raises:
        StoreError: no such run, or one without a finished basis.
        MismatchError: the library was made with another model.
        DataError: another library for a bundle, which has its own.
    """
    source = open_source(source)
    if isinstance(source, Bundle) and library is not None:
        raise DataError(f"{source.folder} is a bundle and steers with its own library: give the run to steer with another one")
    if isinstance(source, Run) and library is None:
        source.folder("basis")  # refused before a model is loaded
    if model is None:
        from stir_core.models.loading import model_of

        model = model_of(source.config.model)
    return session_on(source, model, library)


def steer(
    session: "Session", prompt: str | Problem, gate: GateConfig | None = None, decode: DecodeConfig | None = None, *, raw: bool = False
) -> "Steered":
    """Answer one prompt vanilla and steered. To follow it token by token, iterate ``session.compare(...)``, which takes the same arguments.

    Args:
        prompt: a question, which is put into the task's template, or a problem, whose answers are graded.
        gate, decode: instead of the run's own, e.g. ``with_changes(session.config.gate, k_scale=0.1)``.
        raw: send a question as typed, without the template.

    Returns:
        Two traces; log-probabilities are in nats, ``alpha`` is a multiple of the raw action vector.

    Raises:
        PromptError: an empty prompt, or one too long for the context.
    """
    _checked(session, "Session")
    _checked(gate or session.config.gate, "GateConfig")
    _checked(decode or session.config.decode, "DecodeConfig")
    return session.answer(prompt, gate, decode, raw=raw)


def what_if(
    session: "Session",
    trace: Trace,
    changes: "Change | Sequence[Change]",
    gate: GateConfig | None = None,
    decode: DecodeConfig | None = None,
    *,
    problem: Problem | None = None,
) -> list[Trace]:
    """Continue a recorded answer with one decision or token changed: a branch for each change, decoded side by side.

    Args:
        trace: recorded by this session with ``gate`` and ``decode``.
        changes: e.g. ``Change(m=4, to="null")`` or ``Change(m=4, to="p0032c", alpha=0.5)``; ``m`` is a control point (finished steps).
            ``position`` and ``token`` put another token into the step after it, and a ``seed`` samples from there on.
        problem: the problem of the answer, so that branches are graded.

    Returns:
        Whole answers in the order of the changes. A change that changes nothing gives the recorded answer, token for token.

    Raises:
        DataError: no such control point or token, or an entry that cannot be injected there.
    """
    _checked(session, "Session")
    _checked(trace, "Trace")
    _checked(gate or session.config.gate, "GateConfig")
    _checked(decode or session.config.decode, "DecodeConfig")
    asked: list[Any] = list(changes) if isinstance(changes, list | tuple) else [changes]
    for change in asked:
        _checked(change, "Change")
    events = session.branch(trace, asked, gate, decode, problem=problem)
    traces = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
    return [traces[row] for row in sorted(traces)]


def read_tokens(session: "Session", trace: Trace, gate: GateConfig | None = None) -> list[TokenReading]:
    """Run the steered and the unsteered model over an answer again and compare their predictions of every token. Decodes nothing.

    Args:
        trace: an answer of this session.
        gate: the gate that it was steered with; the run's own by default.

    Returns:
        One reading for each token: log-probabilities, ``kl`` = KL(steered || unsteered) over the vocabulary and entropies in nats, ranks
        from 1, and the likeliest tokens under both (``alternatives``).

    Raises:
        DataError: the answer was steered by an entry that this library does not hold.
    """
    _checked(session, "Session")
    _checked(trace, "Trace")
    _checked(gate or session.config.gate, "GateConfig")
    return [reading for _, reading in session.read([trace], gate)]


def measure_impulse(
    run: Run,
    model: "LoadedModel",
    entry_id: str,
    *,
    at: str | Spot | None = None,
    alpha: float | None = None,
    doses: Sequence[float] | None = None,
) -> ImpulseResponse:
    """The effect of one action at one recorded control point: layers, next tokens, attention to that point, doses. `stir impulse`.

    Args:
        entry_id: a corrective entry, e.g. ``"p0032c"``.
        at: ``"PROBLEM:M"`` (held out), ``"PROBLEM#K:M"`` (rollout K), or a spot; ``None``: where it fired, else where it was mined.
        alpha: multiple of the raw action; ``None``: the multiple that the gate committed there, else 1.
        doses: multiples to compare beside 0 and ``alpha``; ``None``: powers of two from 1/16 to 4 of the residual's norm.

    Returns:
        Norms in residual-stream units, divergences KL(steered || unsteered) in nats, attention ``[layer][head]``.

    Raises:
        DataError: no such entry or place, or an entry without an action.
        MismatchError: the run was made with another model.
        SteeringError: a strength that is not finite and at least 0.
    """
    _checked(run, "Run")
    from stir_core.evaluate.spots import entry_with_spots, spot_named

    entry, spots = entry_with_spots(run, entry_id)
    spot = at if isinstance(at, Spot) else spot_named(spots, at, entry)
    _checked(model, "LoadedModel")
    run.check_model(model.identity)

    import torch

    from stir_core.intervene.impulse import respond

    strength = next(value for value in (alpha, spot.alpha, 1.0) if value is not None)
    return respond(model, run.config, spot, entry, torch.tensor(run.action_rows()[entry.action_row]), strength, doses=doses)


def logit_lens(
    model: "LoadedModel",
    vectors: "Float[np.ndarray, 'n d_model'] | Float[torch.Tensor, 'n d_model']",
    *,
    names: Sequence[str] | None = None,
    top: int = 10,
) -> list[Lens]:
    """The tokens that directions promote and suppress through the final norm's gain and the unembedding (Belrose et al. 2023, section 2).

    Args:
        vectors: raw directions of the residual stream, ``[n, d_model]``.
        names: one for each direction; numbers by default.

    Returns:
        One lens for each direction with its ``top`` promoted and suppressed tokens; logits up to the final norm's data-dependent scale.

    Raises:
        DataError: directions that are no finite numbers or of another width, another number of names, or ``top`` outside the vocabulary.
    """
    _checked(model, "LoadedModel")
    import torch

    from stir_core.models.lens import lens_of

    try:
        rows = torch.as_tensor(vectors, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"directions are not an array of numbers ({first_line(error)}): give [n, {model.d_model}]") from None
    if rows.ndim != 2 or rows.shape[1] != model.d_model:
        raise DataError(f"directions have shape {list(rows.shape)}, this model reads [n, {model.d_model}]: give vectors of its width")
    names = [str(i) for i in range(len(rows))] if names is None else list(names)
    if len(names) != len(rows):
        raise DataError(f"{len(names)} names for {len(rows)} directions: give one each")
    return lens_of(model, names, rows, top=top)


def read_action(
    run: Run,
    entry_id: str,
    *,
    top: int = 8,
    others: Sequence[Run] = (),
    dictionary: str | Path | None = None,
    tensor: str | None = None,
    model: "LoadedModel | None" = None,
) -> ActionReading:
    """What an action means: steps along it, task subspace, erasure, a dictionary, other runs' actions, the Jacobian lens. `stir show`.

    Steps, subspace and erasure (LEACE, Belrose et al. 2023, arXiv 2306.03819) are read from recorded states, without a model.
    docs/explanation/meaning.md says what each shows and what it cannot.

    Args:
        entry_id: a corrective entry, e.g. ``"p0032c"``.
        top: how many steps at each end, features and other runs' actions to list.
        others: runs of the same model whose actions at the same layer are compared.
        dictionary: safetensors file with the decoder of a sparse autoencoder or transcoder, ``[features, d_model]`` or turned.
        tensor: its name in that file; ``None``: ``W_dec``, ``decoder.weight``, and other usual ones.
        model: the run's own model, for the Jacobian lens; by default it is left out.

    Returns:
        Projections in residual-stream units, AUCs with 95 % intervals over problems, shares of squared norm from 0 to 1, cosines.

    Raises:
        DataError: no such action, ``top`` below 1, or another run without actions at this layer.
        MismatchError: another run or the model is of another model.
        ModelError: the model has no Jacobian lens.
        StoreError: rollouts, states or actions have not finished, or the file is no dictionary of this width.
    """
    _checked(run, "Run")
    if model is not None:
        _checked(model, "LoadedModel")
    from stir_core.evaluate.meaning import meaning_of

    file = None if dictionary is None else Path(dictionary)
    return meaning_of(run, entry_id, top=top, others=others, dictionary=file, tensor=tensor, model=model)


def probe(run: Run, layer: int | None = None) -> ProbeReport:
    """Whether recorded states tell right from wrong by something that problems share, before steering. Needs no model. `stir probe`.

    Each read-out scores a problem's states from the other problems alone: difference of means, nearest neighbours, a logistic probe, and
    the margin of the keys that the gate retrieves by. docs/evaluation.md says how.

    Args:
        run: with finished rollouts and states.
        layer: only this harvested layer, chosen before looking; ``None``: all of them.

    Returns:
        AUCs in [0, 1] with 95 % intervals over problems, pooled over control points (Holm-corrected) and at each, and a ``verdict``.

    Raises:
        ConfigError: the layer was not harvested.
        StoreError: rollouts or states have not finished.
    """
    _checked(run, "Run")
    from stir_core.evaluate.probe import probe_run

    return probe_run(run, layer)


def coherence(run: Run) -> CoherenceReport:
    """Whether the coherence of the equations that rollouts write tells right answers from wrong ones. Needs no model. `stir coherence`.

    Beside strict coherence and the rule that ATP-Latent rewards (arXiv 2601.21598) stand other scores that need no label: agreement of the
    problem's rollouts, mean log-probability, and length.

    Args:
        run: with finished rollouts.

    Returns:
        For each score its means and its AUC, over all pairs and over pairs of answers to one problem, with 95 % intervals over problems.

    Raises:
        StoreError: rollouts have not finished.
        DataError: the answers are all right, or all wrong.
    """
    _checked(run, "Run")
    from stir_core.evaluate.coherence import coherence_run

    return coherence_run(run)


def codebook(
    run: Run,
    *,
    kind: Literal["vq", "rvq", "fsq", "kmeans"] | None = None,
    size: int | None = None,
    encoder: Literal["state", "delta", "window"] | None = None,
    redo: bool = False,
    model: "LoadedModel | None" = None,
    report: OnProgress | None = None,
) -> CodebookReport:
    """Quantise all steps of a run into codes, and report what the codes keep and go with. `stir codebook`.

    The first call reads the rollouts with the model once; others need none. docs/evaluation.md says how it is judged. Its entries are the
    library ``"codes"``.

    Args:
        run: with finished rollouts; not an embedded one, which is never written to.
        kind: quantiser; like ``size`` (number of codes) and ``encoder`` (what is coded of a step), the run's config says if not given.
        redo: replace a codebook that was made with other settings.
        model: the run's model, if it is loaded already.
        report: called with the progress.

    Raises:
        ConfigError: a setting out of range, or more codes than the steps allow.
        DataError: steps of fewer than two problems.
        StoreError: rollouts have not finished, an embedded run, or another codebook without ``redo``.
        MismatchError: another model than the run's.
    """
    _checked(run, "Run")
    from stir_core.stages.pipeline import make_codebook

    given = {name: value for name, value in (("kind", kind), ("size", size), ("encoder", encoder)) if value is not None}
    return make_codebook(run, given, redo=redo, model=model, report=report or (lambda progress: None))


def calibrate(
    rungs: Sequence[str | Path] = (),
    out: str | Path = "runs/calibration",
    *,
    n: int | None = None,
    quick: bool = False,
    report: OnProgress | None = None,
) -> CalibrationReport:
    """Judge the instruments on organisms, models whose latent modes are known: what they say against what is planted. `stir calibrate`.

    Organisms are calibration objects: no figure of them is evidence that STIR helps a real model. docs/calibration.md says what is judged.

    Args:
        rungs: names of embedded organisms (``"two_habits"``, ...), or folders of ones that `stir organism train` made; none: all embedded.
        out: folder of the runs and of the result, ``calibration.json``; the same call resumes.
        n: held-out problems; 500 if not given, with ``quick`` 40.
        quick: a smaller harvest in two minutes, which shows that everything runs and little else.
        report: called with the progress of each stage.

    Returns:
        Every figure by rung, ``causal_coverage``, and the marks that ``passed`` and ``failed``, each with what was expected and seen.

    Raises:
        ModelError: a name that is no organism.
        ConfigError: no problems.
        StoreError: the folder holds results made with other settings.
    """
    from stir_core.calibration.ladder import calibrate as judge

    return judge([str(rung) for rung in rungs], Path(out), n=n, quick=quick, report=report or (lambda progress: None))


def measure_causal(run: Run, model: "LoadedModel", **settings: Any) -> CausalReport:
    """Measure the causal effect of actions: continuations from logged states with an action, without it, and with noise of its size.

    Results are written below ``run.work / "causal"`` as they arrive (``causal-codes`` for ``study="codes"``, which measures the library of
    codes, and ``causal-own`` for ``study="own"``, which asks whether a problem's own action helps its own undecided rollouts); the same
    call resumes. `stir causal`, docs/evaluation.md.

    Args:
        settings: fields of ``stir_core.requests.CausalRequest``, the flags of `stir causal` with underscores: ``n`` held-out problems of
            ``split``, ``states`` at most, ``rolls`` continuations of an arm, ``halving``, ``strength`` (k_scale), ``max_new_tokens``,
            ``budget_tokens``, ``rows`` side by side, ``fresh``.

    Returns:
        Effects as differences of shares of right answers with 95 % score intervals and p-values, problems as clusters.

    Raises:
        ConfigError: an unknown setting, or a value out of range.
        DataError: problems that were mined, or too few of them.
        StoreError: an empty library, or the folder holds a study with other settings.
        MismatchError: the run was made with another model.
    """
    request = section_from(CausalRequest, settings)
    _checked(run, "Run")
    _checked(model, "LoadedModel")
    from stir_core.evaluate.causal import measure
    from stir_core.stages.pipeline import short_environment

    return measure(run, model, request, command=None, environment=short_environment())[0]


def policy(run: Run, model: "LoadedModel", **settings: Any) -> PolicyReport:
    """Learn gates from decisions that are drawn on further problems of the mined split; estimate each, then run it. `stir policy`.

    Afterwards ``stir:policy=probe`` (``direct``, ``ips``, ``awr``) is a method of :func:`evaluate_methods`, and
    ``with_changes(gate, policy="direct")`` a gate of :func:`steer`. Results are written below ``run.work / "policy"`` as they arrive; the
    same call resumes.

    Args:
        settings: fields of ``stir_core.requests.PolicyRequest``, the flags of `stir policy` with underscores: ``n`` problems that are
            logged, ``further`` ones for the on-policy run, ``rollouts`` of each, ``eps``, ``rolls``, ``temperature``, ``risk``,
            ``max_new_tokens``, ``rows`` side by side, ``fresh``.

    Returns:
        One row for each gate with off-policy estimates of its mean reward (IPS, SNIPS, doubly robust), its run, and a verdict.

    Raises:
        ConfigError: an unknown setting, or a value out of range.
        DataError: too few problems behind the mined ones, or no decision to draw.
        StoreError: a library without actions, or the folder holds a study with other settings.
        MismatchError: the run was made with another model.
    """
    request = section_from(PolicyRequest, settings)
    _checked(run, "Run")
    _checked(model, "LoadedModel")
    from stir_core.evaluate.policy import learn
    from stir_core.stages.pipeline import short_environment

    return learn(run, model, request, command=None, environment=short_environment())[0]


def read_causal(run: Run, study: CausalStudyName = "gate") -> CausalStudy:
    """A causal study of a run on disk, finished or not; the embedded runs have one. Needs no model.

    Args:
        study: ``"codes"``: of the library of codes; ``"own"``: of problems' own actions at their own rollouts.

    Returns:
        The report and its continuations: ``stir.to_frame(stir.read_causal(run).rolls)`` gives one row for each.

    Raises:
        StoreError: the run has no study, or its files are damaged.
    """
    _checked(run, "Run")
    folder = CausalFolder(run, study)
    if not folder.reported:
        command = f"stir causal {run.name}" + (f" --study {study}" if study != "gate" else "")
        raise StoreError(f"the actions of run {run.name} have not been measured yet: `{command}` does it")
    return CausalStudy(folder.report(), folder.rolls())


def evaluate_methods(
    run: Run,
    model: "LoadedModel",
    methods: Sequence[str] = ("stir",),
    **settings: Any,
) -> EvaluationReport:
    """Compare methods on the same problems and budget, paired by problem, with intervals, tests and costs. `stir eval`.

    Answers are written below ``run.work / "evaluation" / label`` as they arrive; the same call resumes.

    Args:
        methods: e.g. ``"stir"``, ``"stir:k_scale=0.5"``, ``"stir:library=shuffled"``, ``"deer"``; `stir methods` lists them.
        settings: fields of ``stir_core.requests.EvaluationRequest``, the flags of `stir eval` with underscores: ``n`` problems of ``task``
            and ``split``, ``levels``, ``baseline``, ``seeds`` of methods that sample, ``max_new_tokens``, ``template``, ``label`` on disk,
            ``rows`` side by side, ``fresh``, ``allow_leak``.

    Returns:
        Accuracies with Wilson 95 % intervals; differences with score intervals, exact McNemar p-values, Holm-corrected;
        tokens and FLOPs for each answer.

    Raises:
        ConfigError: an unknown method or setting, or a value out of range.
        DataError: an unknown task or split, too few problems, or problems that were mined.
        StoreError: no finished basis, or the label holds an evaluation with other settings.
        MismatchError: the run was made with another model.
    """
    request = section_from(EvaluationRequest, {**settings, "methods": methods})
    _checked(run, "Run")
    _checked(model, "LoadedModel")
    from stir_core.evaluate.runner import evaluate, settle
    from stir_core.stages.pipeline import short_environment

    spec, problems = settle(run, model.identity, request, command=None, environment=short_environment())
    return evaluate(run, model, spec, problems)[0]


def curriculum(run: Run, model: "LoadedModel", **settings: Any) -> CurriculumReport:
    """Raise the share of latently handled steps while the accuracy on validation problems holds. `stir curriculum`.

    A handled step gets the impulse of the candidate with the highest predicted advantage; with ``how="skip"`` it is not written either.
    The answers are an evaluation of the run, ``curriculum-HOW``; the same call resumes. docs/evaluation.md says how a share is raised.

    Args:
        run: with learned gates (`stir policy`).
        settings: fields of ``stir_core.requests.CurriculumRequest``, the flags of `stir curriculum` with underscores: ``how``, ``n``
            problems of ``split``, first ``step``, allowed ``margin``, ``label``, ``rows`` side by side.

    Returns:
        Accuracies, differences and tokens by share and by order of the steps, the largest share that held, and a ``verdict``.

    Raises:
        ConfigError: an unknown setting, or a value out of range.
        DataError: too few problems, problems that were mined, or no step that could be handled.
        StoreError: the run has no learned gates, or the label holds an evaluation with other settings.
    """
    request = section_from(CurriculumRequest, settings)
    _checked(run, "Run")
    _checked(model, "LoadedModel")
    from stir_core.evaluate.curriculum import raise_share
    from stir_core.stages.pipeline import short_environment

    return raise_share(run, model, request, environment=short_environment())[0]


def report_text(report: EvaluationReport | CausalReport) -> str:
    """An evaluation or a causal study as Markdown: its settings, its tables with intervals, and its caveats.

    Raises:
        DataError: something that is not a report.
    """
    from stir_core.evaluate.causal_text import causal_markdown
    from stir_core.evaluate.report import evaluation_markdown

    if not isinstance(report, EvaluationReport):
        _checked(report, "CausalReport")
    return evaluation_markdown(report) if isinstance(report, EvaluationReport) else causal_markdown(report)


def export_library(
    source: Run | Bundle | str | Path,
    out: str | Path,
    *,
    to: str = "bundle",
    library: Literal["curated", "basis", "all", "codes"] | None = None,
    only: str | None = None,
) -> Path:
    """Write a library for another program, whole or not at all. `stir export`; docs/deployment.md lists what each target keeps and loses.

    Args:
        source: a run or a bundle, or the folder of one.
        out: folder to write; an older export of the same kind is replaced, other files are not.
        to: ``"bundle"`` (for :class:`SteeredModel`), ``"gguf"`` (llama.cpp control vectors), ``"easysteer"``, ``"published"``.
        library: which of the run's libraries (``None``: the curated one); ``only``: ``"starred"``, ``"tag:NAME"`` or ``"ids:A,B"`` of it.

    Returns:
        The folder.

    Raises:
        DeployError: no such target, no action to steer with, or a folder that holds other files.
        CurationError: no entry has that star or tag.
        StoreError: the run has no finished basis, or its files are damaged.
    """
    from stir_core.deploy.export import export

    export(open_source(source), Path(out), to=to, library=library, only=only)
    return Path(out)


def export_targets(source: Run | Bundle | str | Path) -> "list[ExportTarget]":
    """The parts of a library that each target of :func:`export_library` keeps and loses, beginning with the target that keeps most.

    Args:
        source: a run (its curated library) or a bundle, or the folder of one.

    Raises:
        DeployError: no action to steer with.
        StoreError: the run has no finished basis.
    """
    from stir_core.deploy.export import make_bundle, targets_for

    source = open_source(source)
    return targets_for(make_bundle(source) if isinstance(source, Run) else source)


def certify_bundle(
    steered: "SteeredModel",
    session: "Session",
    problems: Sequence[Problem],
    *,
    target: Literal["runtime", "server"] = "runtime",
    max_new_tokens: int | None = None,
) -> Certificate:
    """Answer problems with a session and with a deployed bundle, compare, and write the certificate into the bundle. `stir certify`.

    Both answer vanilla and steered. Decisions, tokens and texts must be equal, and numbers within the ``tolerances``.

    Args:
        steered: the bundle on a model.
        session: the reference, a session of the run or of the bundle itself.
        problems: problems for both to answer.
        target: ``"server"`` asks ``steered`` through a server in this process.
        max_new_tokens: budget of an answer; the bundle's own by default.

    Returns:
        ``passed``, ``first_difference``, ``worst`` differences (logits, nats, score, cosine), and one row for each problem in ``prompts``.

    Raises:
        DeployError: the bundle's folder is not whole, or the server did not answer.
        PromptError: a problem that is too long for the context.
    """
    from stir_core.deploy.certify.certificate import put
    from stir_core.deploy.certify.parity import certify_decisions

    reference = "a session of the workbench's engine"
    certificate = certify_decisions(steered, session, problems, target, reference=reference, max_new_tokens=max_new_tokens)
    put(steered.bundle.folder, certificate)
    return certificate


def model_folder(name: str = "smollm2") -> Path:
    """A model's folder in Hugging Face layout, for plain transformers. A GGUF file is converted once.

    Args:
        name: a model as for :func:`load_model`.

    Raises:
        ModelError: unknown name, or unreadable files.
    """
    from stir_core.models.catalogue import prepare, resolve

    return prepare(resolve(name))
