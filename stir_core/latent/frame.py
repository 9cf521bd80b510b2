"""The frame of a reasoner whose steps are latents: a language model, what a latent is, how many there are, and what is trained when.

A sequence is *question, start marker, latents, end marker, remaining steps, answer*. A latent is the input embedding of its position
(at the hook point ``hook_embed``), made from the state before it. A strategy is a subclass of :class:`Reasoner` in a file of
``strategies/``. It says

- ``latent``: what is fed next, a function of the last state (and so of its logits; a recognition network may see the step's tokens), or
  ``given``: what training feeds where it knows that beforehand;
- ``slots``: how many latents stand for how many steps, and ``stop_logits``: when they end;
- ``losses``: the weighted terms of the loss, from everything that one pass over a batch shows (:class:`Unrolled`);
- ``phases``: the curriculum.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from stir_core.config import Section
from stir_core.tasks.modular import ModularSetting
from stir_core.tasks.solutions import SolvedProblems

PADDING = -100
"""In place of a token id where a row of a batch is filled up; the cross-entropy ignores it."""


class Markers(NamedTuple):
    """Ids of the tokens that the frame itself writes."""

    start: int
    """``<|start-latent|>``"""
    latent: int
    """``<|latent|>``: stands for a latent where token ids are kept; its own embedding is never fed."""
    end: int
    """``<|end-latent|>``"""
    eos: int
    stated: int = 1
    """How many tokens of the answer stand before its number."""


class LatentBatch(NamedTuple):
    """Problems as token ids. Rows are filled up with :data:`PADDING`, which changes nothing that is computed for a problem."""

    question: Int[Tensor, "batch question"]
    """Filled up on the left, so that latents stand side by side."""
    steps: Int[Tensor, "batch steps step"]
    """Each ends in the delimiter. Filled up on the right, and so are problems that have fewer steps."""
    answer: Int[Tensor, "batch answer"]
    """Ends in the end-of-text token. Filled up on the right."""

    @property
    def there(self) -> Bool[Tensor, "batch steps"]:
        """Which steps are a problem's own."""
        return self.steps[:, :, 0] != PADDING


