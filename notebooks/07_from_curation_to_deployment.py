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
# # 07 From curation to deployment
#
# A library for others needs more than vectors: the history of its edits, the identity of its model, the gate, and evidence that the deployed runtime makes the same decisions as the workbench.
# This notebook curates the embedded run's library, exports it, runs it on a plain Hugging Face model without TransformerLens, certifies it, and queries it through an OpenAI-compatible server.

# %%
import os
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import altair as alt
import openai
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import stir_core as stir
from workbench.shared.charts import step_bars
from workbench.shared.curation_table import steps_table

alt.renderers.enable("png", scale_factor=1.5)
pd.set_option("display.max_colwidth", None)
folder = tempfile.TemporaryDirectory()
root = Path(folder.name)
os.environ.setdefault("STIR_USER", "a reader")  # edits are signed
run = stir.open_run(
    shutil.copytree(stir.open_run("smollm2").path, root / "run")
)  # a copy, so that your own edits of the embedded run do not change

# %% [markdown]
# ## Evidence about each action
#
# Four criteria: how often the gate committed it on held-out problems, its cosine with the length direction, the permutation test against shuffled labels, and its measured effect (`stir.measure_causal`;
# difference in the share of right answers, with a 95 % interval from eight problems on).

# %%
committed = Counter(step.decision.chosen for trace in run.traces() for step in trace.steps if step.decision.chosen)
frame = stir.to_frame(run)
actions = frame[(frame["kind"] == "corrective") & frame["in_basis"].astype(bool)].set_index("entry")
actions = actions.assign(committed=[committed[entry] for entry in actions.index]).sort_values("committed", ascending=False)
known = ["m", "committed", "length_cosine", "permutation_p", "advantage", "advantage_low", "advantage_high"]
actions[known].head(10).round(2)

# %%
measured = actions.dropna(subset=["advantage"])
verdicts = Counter(run.advantages()[entry].verdict for entry in measured.index)
print(f"{len(actions)} actions, {len(measured)} of them measured: {dict(verdicts)}")
assert set(verdicts) == {"cannot tell"}

# %% [markdown]
# Each was tried on fewer than eight problems, too few for an interval, so no action can be called good or bad. What one *can* do is exclude actions with a simpler explanation and mark those that are used most.
#
# ## Curate, with reasons
#
# Every edit is appended to a history with author, time and reason; each line contains the hash of the one before. Nothing is deleted, so any earlier version can be restored. We apply a fixed rule: exclude actions that are mostly length.

# %%
lengthy = actions.index[actions["length_cosine"].abs() > 0.5].tolist()
used = [entry for entry in actions.index[:4] if entry not in lengthy]

curation = stir.Curation.open(run)
curation = curation.edit("exclude", lengthy, why="|cosine with the length direction| above 0.5")
curation = curation.edit("star", used, why="committed most often on held-out problems")
curation = curation.edit("tag", actions.index[actions["m"] == 1].tolist(), "first step", why="mined after the first finished step")
curation = curation.edit("note", used[0], "What does it do if the answer is already right?")
stir.to_frame(line.edit for line in curation.lines)[["kind", "entries", "value", "why"]].fillna("")

# %%
basis, curated = stir.open_library(run), stir.open_library(run, "curated")
assert {entry.id for entry in basis.entries} - {entry.id for entry in curated.entries} == set(lengthy)
assert not curation.version(0).entries  # version 0: before any edit
step_bars(steps_table({"basis": basis, "curated": curated}), "entries", "library").properties(width=420)

# %% [markdown]
# Excluding an action keeps its null entry, because right rollouts still have that mean state. Exclude both ids to drop both.
#
# ## Export
#
# A bundle is a folder with vectors and keys, one row per entry with its marks and lineage, the gate and the delimiter, hashes of the model's weights and tokenizer, a model card, and a summary of the measurements. Reading it first checks every file against
# the manifest; nothing is unpickled.

# %%
bundle = stir.read_bundle(stir.export_library(run, root / "bundle"))
manifest = bundle.manifest
print(f"{manifest.n_actions} actions and {manifest.n_entries - manifest.n_actions} null entries at layers {manifest.layers}")
print(f"model {manifest.model.name}, weights {manifest.model.weights_sha256[:12]}, {manifest.model.dtype}")
print(f"gate {manifest.stage3.gate.variant}, strength {manifest.stage3.gate.k_scale}, steps end in {manifest.stage3.delimiter!r}")
print(
    f"library {manifest.provenance.library!r} after {manifest.provenance.curation_version} edits, measured: {bundle.evaluation.evaluated}"
)
print("measured with exactly this library:", [each.same_library for each in bundle.evaluation.evaluations])
print("files, each with size and SHA-256 in the manifest:", ", ".join(sorted(manifest.files)))

# %% [markdown]
# The card quotes the run's evaluations, and says that they were made with *another* library, the uncurated one. Curation changes the library, so it should be followed by a new `stir.evaluate_methods`.
#
# ## The same decisions in plain transformers
#
# `stir.SteeredModel` takes any Hugging Face model with the bundle's weights; TransformerLens is not involved. The reference is a session of the workbench's engine on the run's curated library. Same question, both ways:

