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
# STIR needs three things: a causal language model, questions with answers that can be checked, and a rule for where a reasoning step ends. This notebook replaces all three and makes actions from them in a small harvest. Each part also shows
# what is *refused*, because a library mined with one model, task or segmenter is not valid for another.

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
root = Path(folder.name)

# %% [markdown]
# ## A model: any folder in Hugging Face layout
#
# The folder contains config, tokenizer and safetensors weights. To check what loading does to a model, take a random Llama of four blocks, written to a folder with `save_pretrained`.

# %%
tokenizer = AutoTokenizer.from_pretrained(stir.model_folder("smollm2"))
torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
random_llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.25, max_position_embeddings=512, **shape)).eval()
for part in (random_llama, tokenizer):
    part.save_pretrained(root / "llama")

own = stir.load_model(str(root / "llama"))
print(own.identity.architecture, own.n_layers, "blocks of width", own.d_model, own.identity.dtype)

# %% [markdown]
# Loading neither folds nor centres weights, so activations are those of the Hugging Face model: `blocks.{l}.hook_out` is `hidden_states[l + 1]`, and a vector mined on either side can be added on the other. Check this on
# every new architecture:

# %%
ids = torch.tensor([own.chat_ids("What is 3 + 4?")])
with torch.inference_mode():
    states = random_llama(ids, output_hidden_states=True).hidden_states
    _, cache = own.bridge.run_with_cache(ids)
for layer in range(own.n_layers - 1):  # Hugging Face's last hidden state includes the final norm
    here, there = cache[f"blocks.{layer}.hook_out"], states[layer + 1]
    assert torch.allclose(here, there, rtol=0, atol=float(1e-5 * there.abs().max()))
print("blocks 0 to", own.n_layers - 2, "agree with Hugging Face within 1e-5 of the largest component")

# %% [markdown]
# A library belongs to its model, identified by the hashes of weights and tokenizer. The embedded run's library is refused on this Llama:

# %%
try:
    stir.open_session("smollm2", own)
except stir.StirError as error:
    print(type(error).__name__, "... was made", str(error).partition(" was made ")[2].partition(", not")[0])

# %% [markdown]
# A random model is never right, so it gives no actions. The rest of the notebook uses the embedded model, named by its *folder* as yours would be.

# %%
model = stir.load_model(str(stir.model_folder("smollm2")))

# %% [markdown]
# ## A task: problems with answers
#
# A task is a row in a table: a name, the kind of its answers (`number`, `math`, `choice`, `yesno`), its splits, and a function that returns a split's problems, generated or read from your file.

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
# There is no validation split, so about a tenth of the mined problems is set aside by a hash of the question; with so few problems that may be none, or two. Mined problems that repeat a held-out question are removed. The table lasts as long as the
# process.
#
# ## A segmenter: where a step ends
#
# The default delimiter is a blank line; it can be any other text (`delimiter="\n"`). If no fixed text works, use a function: after every token it receives the text of the step so far and returns whether the step is
# finished. This one ends a step after each sentence or line that contains a letter, so that the `1.` of a list is not a step.


# %%
def sentence(step: str) -> bool:
    """True after a letter followed by the end of a line or sentence. A space must follow the full stop, since `3.` may continue as `3.5`."""
    return re.search(r"[^\W\d].*(\n|[.!?]\s)", step, re.DOTALL) is not None


by_sentence = stir.register_segmenter("sentence", sentence)
text = "1. Mia has 3 apples. She picks 4 more.\n\n2. That is 3.0 + 4 = 7 apples.\n\n#### 7"
for delimiter in ("\n\n", "\n", by_sentence):
    print(f"{delimiter!r:22}", stir.split_steps(text, delimiter))
assert all("".join(stir.split_steps(text, delimiter)) == text for delimiter in ("\n\n", "\n", by_sentence))

# %% [markdown]
# The segmenter's *name* is a setting of the run like any other delimiter, and the first stage depends on it: another segmenter needs another run. A bundle stores the name, and a process that has not registered it refuses the bundle instead of
# searching for that text.
#
# ## A very small harvest
#
# Five problems, six answers each, at most 56 tokens: enough to run Stage I, and far too little for conclusions. `until="actions"` stops after Stage I; the same call without it continues from there.

# %%
config = stir.RunConfig(
    delimiter=by_sentence,
    model={"name": model.identity.name},
    task={"name": "apples", "n_train": 5, "n_eval": 2},
    rollouts={"k": 6, "max_new_tokens": 56},
    mining={"control_points": 6},
)
run = stir.harvest_run(config, root / "run", until="actions", model=model)
rollouts = run.rollouts()
table = stir.to_frame(rollouts).assign(
    correct=[rollout.verdict.correct for rollout in rollouts], steps=[len(r.boundaries) for r in rollouts]
)
table.groupby("problem_id").agg(rollouts=("k", "count"), right=("correct", "sum"), finished_steps=("steps", "mean")).round(1)

# %% [markdown]
# Check the verdicts first: a wrong verdict is a wrong label, and every action depends on labels. One right answer and one wrong, with the grader's reason:

# %%
for correct in (True, False):
    rollout = next(r for r in rollouts if r.verdict.correct == correct and r.problem_id in {e.problem_id for e in run.entries()})
    print(f"--- {rollout.problem_id}, rollout {rollout.k}: {'right' if correct else 'wrong'}, {rollout.verdict.reason}")
    print(" | ".join(step.strip() for step in stir.split_steps(rollout.text, by_sentence)), "\n")

# %% [markdown]
# "No final answer was stated" needs a second look: is the answer wrong, or was it only cut off?

# %%
wrong = table[~table["correct"]]
print(
    f"{len(wrong)} wrong answers, {(wrong['finish'] == 'length').sum()} of them cut off by the budget of {config.rollouts.max_new_tokens} tokens"
)
print(
    f"tokens: right {table[table['correct']]['token_ids'].map(len).mean():.0f}, wrong {wrong['token_ids'].map(len).mean():.0f} on average"
)

# %% [markdown]
# With this small budget most wrong answers are unfinished, and an action from such pairs encodes *be brief* at least as much as *be right*. The length controls of notebook 01 measure this. In a real harvest, give
# answers enough tokens to end.
#
# The next figure counts the steps of the *same* answers under three rules (the last step of an answer is usually unfinished). An answer without a finished step has no control point and gives no action, so a rule that finds few steps in your model's answers leaves little data for Stage I.

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
# One row per entry, with its vectors. A *corrective* entry holds `mean(right) - mean(wrong)` at the same control point; the *null* entry of its pair has the key of the right rollouts and no action.

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
# From here on it is a run like the embedded one: `stir.harvest_run(config, ...)` continues to a basis and to steered answers, and `stir.evaluate_methods(run, model, ["stir"])` tests whether it helps on the held-out `eval` split. Before a larger
# harvest, choose questions that the model answers right *sometimes*: a problem that is always or never solved gives no actions, however many rollouts it has.

# %%
folder.cleanup()
