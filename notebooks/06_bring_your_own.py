# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Bring your own model, task and step segmenter
#
# STIR needs three things from you: a causal language model, questions with answers that can be checked, and a rule for where a reasoning step ends. At the end of this notebook all three are ours, and a small harvest has made actions from
# them. Each part also says what would be *refused*, because a library mined under one of the three means nothing under another.

# %%
import re
import tempfile
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import stir_core as stir

alt.renderers.enable("png", scale_factor=1.5)
folder = tempfile.TemporaryDirectory()
place = Path(folder.name)

# %% [markdown]
# ## A model: any folder in Hugging Face layout
#
# Config, tokenizer and safetensors weights. To see what loading does to a model, take one whose numbers nobody has tuned: a random Llama of four blocks, written to a folder as `save_pretrained` writes it.

# %%
tokenizer = AutoTokenizer.from_pretrained(stir.model_folder("smollm2"))
torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
random_llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.25, max_position_embeddings=512, **shape)).eval()
for part in (random_llama, tokenizer):
    part.save_pretrained(place / "llama")

own = stir.load_model(str(place / "llama"))
print(own.identity.architecture, own.n_layers, "blocks of width", own.d_model, own.identity.dtype)

# %% [markdown]
# Loading neither folds nor centres weights, so an activation here *is* one of the Hugging Face model: `blocks.{l}.hook_out` is `hidden_states[l + 1]`, and a vector mined on either side can be added on the other. That is worth a line on
# every new architecture:

# %%
ids = torch.tensor([own.chat_ids("What is 3 + 4?")])
with torch.inference_mode():
    states = random_llama(ids, output_hidden_states=True).hidden_states
    _, cache = own.bridge.run_with_cache(ids)
for layer in range(own.n_layers - 1):  # the last of Hugging Face's states has the final norm in it
    here, there = cache[f"blocks.{layer}.hook_out"], states[layer + 1]
    assert torch.allclose(here, there, rtol=0, atol=float(1e-5 * there.abs().max()))
print("blocks 0 to", own.n_layers - 2, "agree with Hugging Face within 1e-5 of the largest component")

# %% [markdown]
# A library belongs to its model, by the hashes of weights and tokenizer. The embedded run's library on this Llama:

# %%
try:
    stir.open_session("demo", own)
except stir.StirError as error:
    print(type(error).__name__, "... was made", str(error).partition(" was made ")[2].partition(", not")[0])

# %% [markdown]
# A random model is never right, so it has no actions to give. For the rest the model is the embedded one, named by its *folder* as yours would be.

# %%
model = stir.load_model(str(stir.model_folder("smollm2")))

# %% [markdown]
# ## A task: problems with answers
#
# A task is a row in a table: a name, the kind of its answers (`number`, `math`, `choice`, `yesno`), its splits, and a function that makes a split's problems (or reads them from your file).

# %%
ROWS = {"train": range(2, 9), "eval": range(9, 14)}


def apples(split: str) -> tuple[stir.Problem, ...]:
    """Sums of two numbers up to 13, in words."""
    return tuple(
        stir.Problem(
            id=f"apples/{split}/{n}",
            task="apples",
            split=split,
            question=f"Mia has {n} apples and picks {7 * n % 9 + 1} more. How many apples does she have now?",
            answer=str(n + 7 * n % 9 + 1),
            kind="number",
        )
        for n in ROWS[split]
    )


stir.register_task(
    stir.TaskSpec("apples", "number", "Sums in words", "generated", "mine", ("train", "eval"), "train", None, "eval", problems=apples)
)
roles = {role: [problem.id for problem in stir.load_problems("apples", role)] for role in ("mine", "validation", "eval")}
assert not set(roles["mine"]) & set(roles["eval"]) and not set(roles["mine"]) & set(roles["validation"])
roles

# %% [markdown]
# There is no validation split, so about a tenth of the mined problems was set apart, by a hash of the question; of so few that may be none, or two. Held-out questions that are repeated in the mined split are left out of it. The table lasts as long as the
# process.
#
# ## A segmenter: where a step ends
#
# The default delimiter is a blank line; any other text can stand in its place (`delimiter="\n"`). Where no fixed text will do, a function decides: it is handed the text of the step so far, behind every token, and says whether the step is
# finished. This one ends a step behind each sentence or line that holds a letter, so that the `1.` of a list is none.


# %%
def sentence(step: str) -> bool:
    """A letter, and behind it the end of a line or of a sentence. What follows the full stop must be there: `3.` may go on as `3.5`."""
    return re.search(r"[^\W\d].*(\n|[.!?]\s)", step, re.DOTALL) is not None


by_sentence = stir.register_segmenter("sentence", sentence)
text = "1. Mia has 3 apples. She picks 4 more.\n\n2. That is 3.0 + 4 = 7 apples.\n\n#### 7"
for delimiter in ("\n\n", "\n", by_sentence):
    print(f"{delimiter!r:22}", stir.split_steps(text, delimiter))
