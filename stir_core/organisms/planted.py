"""The planted directions of an organism: differences of mean states at the delimiters, by the writer's hidden state in the next step.

They are a supervised probe on teacher-forced texts, so they are what a method that knew the truth would inject.
"""

import itertools
import json
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import DataError, ModelError, StoreError, first_line
from stir_core.models.catalogue import resolve
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, batches, forward
from stir_core.organisms.rungs import DELIMITER, Rung, Step, is_right, rung_of, write, written_text
from stir_core.seeding import generator_for
from stir_core.store.tensors import read_tensors
from stir_core.tasks.arithmetic import split_of
from stir_core.tasks.chain import Chain, Operation, all_chains
from stir_core.tasks.segment import boundaries


class WrittenState(NamedTuple):
    """The residual stream at the end of one written step, and the truth about the next."""

    chain: Chain
    m: int
    """Control point: how many steps are written."""
    before: Step
    after: Step
    state: Float[Tensor, "layers d_model"]


class Planted(NamedTuple):
    """Directions of every layer, raw."""

    habit: Float[Tensor, "layers d_model"]
    """Mean state before steps of habit P minus before those of habit Q; zero where there is one habit."""
    tone: Float[Tensor, "layers d_model"]
    """Terse minus wordy."""

    def correction(self, rung: Rung, kind: Operation) -> Float[Tensor, "layers d_model"]:
        """The direction from the wrong habit to the right one for a kind of problem; zero where no habit decides."""
        return self.habit * (int(is_right(rung, "P", kind)) - int(is_right(rung, "Q", kind)))


class Organism(NamedTuple):
    """The truth about a loaded organism."""

    rung: Rung
    planted: Planted


def organism_of(name: str) -> Organism:
    """The truth about the model of that name.

    Raises:
        ModelError: there is no such model, or it is no organism.
    """
    if (organism := organism_named(name)) is None:
        raise ModelError(f"{name} is not an organism: nothing is known to be planted in it; take organism:two_habits, or another")
    return organism


def organism_named(name: str) -> Organism | None:
    """The truth about the model of that name; ``None`` where nothing is known to be planted.

    Raises:
        ModelError: there is no such model, or its training is not finished or not readable.
    """
    folder = resolve(name).path
    facts = folder / "training.json" if folder is not None else None
    if folder is None or facts is None or not facts.is_file():
        return None
    try:
        rung = rung_of(json.loads(facts.read_text("utf-8"))["rung"])
        tensors = read_tensors(folder / "planted.safetensors", ("habit", "tone"))
    except (ValueError, KeyError, TypeError, RecursionError, StoreError, DataError) as error:
        raise ModelError(f"{name} holds no finished organism ({first_line(error)}): finish or repeat `stir organism train`") from None
    directions = Planted(torch.tensor(tensors["habit"]), torch.tensor(tensors["tone"]))
    return Organism(rung, directions)


def written_states(model: LoadedModel, rung: Rung, *, n: int = 400, seed: int = 0) -> list[WrittenState]:
    """States at the control points of ``n`` texts of the rung's writer, on problems of the validation split."""
    rng = generator_for(seed, "planted", rung.name)
    chains = [chain for chain in all_chains() if split_of(chain.canonical) == "validation"]
    drawn = [chains[int(i)] for i in rng.integers(len(chains), size=n)]
    answers = [write(chain, rung, rng) for chain in drawn]
    prompts = [model.chat_ids(chain.question) for chain in drawn]
    texts = [model.tokens(written_text(steps)) for steps in answers]
    layers = tuple(range(model.n_layers))
    states: list[WrittenState] = []
    for part in batches([len(prompt) + len(ids) for prompt, ids in zip(prompts, texts, strict=True)], 4096):
        store = model.new_store()
        feeds: list[Feed] = []
        for prompt, ids in zip(prompts[part], texts[part], strict=True):
            at = tuple(len(prompt) + end - 1 for end in boundaries(ids, model.text, DELIMITER))
            feeds.append(Feed(store.open(), [*prompt, *ids], logits=False, capture=at))
        for chain, steps, seen in zip(drawn[part], answers[part], forward(model, feeds, layers).states, strict=True):
            stacked = torch.stack([seen[layer] for layer in layers]).float().cpu()
            pairs = itertools.pairwise(steps)  # what follows the last step is the line of the answer
            states += [WrittenState(chain, m, *pair, stacked[:, m - 1]) for m, pair in enumerate(pairs, 1)]
    return states


def planted(states: list[WrittenState]) -> Planted:
    """The directions that these states show."""

    def difference(which: np.ndarray) -> Tensor:
        rows = torch.stack([each.state for each in states])
        side = torch.tensor(which)
        return rows[side].mean(0) - rows[~side].mean(0) if side.any() and not side.all() else torch.zeros_like(rows[0])

    habits = np.array([each.after.habit == "P" for each in states])
    return Planted(difference(habits), difference(np.array([each.after.tone == "terse" for each in states])))
