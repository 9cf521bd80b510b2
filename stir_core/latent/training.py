"""Train a reasoner step by step (SFT), and load one. Seeded and resumable; chains on the CPU, a model of the catalogue on any device."""

import json
from collections.abc import Callable, Mapping
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from stir_core.config import LATER, section_from
from stir_core.errors import ConfigError, DataError, StoreError, first_line
from stir_core.latent.base import check_frame, marked_model
from stir_core.latent.frame import LatentBatch, LatentOptions, LatentPhase, LatentRecipe, Reasoner
from stir_core.latent.registry import strategy
from stir_core.latent.words import MARKERS, EncodedProblem, batch_of, encoded, markers_of, modular_tokenizer, training_batch
from stir_core.models.catalogue import prepare, resolve, weights_digest
from stir_core.models.loading import device_of
from stir_core.models.small import restore_checkpoint, save_checkpoint, save_small, small_llama, train_in
from stir_core.records import OnProgress, Progress
from stir_core.requests import LatentRequest, LatentTraining
from stir_core.seeding import generator_for, seed_for
from stir_core.store.files import file_sha256, write_whole
from stir_core.store.latents import latent_facts, latent_folder
from stir_core.store.tensors import read_tensors
from stir_core.tasks.modular import ModularSetting, modular_setting
from stir_core.tasks.solutions import SolvedProblems, read_solutions

HEADS = "heads.safetensors"
"""The parts of a reasoner beside its language model."""


_UNREADABLE = (StoreError, ConfigError, DataError, ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, SafetensorError)
"""What transformers and the parsers raise on damaged files; a tokenizer file that is ``null`` is an ``AttributeError``."""


class CurveLine(NamedTuple):
    """One point of a training's loss curve."""

    step: int
    replaced: int
    """Reasoning steps that are not written, at this step."""
    terms: dict[str, float]
    """Weighted terms of the loss: means over the steps since the line before."""


class TrainedReasoner(NamedTuple):
    """A reasoner as it is in its folder."""

    reasoner: Reasoner
    words: PreTrainedTokenizerBase
    setting: ModularSetting | SolvedProblems
    facts: dict[str, Any]
    """What ``training.json`` holds: everything that decided the weights."""

    @property
    def chains(self) -> ModularSetting:
        """Its setting, where it was trained on chains.

        Raises:
            DataError: it was trained on a file.
        """
        if not isinstance(self.setting, ModularSetting):
            raise DataError(
                f"this reasoner was trained on {self.setting.name}, not on chains whose every value is known: "
                "`stir latent eval --data FILE` says what it answers"
            )
        return self.setting


class _Pace(NamedTuple):
    """How the optimiser goes; the default is that of chains."""

    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    warmed: bool = True
    """Whether the rate rises at first and falls at last."""
    epoch: int = 0
    """Training steps after which a fresh optimiser begins, where that is asked for, beside the ends of phases."""
    dtype: torch.dtype | None = None
    """Of passes, where it is not that of the weights."""


def train_latent(
    name: str,
    out: Path | str,
    *,
    setting: str = "easy",
    seed: int = 0,
    start: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: LatentRecipe | Mapping[str, Any] | None = None,
    report: OnProgress = lambda progress: None,
) -> Path:
    """Train a reasoner whose steps are latents, or go on with an interrupted training. `stir latent train`.

    Args:
        setting: which chains are asked; ``"easy"``, ``"hard"`` or ``"orders"``.
        name: a strategy, such as ``"atp"``.
        out: model folder: config, weights and tokenizer as any model has them, ``heads.safetensors`` (the strategy's own parts),
            ``training.json`` and the loss curve, ``training.jsonl`` (:class:`CurveLine`).
        start: folder of a finished training whose weights are the start: of one that writes its steps, in place of the recipe's first
            phase; of one with latents, whose parts of the same name are taken over too, in place of all phases but the last.
        options: that differ from the strategy's defaults.
        recipe: sizes, and how many steps each phase has: of :class:`LatentRecipe`, or what differs from its defaults.

    Returns:
        The folder.

    Raises:
        ConfigError: no such strategy, or an option that it cannot take.
        DataError: no such setting, the start is of another kind, or the folder holds something else.
    """
    kind, out, seed = strategy(name), Path(out), section_from(LatentRequest, {"seed": seed}).seed
    recipe = recipe if isinstance(recipe, LatentRecipe) else section_from(LatentRecipe, recipe or {})
    start = None if start is None else latent_folder(start)
    chosen = section_from(kind.options_type, options or {})
    facts: dict[str, Any] = {"strategy": name, "stage": "sft", "setting": modular_setting(setting).name, "seed": seed}
    facts |= {"start": None if start is None else weights_of(start), "options": _told(chosen), "recipe": recipe.model_dump()}

    def work(checkpoint: Path) -> list[dict[str, Any]]:
        words = modular_tokenizer(modular_setting(setting))
        torch.manual_seed(seed_for(seed, "latent weights", setting))  # the same language model for every strategy
        started = None if start is None else _started(start, setting)
        lm = started.lm if started else small_llama(words, d_model=recipe.d_model, layers=recipe.layers, heads=recipe.heads)
        reasoner, phases = _begun(kind, lm, words, modular_setting(setting), chosen, recipe, seed, started)

        def batch_at(step: int) -> LatentBatch:
            return training_batch(step, modular_setting(setting), seed, recipe, words)

        curve = _fit(reasoner, recipe, phases, seed, batch_at, _Pace(), checkpoint, report)
        save_reasoner(out, reasoner, words)
        return [line._asdict() for line in curve]

    return train_in(out, facts, f"{name}, setting {setting}, seed {seed}, with its options, recipe and start", work)


