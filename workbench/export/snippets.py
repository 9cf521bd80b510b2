"""How each target is used, as text to copy: commands and short programs. Knows the deployed side's spelling; nothing here is run."""

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.targets.gguf import MEAN, mean_scale

QUESTION = "A farmer has 12 cows and sells 5. How many are left?"


class Snippet(NamedTuple):
    """Something to copy."""

    title: str
    text: str
    language: str = "bash"


def snippets(target: str, bundle: Bundle, folder: Path) -> list[Snippet]:
    """What a target's user types, for the export at ``folder``; nothing is known of a target that was added."""
    known = {"bundle": _bundle, "published": _published, "easysteer": _easysteer, "gguf": _gguf}
    return known[target](bundle, folder) if target in known else []


def _bundle(bundle: Bundle, folder: Path) -> list[Snippet]:
    name, where = folder.name, shlex.quote(str(folder))
    client = f"""from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")  # or the server's STIR_API_KEY
reply = client.chat.completions.create(
    model={json.dumps(name)},
    messages=[{{"role": "user", "content": {json.dumps(QUESTION)}}}],
    extra_body={{"stir": {{"strength": 1.0, "decisions": True}}}},
)
print(reply.choices[0].message.content)"""
    runtime = f"""from stir_core import SteeredModel

steered = SteeredModel.load({json.dumps(str(folder))})
(answer,) = steered.generate({json.dumps(QUESTION)}, max_new_tokens={min(256, bundle.manifest.stage3.decode.max_new_tokens)})
print(answer.text, [decision.chosen for decision in answer.decisions])"""
    return [
        Snippet("Check it, then serve it behind an OpenAI-compatible address", f"stir import {where}\nstir serve {where}"),
        Snippet("Ask the server; messages go as they are, without the task's template", client, "python"),
        Snippet("Or steer in your own process; a question goes into the task's template", runtime, "python"),
        Snippet("Upload it (HF_TOKEN; private unless you add --public)", f"stir push {where} NAME/REPO"),
    ]


def _published(bundle: Bundle, folder: Path) -> list[Snippet]:
    where = shlex.quote(str(folder))
    back = f"stir import {where}\nstir import {where} --like RUN --out BUNDLE"
    return [
        Snippet("The controller reads paths relative to the folder: run it from inside", f"cd {where} && head -n 1 memory/entries.jsonl"),
        Snippet("And back: check it, or make a bundle of it on your word that the model is that of RUN", back),
    ]


def _easysteer(bundle: Bundle, folder: Path) -> list[Snippet]:
    base = bundle.manifest.base_model or "MODEL"
    client = f"""import json
from pathlib import Path

from openai import OpenAI

spec = json.loads(Path({json.dumps(str(folder / "mean.json"))}).read_text())
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
reply = client.chat.completions.create(
    model={json.dumps(base)},
    messages=[{{"role": "user", "content": {json.dumps(QUESTION)}}}],
    extra_body={{"steering": spec}},
)
print(reply.choices[0].message.content)"""
    return [
        Snippet("Serve the model", f"vllm serve {shlex.quote(base)} --enable-steer-vector --steer-algorithms direct"),
        Snippet("Send a spec with a request: mean.json acts at every token, an action-*.json at the prompt's last", client, "python"),
    ]


def _gguf(bundle: Bundle, folder: Path) -> list[Snippet]:
    file = shlex.quote(str(folder / MEAN))
    nominal = mean_scale(bundle)
    line = f"llama-cli -m MODEL.gguf --control-vector-scaled {file} {nominal / 4:.2g} -p {shlex.quote(QUESTION)}"
    return [
        Snippet(f"The mean of the actions, at every token; begin low: the gate's own strength is {nominal:.2g}, for one token a step", line)
    ]
