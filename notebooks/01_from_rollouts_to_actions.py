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
# # 01 From rollouts to actions
#
# STIR ([arXiv 2602.04925](https://arxiv.org/abs/2602.04925)) starts from a simple observation. A model that is asked the same question eight
# times is sometimes right and sometimes wrong, and after the same number of finished steps the residual stream of the right answers differs from that of the wrong ones.
# That difference is a *latent action*. It needs no step labels and no training, only a verifier of final answers.
#
# This notebook follows one action from the rollouts to the vector in the library, recomputes the vector with plain TransformerLens hooks, and then checks other explanations
# of the vector. It reads the embedded run: SmolLM2-135M-Instruct on a seeded arithmetic task.

# %%
import altair as alt
import numpy as np
import plotly.express as px
import torch

import stir_core as stir

alt.renderers.enable("png", scale_factor=1.5)  # images are shown everywhere, without loading a library from the network
run = stir.open_run("smollm2")
rollouts = run.rollouts()
print(f"{len(run.problems())} problems, {run.config.rollouts.k} rollouts each at temperature {run.config.rollouts.temperature}")

# %% [markdown]
# ## Verified answers
#
# Each rollout keeps its token ids, its text, and a verdict: what was extracted, how it was compared, and why. Only problems on which the model is *sometimes* right can give
# actions, so the task's levels were chosen for that. The reward is correctness minus a small length penalty (`eta0`).

# %%
table = stir.to_frame(rollouts)
table["correct"] = [verdict["correct"] for verdict in table["verdict"]]
table["right"] = table.groupby("problem_id")["correct"].transform("sum")
shares = table.drop_duplicates("problem_id").groupby("right").size().rename("problems").reset_index()
alt.Chart(shares).mark_bar().encode(
    x=alt.X("right:O", title="right rollouts of a problem (of 8)", axis=alt.Axis(labelAngle=0)),
    y=alt.Y("problems", title="problems (count)"),
).properties(width=420, height=180)

# %%
action = next(entry for entry in run.entries() if entry.kind == "corrective" and len(entry.positives) > 1 and len(entry.negatives) > 1)
by_k = {rollout.k: rollout for rollout in rollouts if rollout.problem_id == action.problem_id}
question = next(problem for problem in run.problems() if problem.id == action.problem_id)
print(question.question, "  gold:", question.answer)
for name, ks in (("right", action.positives), ("wrong", action.negatives)):
    for k in ks:
        print(f"\n--- {name}, rollout {k}, reward {by_k[k].reward:.3f}: {by_k[k].verdict.reason}\n{by_k[k].text[:240]}")

# %% [markdown]
# ## Pairs at the same step
#
# A step ends at a blank line, and a *control point* `m` is the position after `m` finished steps: the last token of the delimiter. Right and wrong rollouts are only compared at
# the same control point and layer, because the residual stream has another distribution one step later. A pair has up to `k_pos` right rollouts of highest reward and up to
# `k_neg` wrong ones of lowest reward:

# %%
mining = run.config.mining
print(f"{action.id}: control point m = {action.m}, layer {action.layer}, k_pos {mining.k_pos}, k_neg {mining.k_neg}")
print(f"reward of the right {action.reward_pos:.4f}, of the wrong {action.reward_neg:.4f}; quality (their gap) {action.quality:.4f}")

# %% [markdown]
# ## The difference, by hand
#
# Now compute the vector without any of this project's code: feed prompt and rollout up to the control point through the raw `TransformerBridge`, read `blocks.{layer}.hook_out` at
# the last token, average, subtract. Weights are neither folded nor centred, so this is the residual stream in Hugging Face coordinates.

# %%
model = stir.load_model(run.config.model.name)
hook = f"blocks.{action.layer}.hook_out"


def state(k: int) -> np.ndarray:
    """Residual stream at the control point of rollout k, [d_model]."""
    rollout = by_k[k]
    ids = [*rollout.prompt_ids, *rollout.token_ids[: rollout.boundaries[action.m - 1]]]
    seen = {}
    with torch.inference_mode():
        model.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(hook, lambda value, hook: seen.update(out=value[0, -1].clone()))])
    return seen["out"].numpy()


