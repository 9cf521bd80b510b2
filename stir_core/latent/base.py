"""A model of the catalogue as the language model of a reasoner: with the markers of latents as tokens, if the frame can read it."""

from typing import Any

import torch
from transformers import AddedToken, DynamicCache, PreTrainedTokenizerBase

from stir_core.errors import ModelError, first_line
from stir_core.latent.frame import PADDING, Reasoner
from stir_core.latent.words import MARKERS, ONE_QUESTION
from stir_core.models.agreement import UNFIT
from stir_core.models.catalogue import prepare, resolve
from stir_core.models.weights import read_tokenizer, read_weights, refuse_unfinite

_PADDED = 3
"""Padding before the text that a model is tried on."""


def marked_model(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A causal language model of transformers in float32 with eager attention, and its tokenizer, both with the markers of latents.

    The rows of a marker in the embedding tables are copies of those of ``<<``, or the mean of the tokens that ``<<`` is. The chat template
    becomes the question with a line break, as the reasoner is trained on it.

    Raises:
        ModelError: the model cannot be read, or has no end-of-text token.
    """
    folder = prepare(resolve(name))
    words, lm = read_tokenizer(name, folder), read_weights(name, folder, torch.float32)
    refuse_unfinite(name, lm)
    if words.eos_token_id is None:
        raise ModelError(f"{name} has no end-of-text token, with which an answer ends: take another model")
    copied = words("<<", add_special_tokens=False)["input_ids"]
    if words.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS]):
        if len(words) > lm.get_input_embeddings().num_embeddings:
            lm.resize_token_embeddings(len(words), mean_resizing=False)
        made, output = words.convert_tokens_to_ids(list(MARKERS)), lm.get_output_embeddings()
        with torch.no_grad():
            for table in (lm.get_input_embeddings().weight, output.weight, getattr(output, "bias", None)):
                if table is not None:
                    table[made] = table[copied].mean(0)
    begins = words("a")["input_ids"][0] == words.bos_token_id
    words.chat_template = ONE_QUESTION + ("{{ bos_token }}" if begins else "") + "{{ messages[0]['content'] + '\\n' }}"
    return lm, words


@torch.no_grad()
def check_frame(name: str, reasoner: Reasoner, words: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose logits are others when the frame reads it: in two passes over embeddings, behind padding.

    Raises:
        ModelError: such as models with recurrent states, or that change logits after the output table.
    """
    lm, remedy = reasoner.lm, "take another model"
    ids = torch.tensor([words("Tom has 3 pens and 4 books.", add_special_tokens=False)["input_ids"]], device=reasoner.device)
    padded = torch.cat([ids.new_full((1, _PADDED), PADDING), ids], dim=1)
    cache, parts, end = DynamicCache(), [], 0
    try:
        wanted = lm(input_ids=ids).logits
        for part in padded.split([_PADDED + 4, ids.shape[1] - 4], dim=1):
            end += part.shape[1]
            parts.append(reasoner.read(reasoner.embed(part), cache, padded[:, :end] != PADDING))
        found = reasoner.logits(torch.cat(parts, dim=1)[:, _PADDED:])
    except UNFIT as error:
        raise ModelError(f"{name} ({type(lm).__name__}) cannot be read as latents are ({first_line(error)}): {remedy}") from None
    kl = (wanted.log_softmax(-1).exp() * (wanted.log_softmax(-1) - found.log_softmax(-1))).sum(-1).abs().max().item()
    if not kl < 1e-4:
        raise ModelError(f"{name} ({type(lm).__name__}) read as latents are is {kl:.2g} nats from itself: {remedy}")