# %%
session = stir.open_session(run, library=curated)
weights = stir.model_folder(manifest.model.name)  # the folder that the session's weights were loaded from
hf_model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
steered = stir.SteeredModel(hf_model, AutoTokenizer.from_pretrained(weights), bundle)

problems = [problem for problem in run.problems("steered") if problem.id.rpartition(":")[2] in ("11+15", "2+2+3")]
tokens = 56
here = stir.steer(session, problems[0], decode=stir.with_changes(session.config.decode, max_new_tokens=tokens))
(there,) = steered.generate(problems[0].question, max_new_tokens=tokens)

assert there.token_ids == here.steered.token_ids
assert [decision.chosen for decision in there.decisions] == [step.decision.chosen for step in here.steered.steps]
pairs = zip(here.steered.steps, there.decisions, strict=True)
pd.DataFrame(
    [
        (step.text.strip()[:48], step.decision.chosen or "null", other.chosen or "null", step.decision.alpha, other.alpha)
        for step, other in pairs
    ],
    columns=["step", "session", "plain transformers", "alpha", "alpha there"],
).round(4)

# %% [markdown]
# ## A certificate
#
# A certificate records the same comparison: both answer the problems, vanilla and steered; retrieved entries, decisions, tokens and texts must be equal, and numbers within the tolerances. A failing certificate is written too, with the first
# difference in words. It certifies that *this software on this machine* agreed with itself on these prompts, and says nothing about whether steering helps.

# %%
certificate = stir.certify_bundle(steered, session, problems, max_new_tokens=tokens)
print(f"passed: {certificate.passed}; {certificate.injected} steps were steered; first difference: {certificate.first_difference}")
worst, allowed = certificate.worst.model_dump(), certificate.tolerances.model_dump()
assert certificate.passed and certificate.injected > 0
pd.DataFrame(
    [(name, worst[name] <= allowed[name], allowed[name]) for name in worst], columns=["largest difference in", "within", "tolerance"]
)

# %% [markdown]
# ## A server, queried with the official client
#
# `stir serve` serves a bundle at an OpenAI-compatible address; `stir.serving` does so inside this process, on a free port of 127.0.0.1. Extensions of the protocol are under `stir`: `strength`, `off`, `variant` and
# `decisions` in a request, the gate's decisions in an answer. The client writes the prompt template; the certificate stores the messages as they were sent.

# %%
open_here = ExitStack()  # a `with` statement over several cells
url = open_here.enter_context(stir.serving(steered, "library"))
client = open_here.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
question = {"model": "library", "messages": [{"role": "user", "content": certificate.prompts[0].question}], "max_tokens": tokens}

said, decided = "", []
for chunk in client.chat.completions.create(**question, stream=True, extra_body={"stir": {"decisions": True}}):
    extra = (chunk.model_extra or {}).get("stir", {})
    if "decision" in extra:  # before a step's first token
        decided.append(extra["decision"]["chosen"])
        said += f"[{decided[-1] or 'null'}] "
    said += "".join(choice.delta.content or "" for choice in chunk.choices)
assert tuple(decided) == certificate.prompts[0].decisions
print(said)

# %% [markdown]
# The decisions equal those of the certificate. The options, on the same question:

# %%
rows, texts = [], {}
for options in ({}, {"strength": 0.0}, {"off": True}):
    answer = client.chat.completions.create(**question, extra_body={"stir": options})
    facts = answer.model_extra["stir"]
    texts[str(options)] = answer.choices[0].message.content
    rows.append((options or "none", facts["injected"], facts["probe_tokens"], answer.usage.completion_tokens))
assert texts[str({"strength": 0.0})] == texts[str({"off": True})]  # an impulse of norm 0 gives the vanilla answer
pd.DataFrame(rows, columns=["stir", "steps steered", "tokens of previews", "tokens of the answer"])

# %% [markdown]
# At strength 0 the gate still retrieves and previews, at the usual cost, but the *text* is the vanilla one. `off` skips the gate and its cost. Unknown fields are refused by name, never ignored:

# %%
try:
    client.chat.completions.create(**question, frequency_penalty=0.5)
except openai.BadRequestError as error:
    print(error.status_code, error.body["message"][:90])
open_here.close()

# %% [markdown]
# ## What other targets keep and lose
#
# Most other formats hold vectors, but no gate. The table lists what remains of the method; a target that cannot hold a library refuses it.

# %%
targets = stir.export_targets(bundle)
sizes = {}
for target in targets:
    out = bundle.folder if target.name == "bundle" else stir.export_library(bundle, root / target.name, to=target.name)
    sizes[target.name] = sum(1 for file in out.rglob("*") if file.is_file())
pd.DataFrame(
    [(target.name, sizes[target.name], "; ".join(target.kept), "; ".join(target.lost)) for target in targets],
    columns=["target", "files", "kept", "lost"],
).set_index("target")

# %% [markdown]
# A llama.cpp control vector is added at *every* token, prompt included, with a strength that you choose; STIR adds an action at one token of a step, and only when the gate commits it. The results of notebooks 03 to 05 therefore do not
# transfer. `stir certify --target llamacpp` compares what can be equal, the change in the logits. `stir push` and `stir pull` transfer a bundle through a hub, with the same checks at both ends.

# %%
folder.cleanup()