right, wrong = (np.mean([state(k) for k in ks], axis=0) for ks in (action.positives, action.negatives))
stored = run.action_rows()[action.action_row]
print(
    f"largest difference from the stored action {np.abs((right - wrong) - stored).max():.1e}, its largest component {np.abs(stored).max():.2f}"
)
print(f"largest difference of the wrong mean from the stored key {np.abs(wrong - run.key_rows()[action.key_row]).max():.1e}")

# %%
assert np.allclose(right - wrong, stored, atol=1e-3)
assert np.allclose(wrong, run.key_rows()[action.key_row], atol=1e-3)

# %% [markdown]
# The action is `mean(right) - mean(wrong)`. Its key, which retrieval compares with the current state, is `mean(wrong)`: the mean state of rollouts that ended wrong. Each pair also gives a
# *null* entry with key `mean(right)` and no action: near such a state, nothing should be injected.
#
# ## Norms
#
# Both are raw, so their norms are informative: an action's norm is a third or more of the norm of the state it was mined at. It is smallest where most rollouts were averaged (two right, three wrong). Noise
# would behave in the same way: the difference of two single states contains all differences between two texts, not only those that made one of them right.

# %%
library = stir.to_frame(run)
actions = library[library["kind"] == "corrective"].assign(
    rollouts=lambda rows: [f"{len(p)} right, {len(n)} wrong" for p, n in zip(rows["positives"], rows["negatives"], strict=True)],
    share=lambda rows: rows["action_norm"] / rows["key_norm"],
)
px.scatter(
    actions,
    x="key_norm",
    y="action_norm",
    color="rollouts",
    symbol="rollouts",
    hover_data=["entry", "m", "quality"],
    labels={"key_norm": "|key| (residual units)", "action_norm": "|action| (residual units)"},
    height=380,
)

# %%
actions.groupby("rollouts")[["action_norm", "share"]].agg(["count", "median"]).round(3)

# %% [markdown]
# ## Logit lens
#
# Multiplied by the final norm's gain and the unembedding, a direction promotes some tokens and suppresses others. For a 135M model these lists are rarely interpretable, and
# it is easy to read too much into them.

# %%
for entry in library[library["kind"] == "corrective"].head(4).itertuples():
    lens = run.lenses()[entry.entry]
    print(
        entry.entry, f"m={entry.m}", [token.text for token in lens.promoted[:5]], "against", [token.text for token in lens.suppressed[:5]]
    )

# %% [markdown]
# ## Confounds
#
# Right rollouts are shorter than wrong ones, and there are few pairs. Every action is therefore compared with other sources of such a vector: its cosine with the *length direction* (shorter minus
# longer right rollouts of the *other* problems at the same control point), with itself *re-estimated from rollouts matched in length*, and with itself *under shuffled labels*. A
# permutation test counts how often a random labelling of the same rollouts gives an action at least as long.

# %%
names = {
    "length_cosine": "with the length direction",
    "length_matched_cosine": "with itself, lengths matched",
    "shuffled_cosine": "with itself, labels shuffled",
}
long = actions[["entry", *names]].rename(columns=names).melt("entry", var_name="control", value_name="cosine").dropna()
alt.Chart(long).mark_tick(thickness=2, opacity=0.6).encode(
    x=alt.X("cosine", scale=alt.Scale(domain=[-1, 1])),
    y=alt.Y("control", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=200)),
).properties(width=480, height=130)

# %%
tested = actions.dropna(subset=["permutation_p"])
print(f"{len(actions)} actions, {len(tested)} with enough rollouts for the test")
print(f"permutation p: median {tested['permutation_p'].median():.2f}, at most 0.05 for {(tested['permutation_p'] <= 0.05).sum()}")
print(f"smallest p that their rollouts could give: median {tested['permutation_floor'].median():.3f}")

# %% [markdown]
# Read the figure row by row. Cosines with the length direction lie around 0; a few actions largely encode "be shorter" (or longer). Matching lengths changes most actions little.
# Shuffled labels give anything between the reverse and the action itself (a cosine of 1 or -1 means that the shuffle drew the true labels, or exactly swapped ones, which is likely with so few rollouts).
#
# The permutation test has little power: with eight rollouts per problem its smallest possible p is often above 0.05, and by *norm alone* hardly any action differs from a random labelling of the same
# rollouts. This does not mean that actions have no effect. That is a causal question, for notebook 04. Notebook 02 shows which actions go into the library.