def packed(ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch longest"]:
    """Rows with all padding moved to the end, cut to the longest."""
    padded = ids == PADDING
    return ids.gather(1, padded.int().argsort(dim=1, stable=True))[:, : int((~padded).sum(1).max())]


def masking(visible: Bool[Tensor, "batch pos"], last: int, skipped: int = 0) -> dict[str, Tensor]:
    """What a pass over the last positions is told of those that are not to be seen: nothing where all are.

    Args:
        last: how many positions are new.
        skipped: positions left free before the first new one.
    """
    if visible.all():
        return {}
    positions = (visible.long().cumsum(1) - 1).clamp_min(0) + skipped
    return {"attention_mask": visible.long(), "position_ids": positions[:, -last:]}


TrainingSteps = Annotated[int, Field(ge=1, le=10**7)]
Size = Annotated[int, Field(ge=1, le=4096)]
Weight = Annotated[float, Field(ge=0)]
"""Weight of a term of the loss."""


class LatentRecipe(Section):
    """How a reasoner is trained; every strategy has the same number of steps."""

    noun: ClassVar[str] = "recipe key"

    d_model: Size = 96
    """Width of the language model; every head has an even share of it."""
    layers: Size = 3
    """Blocks."""
    heads: Size = 4
    """Attention heads."""
    written: Annotated[int, Field(ge=0, le=10**7)] = 1200
    """Training steps with every reasoning step written (plain CoT), before the first latent; none where another model is the start."""
    stage: Annotated[int, Field(ge=0, le=10**7)] = 400
    """Training steps with the first s reasoning steps latent, for s = 1, 2, ..."""
    final: TrainingSteps = 900
    """Training steps with no reasoning step written."""
    batch: Size = 96
    """Problems in a training step."""
    rate: Weight = 3e-3
    """Learning rate while every step is written; warmed up over 100 steps, and over the last fifth of a training down to a tenth."""
    latent_rate: Weight = 1e-3
    """Learning rate of the other phases, with the same warm-up and end; at 3e-3 what the decoder reads is lost again."""
    weight_decay: Weight = 0.01
    """Of AdamW."""
    checkpoint: Annotated[int, Field(ge=1)] = 100
    """Training steps between two checkpoints; each is a line of the loss curve."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "LatentRecipe":
        if self.d_model % (2 * self.heads):
            about = {"width": self.d_model, "heads": self.heads}
            raise PydanticCustomError("d_model", "d_model {width} is no multiple of twice {heads} heads", about)
        return self


class LatentPhase(NamedTuple):
    """A stretch of the curriculum."""

    steps: int
    """Training steps."""
    replaced: int
    """How many reasoning steps are not written."""
    only: tuple[str, ...] = ("",)
    """What the names of the parameters that are trained begin with; the others are held."""


PerStep = Annotated[int, Field(ge=1, le=64)]
"""Latents for each reasoning step."""


class LatentOptions(Section):
    """Options of all strategies."""

    noun: ClassVar[str] = "option"

    per_step: PerStep = 2
    """Latents for each reasoning step."""
    train_eos: bool = True
    """Train the end-of-text token after the answer. ATP-Latent's code masks it, since it is its padding token, too."""
    fresh_optimiser: bool = False
    """Begin every phase with a fresh optimiser, as Coconut does."""


class Latent(NamedTuple):
    """What is fed at one position."""

    vector: Float[Tensor, "batch d_model"]
    mean: Float[Tensor, "batch d_model"]
    logvar: Float[Tensor, "batch d_model"] | None = None
    """Of the Gaussian that the vector was drawn from; ``None``: the vector is the mean, or what was drawn is not the vector itself."""
    target: Float[Tensor, "batch n"] | None = None
    """What the state before it has to predict, as probabilities over tokens or codes; ``None``: it is free."""


class Unrolled(NamedTuple):
    """A batch read with its latents: what losses are made from."""

    batch: LatentBatch
    states: Float[Tensor, "batch slots d_model"]
    """The state before each slot: the last block's output after the final norm, one position earlier."""
    latents: list[Latent]
    """By slot."""
    stands: Bool[Tensor, "batch slots"]
    """Slots that stand for reasoning steps of their problem; no later position sees another."""
    own: Bool[Tensor, "batch slots"]
    """Slots that the problem has at all, surplus ones too; the others fill up its row."""
    active: int
    """Slots that stand for reasoning steps, of the problem with the most."""
    replaced: int
    """Reasoning steps that are not written, of the problem with the most steps."""
    logits: Float[Tensor, "batch text d_vocab"]
    """Before each token of the text after the latents."""
    text: Int[Tensor, "batch text"]
    """The remaining steps and the answer, filled up on the right."""

    @property
    def there(self) -> Bool[Tensor, "batch replaced"]:
        """Which of the replaced steps are a problem's own."""
        return self.batch.there[:, : self.replaced]

    @property
    def vectors(self) -> Float[Tensor, "batch slots d_model"]:
        """What was fed at each slot."""
        return torch.stack([each.vector for each in self.latents], dim=1)


class Reasoner(nn.Module):
    """A language model whose reasoning steps may be latents: the base of all strategies."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line for tables."""
    source: ClassVar[str]
    """Where it is published."""
    options_type: ClassVar[type[LatentOptions]] = LatentOptions
    chains_only: ClassVar[bool] = False
    """Whether it relies on steps of equally many tokens, as only chains have them."""
    content: ClassVar[Literal["vectors", "states"]] = "vectors"
    """Where what a latent holds is read by decoders and probes: in what is fed, or in the state before it."""
    lm: Any
    """A causal language model of transformers."""

    def __init__(self, lm: PreTrainedModel, markers: Markers, setting: ModularSetting | SolvedProblems, options: LatentOptions):
        super().__init__()
        self.lm, self.markers, self.setting, self.options = lm, markers, setting, options

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.lm.get_input_embeddings().weight.device

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """What is fed after ``state``.

        Args:
            state: the last block's output after the final norm; ``self.lm.get_output_embeddings()(state)`` are the next token's logits.
            noise: standard normal, of the state's shape; ``None``: nothing is drawn.
            step: token ids ``[batch, step]`` of the reasoning step that the latent stands for, for a recognition network; only in training.
        """
        raise NotImplementedError(f"{self.name} has no latents")

    def given(self, batch: LatentBatch, active: int, noise: torch.Generator | None) -> list[Latent] | None:
        """What training feeds at the first ``active`` slots where it knows that without a pass; ``None``: nothing, ``latent`` says it."""
        return None

    def stop_logits(self, vector: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch 2"] | None:
        """Logits of going on and of stopping at a latent that begins a step; ``None``: this strategy never stops by itself."""
        return None

    @property
    def stops(self) -> bool:
        """Whether an answer ends its latents by itself."""
        return self.stop_logits(self.lm.get_input_embeddings().weight[:1]) is not None

    def slots(self, count: int, replaced: int) -> tuple[int, int]:
        """How many latents a problem of ``count`` steps has in training: those that stand for its steps, and surplus ones.

        Args:
            replaced: how many steps are not written in this phase; it may be more than the problem has.
        """
        return self.options.per_step * min(count, replaced), 0

    @property
    def most(self) -> int:
        """How many latents an answer may have."""
        return self.options.per_step * self.setting.longest

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """The curriculum.

        Args:
            started: whether training starts from a model that already writes its steps.
        """
        longest = max(self.setting.counts)
        stages = [LatentPhase(recipe.stage, replaced) for replaced in range(1, longest + 1)]
        return [LatentPhase(0 if started else recipe.written, 0), *stages, LatentPhase(recipe.final, longest)]

    def at_once(self, recipe: LatentRecipe, started: bool) -> list[LatentPhase]:
        """A curriculum without stages: after the written phase every step is latent."""
        longest = max(self.setting.counts)
        return [LatentPhase(0 if started else recipe.written, 0), LatentPhase(longest * recipe.stage + recipe.final, longest)]

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss by name, weighted; their sum is trained on. The base has one, the cross-entropy of the text."""
        labels = seen.text if self.options.train_eos else seen.text.masked_fill(seen.text == self.markers.eos, PADDING)
        return {"text": cross_entropy(seen.logits.flatten(0, 1), labels.flatten(), ignore_index=PADDING)}

    def target_loss(self, seen: Unrolled, table: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
        """Cross-entropy of what the states before the latents have to predict, among the rows of a table; in nats, a mean over slots."""
        targets = torch.stack([each.target for each in seen.latents if each.target is not None], dim=1)
        return cross_entropy((seen.states @ table.T)[seen.stands], targets[seen.stands])

    def embed(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Input embeddings of tokens; of padding, those of some token."""
        return self.lm.get_input_embeddings()(ids.clamp_min(0))

    def read(
        self,
        vectors: Float[Tensor, "batch pos d_model"],
        cache: DynamicCache | None = None,
        visible: Bool[Tensor, "batch seen"] | None = None,
        *,
        skipped: int = 0,
    ) -> Float[Tensor, "batch pos d_model"]:
        """One pass: input embeddings after those in the cache -> states after the final norm; the cache then holds them too.

        Args:
            visible: which positions, of the cache and then of the new ones, are seen and counted; ``None``: all.
            skipped: positions left free before the first.
        """
        n, first = vectors.shape[1], skipped + (0 if cache is None else cache.get_seq_length())
        told = {"position_ids": torch.arange(first, first + n, device=vectors.device)[None]}
        told |= {} if visible is None else masking(visible, n, skipped)
        passed = self.lm.base_model(inputs_embeds=vectors, past_key_values=cache, use_cache=cache is not None, **told)
        return passed.last_hidden_state

    def logits(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of the next token."""
        return self.lm.get_output_embeddings()(states)

    def marked(self, ids: Int[Tensor, "batch pos"], marker: int) -> Int[Tensor, "batch pos+1"]:
        """Token ids with a marker appended."""
        return torch.cat([ids, ids.new_full((len(ids), 1), marker)], dim=1)

    def ended(self, steps: Int[Tensor, "n step"]) -> Int[Tensor, "n step"]:
        """Steps with the end-of-text token in place of their delimiter, as decoders write them."""
        last = ((steps != PADDING).sum(1, keepdim=True) - 1).clamp_min(0)
        return steps.scatter(1, last, self.markers.eos)

    def unroll(self, batch: LatentBatch, replaced: int, noise: torch.Generator | None) -> Unrolled:
        """Read a batch as in training: latents in place of the first steps one pass each, then the remaining text in one pass.

        Where all latents are known beforehand there is one pass in all.

        Gradients flow through all passes. A slot that stands for no step of its problem is seen by no later position, nor counted.

        Args:
            replaced: how many steps are not written, at most.
            noise: source of the latents' noise; ``None``: each latent is its mean.
        """
        batch = LatentBatch(*(ids.to(self.device) for ids in batch))
        counts = batch.there.sum(1).tolist()
        plan = [self.slots(count, replaced) for count in counts]
        slots = torch.tensor(plan, device=self.device).cumsum(1)
        active, room = slots.max(0).values.tolist()
        stands, own = (torch.arange(room, device=self.device) < ends for ends in slots[:, :, None].unbind(1))
        replaced = min(replaced, max(counts))
        text = packed(torch.cat([batch.steps[:, replaced:].flatten(1), batch.answer], dim=1))
        if room == 0:
            ids = torch.cat([batch.question, text[:, :-1]], dim=1)
            states = self.read(self.embed(ids), visible=ids != PADDING)
            logits = self.logits(states[:, batch.question.shape[1] - 1 :])
            return Unrolled(batch, states[:, :0], [], stands, own, active, replaced, logits, text)
        asked = self.marked(batch.question, self.markers.start)
        begun, visible = self.embed(asked), asked != PADDING
        fed = torch.cat([text.new_full((len(text), 1), self.markers.end), text[:, :-1]], dim=1)
        known = self.given(batch, active, noise)
        if known is not None:
            vectors = torch.cat([begun, *(each.vector[:, None] for each in known), self.embed(fed)], dim=1)
            before = self.read(vectors, visible=torch.cat([visible, stands, fed != PADDING], dim=1))[:, begun.shape[1] - 1 :]
            return Unrolled(batch, before[:, :active], known, stands, own, active, replaced, self.logits(before[:, active + 1 :]), text)
        cache = DynamicCache()
        state = self.read(begun, cache, visible)[:, -1]
        states, latents = [], []
        for slot in range(room):
            drawn = None if noise is None else torch.randn(state.shape, generator=noise).to(state)
            step = batch.steps[:, slot * replaced // active] if slot < active else None
            states.append(state)
            latents.append(self.latent(state, drawn, step))
            if slot < active or slot + 1 < room:
                state = self.read(latents[-1].vector[:, None], cache, torch.cat([visible, visible.new_ones(len(visible), 1)], dim=1))[:, -1]
                if slot < active:
                    visible = torch.cat([visible, stands[:, slot, None]], dim=1)
                else:
                    cache.crop(-1)
        logits = self.logits(self.read(self.embed(fed), cache, torch.cat([visible, fed != PADDING], dim=1)))
        return Unrolled(batch, torch.stack(states, dim=1), latents, stands, own, active, replaced, logits, text)