assert all("".join(stir.split_steps(text, delimiter)) == text for delimiter in ("\n\n", "\n", by_sentence))

# %% [markdown]
# The segmenter's *name* is a setting of the run like any other delimiter, and belongs to its first stage: other steps are another run. A bundle carries the name along, and a process in which it is not registered refuses it, rather than
# looking for that text.
#
# ## A very small harvest
#
# Five problems, six answers each, at most 56 tokens: enough to see every stage, and far too little to believe anything. `until="actions"` stops behind Stage I; the same call goes on from there.

# %%
config = stir.RunConfig(
    delimiter=by_sentence,
    model={"name": model.identity.name},
    task={"name": "apples", "n_train": 5, "n_eval": 2},
    rollouts={"k": 6, "max_new_tokens": 56},
    mining={"control_points": 6},
)
run = stir.harvest_run(config, place / "run", until="actions", model=model)
rollouts = run.rollouts()
table = stir.to_frame(rollouts).assign(
    correct=[rollout.verdict.correct for rollout in rollouts], steps=[len(r.boundaries) for r in rollouts]
)
table.groupby("problem_id").agg(rollouts=("k", "count"), right=("correct", "sum"), finished_steps=("steps", "mean")).round(1)

# %% [markdown]
# Look at verdicts before anything else: a wrong verdict is a wrong label, and every action rests on labels. One right answer and one wrong, with the grader's reason:

# %%
for correct in (True, False):
    rollout = next(r for r in rollouts if r.verdict.correct == correct and r.problem_id in {e.problem_id for e in run.entries()})
    print(f"--- {rollout.problem_id}, rollout {rollout.k}: {'right' if correct else 'wrong'}, {rollout.verdict.reason}")
    print(" | ".join(step.strip() for step in stir.split_steps(rollout.text, by_sentence)), "\n")

# %% [markdown]
# "No final answer was stated" deserves a second look: is the answer wrong, or was it merely cut off?

# %%
wrong = table[~table["correct"]]
print(
    f"{len(wrong)} wrong answers, {(wrong['finish'] == 'length').sum()} of them cut off by the budget of {config.rollouts.max_new_tokens} tokens"
)
print(
    f"tokens: right {table[table['correct']]['token_ids'].map(len).mean():.0f}, wrong {wrong['token_ids'].map(len).mean():.0f} on average"
)

# %% [markdown]
# With so tight a budget most wrong answers are unfinished ones, and an action from such pairs says *come to the point* at least as much as *be right*. That is what the length controls of notebook 01 are for; in a harvest that is meant, give
# answers room to end.
#
# What the segmenter changed: steps of the *same* answers under three rules (the last one of an answer is mostly unfinished). An answer without a finished step has no control point and can give no action; a rule that finds few of them in what your model writes starves Stage I.

# %%
rules = {"blank line": "\n\n", "line": "\n", "sentence": by_sentence}
counts = pd.DataFrame(
    [(name, len(stir.split_steps(r.text, rule))) for name, rule in rules.items() for r in rollouts], columns=["rule", "steps"]
)
cut = counts[counts["rule"] == "sentence"]["steps"]
assert all(steps - len(r.boundaries) in (0, 1) for steps, r in zip(cut, rollouts, strict=True))  # the last one may be unfinished
alt.Chart(counts).mark_bar().encode(
    x=alt.X("steps:O", title="steps of an answer", axis=alt.Axis(labelAngle=0)),
    y=alt.Y("count()", title="answers"),
    row=alt.Row("rule", title=None, sort=list(rules), header=alt.Header(labelAngle=0, labelAlign="left")),
).properties(width=380, height=70)

# %% [markdown]
# ## The actions
#
# One row an entry, vectors included. A *corrective* entry holds `mean(right) - mean(wrong)` at the same control point; its *null* twin has the key of the right ones and no action.

# %%
frame = stir.to_frame(run)
frame[["entry", "kind", "problem_id", "m", "layer", "quality", "positives", "negatives", "key_norm", "action_norm"]].head(8).round(3)

# %%
actions = frame[frame["kind"] == "corrective"]
first = actions.iloc[0]
print(f"{len(actions)} actions at layer {first['layer']}, by control point {actions['m'].value_counts().sort_index().to_dict()}")
vectors = np.stack(actions["action"].tolist())
assert vectors.shape == (len(actions), model.d_model)
assert np.allclose(np.linalg.norm(vectors, axis=1), actions["action_norm"], rtol=1e-5)

(lens,) = stir.logit_lens(model, vectors[:1], names=[first["entry"]], top=6)
print(first["entry"], "promotes", [token.text for token in lens.promoted], "and suppresses", [token.text for token in lens.suppressed])

# %% [markdown]
# From here on it is a run like the embedded one: `stir.harvest_run(config, ...)` goes on to a basis and to steered answers, `stir.evaluate_methods(run, model, ["stir"])` asks whether it helps on the held-out `eval` split. Before a larger
# harvest, choose questions that the model gets right *sometimes*: a problem that is always or never solved gives nothing, however many rollouts it has.

# %%
folder.cleanup()
