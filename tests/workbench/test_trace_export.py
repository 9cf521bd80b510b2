"""What the page draws of a comparison, and the file that it writes: nothing lost, nothing interpreted, nothing loaded."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser

from test_trace_comparison import recorded

from stir_core.config import GateConfig
from workbench.shared.codes import code_colour
from workbench.shared.facts import RunFacts
from workbench.shared.trace_comparison import Recording, first_divergence
from workbench.shared.trace_document import document, html, reading_line
from workbench.trace import data as trace_presets

HOSTILE = "</script><img src=x onerror=window.hacked=1><!--<script> & \u2028 \"'"


class Seen(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles, as a browser's parser would see them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.bodies: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in {"script", "style", "title"} and data.strip():
            self.bodies.setdefault(self.tags[-1][0], []).append(data)


def drawn(recording: Recording) -> dict:
    return document(recording, GateConfig.model_validate(recording.settings["gate"]))


def tokens(doc: dict, row: int) -> list[dict]:
    return [token for step in doc["steps"] for token in step["rows"][row]["tokens"]]


def test_a_coded_step_has_its_label_and_no_other(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    recording.codes[1].update({0: 3, 2: 13})
    for step in drawn(recording)["steps"]:
        for row, side in enumerate(step["rows"]):
            code = recording.codes[row].get(step["m"])
            assert side.get("code") == code and side.get("colour") == (None if code is None else code_colour(3))


def test_every_token_is_drawn_once_with_its_numbers(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    doc = drawn(recording)
    for row in (0, 1):
        found = tokens(doc, row)
        assert [token["id"] for token in found] == list(recording.ids(row))
        assert [token["at"] for token in found] == list(range(len(found)))
        for token, reading in zip(found, recording.readings[row], strict=True):
            assert token["values"] == {
                "surprise": -reading.logprob,
                "entropy": reading.entropy,
                "kl": reading.kl,
                "change": reading.logprob - reading.unsteered_logprob,
            }
            assert token["live"] == reading.live
    apart = first_divergence(recording.ids(0), recording.ids(1))
    assert apart is not None and doc["divergence"] == {"at": apart} and doc["aligned"] == apart + 1
    assert json.loads(json.dumps(doc, allow_nan=False)) == doc


def test_scales_end_at_the_largest(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    first = recording.steps[0][1].tokens[0]
    recording.steps[0][1].tokens[0] = first.replaced(logprob=-50.0)
    scales = {scale["key"]: scale for scale in drawn(recording)["quantities"]}
    for key, scale in scales.items():
        values = [token["values"][key] for row in (0, 1) for token in tokens(drawn(recording), row)]
        assert scale["end"] == max(abs(value) for value in values if value is not None)
    assert scales["surprise"]["end"] == 50 and scales["change"]["signed"]


def test_what_was_not_measured_has_no_scale_and_no_number(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5, read=False)
    doc = drawn(recording)
    assert {scale["key"]: scale["end"] is None for scale in doc["quantities"]} == {
        "surprise": False,
        "entropy": True,
        "kl": True,
        "change": True,
    }
    assert all(token["reading"] is None and token["values"]["kl"] is None for row in (0, 1) for token in tokens(doc, row))
    assert reading_line(recording) == "not read again"


def test_equal_answers_part_nowhere_and_one_that_is_ahead_has_not_parted(facts: RunFacts) -> None:
    assert drawn(recorded(facts, 0.0))["divergence"] is None
    stopped = drawn(recorded(facts, 0.5, stop_after=9))
    assert stopped["divergence"] is None and stopped["aligned"] == 3


def test_the_file_holds_everything_and_loads_nothing(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    text = html(recording, "stir trace fake", seed=7, title="fake: a question")
    seen = Seen(text)
    data, script = seen.bodies["script"]
    assert json.loads(data)["document"] == drawn(recording)
    assert json.loads(data)["command"] == "stir trace fake"
    assert ["gate.k_scale", "0.5"] in json.loads(data)["facts"] and ["seed", "7"] in json.loads(data)["facts"]
    (policy,) = [str(attrs["content"]) for tag, attrs in seen.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for part in (script, seen.bodies["style"][0]):
        assert f"'sha256-{b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" in policy
    assert not re.search(
        r"https?://|@import|url\(|import\(|fetch\(|innerHTML|insertAdjacentHTML|document\.write", script + seen.bodies["style"][0]
    )
    assert not [attrs for _, attrs in seen.tags if attrs.keys() & {"src", "href", "style"}]


def test_hostile_text_stays_text(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    step = recording.steps[1][0]
    step.tokens[0] = step.tokens[0].replaced(text=HOSTILE, logprob=-1.0)
    recording.settings["question"] = HOSTILE
    seen = Seen(html(recording, HOSTILE, seed=0, title=HOSTILE))
    held = json.loads(seen.bodies["script"][0])
    assert held["question"] == held["command"] == HOSTILE
    assert tokens(held["document"], 1)[0]["text"] == HOSTILE
    assert [tag for tag, _ in seen.tags if tag in {"img", "script"}] == ["script", "script"]
    assert seen.bodies["title"] == [HOSTILE]


def test_presets_differ_from_the_run_only_as_they_say(facts: RunFacts) -> None:
    gate = facts.config.gate
    named = trace_presets.presets(gate)
    for name, values in named.items():
        shown = GateConfig.model_validate(gate.model_dump() | values)
        assert trace_presets.preset_of(gate, shown) == name
    assert named["Strength 0"] == named["Run's own"] | {"k_scale": 0.0}
    assert trace_presets.preset_of(gate, gate.model_copy(update={"candidates": 9})) is None


def test_examples_come_from_all_levels(facts: RunFacts) -> None:
    problems = list(facts.held_out.values())
    leveled = {p.id: p.model_copy(update={"level": level}) for p, level in zip(problems, "aabbcd", strict=True)}
    found = trace_presets.examples(leveled)
    assert found == [problems[0].question, problems[2].question, problems[5].question]
    assert len(trace_presets.examples(facts.held_out)) == 3 and trace_presets.examples({}) == []
