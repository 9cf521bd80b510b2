"""Train a reasoner step by step (SFT), and load one. Seeded, resumable, on the CPU."""

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from stir_core.config import section_from
from stir_core.errors import ConfigError, DataError, StoreError, first_line
from stir_core.latent.frame import LatentPhase, LatentRecipe, Reasoner
from stir_core.latent.registry import strategy
from stir_core.latent.words import markers_of, modular_tokenizer, training_batch
from stir_core.models.small import restore_checkpoint, save_checkpoint, save_small, small_llama, train_in
from stir_core.records import OnProgress, Progress
from stir_core.seeding import seed_for
from stir_core.store.files import file_sha256, write_whole
from stir_core.store.latents import latent_facts, latent_folder
from stir_core.store.tensors import read_tensors
from stir_core.tasks.modular import ModularSetting, modular_setting

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
    words: PreTrainedTokenizerFast
    setting: ModularSetting
    facts: dict[str, Any]
    """What ``training.json`` holds: everything that decided the weights."""


def train_latent(
    name: str,
    out: Path | str,
    *,
    setting: str = "easy",
    seed: int = 0,
    start: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: LatentRecipe | None = None,
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
        recipe: sizes, and how many steps each phase has.

    Returns:
        The folder.

    Raises:
        ConfigError: no such strategy, or an option that it cannot take.
        DataError: no such setting, the start is of another kind, or the folder holds something else.
    """
    kind, recipe, out = strategy(name), LatentRecipe() if recipe is None else recipe, Path(out)
    start = None if start is None else latent_folder(start)
    chosen = section_from(kind.options_type, options or {})
    facts: dict[str, Any] = {"strategy": name, "stage": "sft", "setting": modular_setting(setting).name, "seed": seed}
    facts |= {"start": None if start is None else weights_of(start), "options": chosen.model_dump(), "recipe": recipe.model_dump()}

    def work(checkpoint: Path) -> list[dict[str, Any]]:
        words = modular_tokenizer(modular_setting(setting))
        torch.manual_seed(seed_for(seed, "latent weights", setting))  # the same language model for every strategy
        started = None if start is None else _started(start, setting)
        lm = started.lm if started else small_llama(words, d_model=recipe.d_model, layers=recipe.layers, heads=recipe.heads)
        torch.manual_seed(seed_for(seed, "latent heads", name, setting))
        reasoner = kind(lm, markers_of(words), modular_setting(setting), chosen)
        phases = reasoner.phases(recipe, started=started is not None)
        if started is not None and started.most:
            parts = reasoner.state_dict()
            reasoner.load_state_dict(
                {name: value for name, value in started.state_dict().items() if name in parts and value.shape == parts[name].shape},
                strict=False,
            )
            phases = phases[-1:]
        curve = _fit(reasoner, words, recipe, phases, seed, checkpoint, report)
        save_reasoner(out, reasoner, words)
        return [line._asdict() for line in curve]

    return train_in(out, facts, f"{name}, setting {setting}, seed {seed}, with its options, recipe and start", work)


def _fit(
    reasoner: Reasoner,
    words: PreTrainedTokenizerFast,
    recipe: LatentRecipe,
    phases: list[LatentPhase],
    seed: int,
    checkpoint: Path,
    report: OnProgress,
) -> list[CurveLine]:
    phases = [phase for phase in phases if phase.steps]
    ends = list(accumulate(phase.steps for phase in phases))
    optimiser = fresh_optimiser(reasoner, recipe)
    curve = [CurveLine(*line) for line in restore_checkpoint(checkpoint, reasoner, optimiser)]
    sums: dict[str, float] = {}
    since = curve[-1].step if curve else 0
    for step in range(since, ends[-1]):
        phase = _phase_at(step, phases, ends)
        if reasoner.options.fresh_optimiser and step in ends:
            optimiser = fresh_optimiser(reasoner, recipe)
        batch = training_batch(step, reasoner.setting, seed, recipe, words)
        for name, weight in reasoner.named_parameters():
            weight.requires_grad_(name.startswith(phase.only))
        noise = torch.Generator().manual_seed(seed_for(seed, "latent noise", step))
        terms = reasoner.losses(reasoner.unroll(batch, phase.replaced, noise))
        optimiser.param_groups[0]["lr"] = (recipe.latent_rate if phase.replaced else recipe.rate) * _share_of_rate(step, ends[-1])
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(reasoner.parameters(), 1.0)
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


def _phase_at(step: int, phases: list[LatentPhase], ends: list[int]) -> LatentPhase:
    return next(phase for phase, end in zip(phases, ends, strict=True) if step < end)


def fresh_optimiser(reasoner: Reasoner, recipe: LatentRecipe) -> torch.optim.AdamW:
    """AdamW over all parameters of a reasoner."""
    return torch.optim.AdamW(reasoner.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))


def _share_of_rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100, 0.1 + 0.9 * 5 * (steps - step) / steps)


def _started(folder: Path, setting: str) -> Reasoner:
    started = load_reasoner(folder)
    if started.setting.modulus != modular_setting(setting).modulus:  # its words are other ones
        raise DataError(f"{folder} was trained on the setting {started.setting.name}, whose numbers are not those of {setting}: start anew")
    return started.reasoner


def save_reasoner(out: Path, reasoner: Reasoner, words: PreTrainedTokenizerFast) -> None:
    """Write a reasoner: its language model as any other model, and its own parts beside it."""
    heads = {name: value.detach().contiguous() for name, value in reasoner.state_dict().items() if not name.startswith("lm.")}
    write_whole(out / HEADS, save(heads))
    assert isinstance(reasoner.lm, LlamaForCausalLM)
    save_small(out, reasoner.lm, words)


def load_reasoner(folder: Path | str) -> TrainedReasoner:
    """A trained reasoner, from its folder or by the name of one that comes with the package.

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
    try:
        if not [json.loads(line) for line in curve.read_text("utf-8").splitlines()]:
            raise ValueError(f"{curve.name} is empty")
        facts = latent_facts(folder)
        kind, setting = strategy(facts["strategy"]), modular_setting(facts["setting"])
        options = section_from(kind.options_type, dict(facts["options"]))
        for name in ("model.safetensors", HEADS):
            read_tensors(folder / name)  # refuses values that are not finite
        read: Any = LlamaForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        lm, loaded = read
        if unfit := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"]}):
            raise ValueError(f"config.json and model.safetensors do not fit: {unfit[0]}")
        words = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if words.get_vocab() != modular_tokenizer(setting).get_vocab() or len(words) != lm.config.vocab_size:
            raise ValueError(f"its tokens are not those of the setting {setting.name}")
        reasoner = kind(lm, markers_of(words), setting, options)
        if facts["stage"] == "rl" and facts["rl"]["frozen_table"] and hasattr(reasoner, "freeze_table"):
            reasoner.freeze_table()  # type: ignore[operator]
        missing = reasoner.load_state_dict(load((folder / HEADS).read_bytes()), strict=False)
        lacking = [name for name in missing.missing_keys if not name.startswith("lm.")]
    except _UNREADABLE as error:
        raise DataError(f"{folder} holds no reasoner that can be read ({first_line(error)}): copy it again, or train it again") from None
    if lacking or missing.unexpected_keys:
        raise DataError(
            f"{folder / HEADS} does not fit the strategy {kind.name} ({[*lacking, *missing.unexpected_keys][0]}): train it again"
        )
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