def train_latent_model(
    out: Path | str, *, start: Path | str | None = None, report: OnProgress = lambda progress: None, **settings: Any
) -> Path:
    """Train a model of the catalogue to think in latents on a file of problems, or go on with an interrupted training. `stir latent train`.

    Args:
        out: model folder, as :func:`train_latent` makes it.
        start: folder of a finished training of the same model, as for :func:`train_latent`.
        settings: fields of ``stir_core.requests.LatentTraining``, the keys of an experiment file: ``data``, a file of problems; ``model``,
            ``strategy`` and its ``options``, epochs of each phase, ``batch``, ``rate``, ``device``.

    Returns:
        The folder.

    Raises:
        ConfigError: an unusable setting, no such strategy, or one that only chains can be trained with.
        DataError: the file cannot be read or has problems that are too long, the start is of another model, or the folder holds something
            else.
        ModelError: the model cannot be read, or not as latents need it.
    """
    training, out = section_from(LatentTraining, settings), Path(out)
    kind = strategy(training.strategy)
    if kind.chains_only:
        raise ConfigError(f"{kind.name} relies on steps of equally many tokens, which only chains have: take another strategy")
    chosen, device = section_from(kind.options_type, training.options), device_of(training.device)
    data, source = read_solutions(Path(training.data), training.longest), resolve(training.model)
    epoch = -(-len(data.problems) // training.batch)
    recipe = LatentRecipe(
        written=training.written * epoch,
        stage=training.stage * epoch,
        final=training.final * epoch,
        batch=training.batch,
        rate=training.rate,
        latent_rate=training.rate,
        weight_decay=training.weight_decay,
        checkpoint=training.checkpoint,
    )
    weights = weights_digest(source, prepare(source))
    start = None if start is None else latent_folder(start)
    facts: dict[str, Any] = {"strategy": kind.name, "stage": "sft", "setting": data.name, "seed": training.seed}
    facts |= {"model": {"name": training.model, "weights": weights, "dtype": training.dtype, "device": device.type}}
    facts |= {"data": described(data), "start": None if start is None else weights_of(start), "options": _told(chosen)}
    facts |= {"recipe": {key: getattr(training, key) for key in _RECIPE}}

    def work(checkpoint: Path) -> list[dict[str, Any]]:
        lm, words = marked_model(training.model)
        started = None
        if start is not None:
            held = load_reasoner(start)
            if held.facts.get("model", {}).get("weights") != weights:
                raise DataError(f"{start} was not trained from {training.model}: start from a training of the same model")
            started, lm = held.reasoner, held.reasoner.lm
        reasoner, phases = _begun(kind, lm, words, data, chosen, recipe, training.seed, started)
        reasoner.to(device)
        check_frame(training.model, reasoner, words)
        problems = encoded(words, data.problems)
        _refuse_long(data, problems, reasoner, training.model)

        def batch_at(step: int) -> LatentBatch:
            order = generator_for(training.seed, "latent data", step // epoch).permutation(len(problems))
            first = step % epoch * training.batch
            return batch_of([problems[int(i)] for i in order[first : first + training.batch]])

        pace = _Pace((0.9, 0.999), training.clip, False, epoch, torch.bfloat16 if training.dtype == "bfloat16" else None)
        curve = _fit(reasoner, recipe, phases, training.seed, batch_at, pace, checkpoint, report)
        save_reasoner(out, reasoner, words)
        return [line._asdict() for line in curve]

    return train_in(out, facts, f"{kind.name}, {training.model} on {data.name}, with its settings and start", work)


def _told(options: LatentOptions) -> dict[str, Any]:
    """Options as they are kept: those of later versions only where they matter, so that a training of before goes on."""
    return {key: value for key, value in options.model_dump().items() if key not in LATER or value != LATER[key]}


_RECIPE = ("written", "stage", "final", "batch", "rate", "weight_decay", "clip", "checkpoint")


def described(data: SolvedProblems) -> dict[str, Any]:
    """What ``training.json`` says of a file."""
    return {"name": data.name, "sha256": data.sha256, "longest": data.longest, "problems": len(data.problems), "left_out": data.left_out}


def _refuse_long(data: SolvedProblems, problems: list[EncodedProblem], reasoner: Reasoner, model: str) -> None:
    room = getattr(reasoner.lm.config, "max_position_embeddings", None) or float("inf")
    for problem, each in zip(data.problems, problems, strict=True):
        n = len(each.question) + sum(map(len, each.steps)) + len(each.answer) + reasoner.most + 2
        if n > room:
            raise DataError(f"{data.name}: the problem {problem.question[:40]!r} needs {n} tokens, and {model} reads {room}: leave it out")


def _begun(
    kind: type[Reasoner],
    lm: PreTrainedModel,
    words: PreTrainedTokenizerBase,
    setting: ModularSetting | SolvedProblems,
    options: LatentOptions,
    recipe: LatentRecipe,
    seed: int,
    started: Reasoner | None,
) -> tuple[Reasoner, list[LatentPhase]]:
    """A reasoner with its own parts, or those of its start, and the phases that it has to go through."""
    torch.manual_seed(seed_for(seed, "latent heads", kind.name, setting.name))
    reasoner = kind(lm, markers_of(words), setting, options)
    phases = reasoner.phases(recipe, started=started is not None)
    if started is not None and started.most:
        parts = reasoner.state_dict()
        reasoner.load_state_dict(
            {name: value for name, value in started.state_dict().items() if name in parts and value.shape == parts[name].shape},
            strict=False,
        )
        phases = phases[-1:]
    return reasoner, phases


def _fit(
    reasoner: Reasoner,
    recipe: LatentRecipe,
    phases: list[LatentPhase],
    seed: int,
    batch_at: Callable[[int], LatentBatch],
    pace: _Pace,
    checkpoint: Path,
    report: OnProgress,
) -> list[CurveLine]:
    phases = [phase for phase in phases if phase.steps]
    if not phases:
        raise ConfigError("this training has no step: give one of its phases some")
    ends = list(accumulate(phase.steps for phase in phases))
    optimiser = fresh_optimiser(reasoner, recipe, pace.betas)
    curve = [CurveLine(*line) for line in restore_checkpoint(checkpoint, reasoner, optimiser)]
    sums: dict[str, float] = {}
    since = curve[-1].step if curve else 0
    for step in range(since, ends[-1]):
        phase = _phase_at(step, phases, ends)
        if reasoner.options.fresh_optimiser and (step in ends or (pace.epoch and step % pace.epoch == 0)):
            optimiser = fresh_optimiser(reasoner, recipe, pace.betas)
        for name, weight in reasoner.named_parameters():
            weight.requires_grad_(name.startswith(phase.only))
        noise = torch.Generator().manual_seed(seed_for(seed, "latent noise", step))
        with torch.autocast(reasoner.device.type, pace.dtype, enabled=pace.dtype is not None):
            terms = reasoner.losses(reasoner.unroll(batch_at(step), phase.replaced, noise))
        share = _share_of_rate(step, ends[-1]) if pace.warmed else 1.0
        optimiser.param_groups[0]["lr"] = (recipe.latent_rate if phase.replaced else recipe.rate) * share
        optimiser.zero_grad()
        refuse_unfinite_loss(step + 1, {term: value.item() for term, value in terms.items()})
        torch.stack(list(terms.values())).sum().backward()
        if pace.clip:
            torch.nn.utils.clip_grad_norm_(reasoner.parameters(), pace.clip)
        optimiser.step()
        for term, value in terms.items():
            sums[term] = sums.get(term, 0.0) + value.item()
        done = step + 1
        if done % recipe.checkpoint == 0 or done == ends[-1]:
            curve.append(CurveLine(done, phase.replaced, {term: round(total / (done - since), 5) for term, total in sums.items()}))
            sums, since = {}, done
            save_checkpoint(checkpoint, reasoner, optimiser, curve)
        shown = ", ".join(f"{term} {value.item():.3f}" for term, value in terms.items())
        report(Progress(reasoner.name, done, ends[-1], f"steps, {phase.replaced} latent, {shown}"))
    return curve


def refuse_unfinite_loss(step: int, terms: Mapping[str, float]) -> None:
    """Stop a training before its weights are lost.

    Raises:
        DataError: a term of the loss is infinite or not a number.
    """
    if wrong := [f"{term} {value}" for term, value in terms.items() if not isfinite(value)]:
        raise DataError(f"the loss is not finite at step {step} ({', '.join(wrong)}): lower the rate or the weight of that term")


def _phase_at(step: int, phases: list[LatentPhase], ends: list[int]) -> LatentPhase:
    return next(phase for phase, end in zip(phases, ends, strict=True) if step < end)


def fresh_optimiser(reasoner: Reasoner, recipe: LatentRecipe, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW over all parameters of a reasoner."""
    return torch.optim.AdamW(reasoner.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, betas=betas)


def _share_of_rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100, 0.1 + 0.9 * 5 * (steps - step) / steps)


def _started(folder: Path, setting: str) -> Reasoner:
    started = load_reasoner(folder)
    if started.chains.modulus != modular_setting(setting).modulus:  # its words are other ones
        raise DataError(f"{folder} was trained on the setting {started.setting.name}, whose numbers are not those of {setting}: start anew")
    return started.reasoner


def save_reasoner(out: Path, reasoner: Reasoner, words: PreTrainedTokenizerBase) -> None:
    """Write a reasoner: its language model as any other model, and its own parts beside it."""
    heads = {name: value.detach().contiguous() for name, value in reasoner.state_dict().items() if not name.startswith("lm.")}
    write_whole(out / HEADS, save(heads))
    save_small(out, reasoner.lm, words)


def load_reasoner(folder: Path | str) -> TrainedReasoner:
    """A trained reasoner, from its folder or by the name of one that comes with the package.

    One that was trained on a file is on a CUDA device where there is one.

    Raises:
        StoreError: no such folder or name.
        DataError: the folder holds no finished training of a reasoner.
    """
    folder = latent_folder(folder)
    curve = folder / "training.jsonl"
    if not curve.is_file():
        raise DataError(f"{folder} holds no finished reasoner: make or finish it with `stir latent train`")
    for name in ("config.json", "model.safetensors", HEADS):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: copy the folder again, or train it again")
    hf_logging.disable_progress_bar()  # it draws a bar for each tensor; callers show their own progress
    try:
        if not [json.loads(line) for line in curve.read_text("utf-8").splitlines()]:
            raise ValueError(f"{curve.name} is empty")
        facts = latent_facts(folder)
        kind, data = strategy(facts["strategy"]), facts.get("data")
        setting = SolvedProblems(data["name"], data["sha256"], data["longest"]) if data else modular_setting(facts["setting"])
        options = section_from(kind.options_type, dict(facts["options"]))
        for name in ("model.safetensors", HEADS):
            read_tensors(folder / name)  # refuses values that are not finite
        own: dict[str, Any] = {"attn_implementation": "eager"} if data else {}  # as it was trained
        read: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **own
        )
        lm, loaded = read
        if unfit := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"]}):
            raise ValueError(f"config.json and model.safetensors do not fit: {unfit[0]}")
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if isinstance(setting, ModularSetting):
            same = words.get_vocab() == modular_tokenizer(setting).get_vocab() and len(words) == lm.config.vocab_size
        else:
            same = set(MARKERS) <= words.get_vocab().keys() and len(words) <= lm.config.vocab_size
        if not same:
            raise ValueError(f"its tokens are not those of the setting {setting.name}")
        if words.eos_token_id is None:
            raise ValueError("its tokenizer names no end-of-text token")
        reasoner = kind(lm, markers_of(words), setting, options)
        if facts["stage"] == "rl" and facts["rl"]["frozen_table"] and hasattr(reasoner, "freeze_table"):
            reasoner.freeze_table()  # type: ignore[operator]
        missing = reasoner.load_state_dict(load((folder / HEADS).read_bytes()), strict=False)
        lacking = [name for name in missing.missing_keys if not name.startswith("lm.")]
    except _UNREADABLE as error:
        why = f"{error} is missing in its files" if isinstance(error, KeyError) else first_line(error)
        raise DataError(f"{folder} holds no reasoner that can be read ({why}): copy it again, or train it again") from None
    if lacking or missing.unexpected_keys:
        raise DataError(
            f"{folder / HEADS} does not fit the strategy {kind.name} ({[*lacking, *missing.unexpected_keys][0]}): train it again"
        )
    if data:
        reasoner.to(device_of("auto"))
    return TrainedReasoner(reasoner.eval(), words, setting, facts)


def weights_of(folder: Path) -> str:
    """SHA-256 of a reasoner's language model.

    Raises:
        DataError: it is missing.
    """
    file = folder / "model.safetensors"
    if not file.is_file():
        raise DataError(f"{file} is missing: give the folder of a finished `stir latent train`")
    return file_sha256(file)
