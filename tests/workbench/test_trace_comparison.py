"""Folding decoding events, comparing ids, and knowing when a result is stale."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import json
import shlex
from itertools import pairwise

import pytest
from fake_run import NASTY, problems
from fake_steering import FakeSteering

from stir_core.config import digest_of
from stir_core.requests import Change
from stir_core.store.runs import EMBEDDED_RUNS, Run
from workbench.shared import trace_comparison as tc
from workbench.shared.command_lines import name_of, run_command, trace_command, whatif_command
from workbench.shared.facts import RunFacts
from workbench.shared.trace_document import drawn_tokens


def recorded(facts: RunFacts, strength: float, stop_after: int | None = None, *, read: bool = True) -> tc.Recording:
    """A comparison by the fake session, whole or stopped after some events."""
    gate = facts.config.gate.model_copy(update={"k_scale": strength})
    problem = problems("eval", 1)[0]
    settings = tc.settings_of("digest", problem.question, problem.id, gate, facts.config.decode)
    recording = tc.Recording(digest_of(settings), settings)
    for number, event in enumerate(FakeSteering(facts.run).compare(problem, gate, facts.config.decode)):
        if number == stop_after:
            break
        recording.take(event)
    if recording.complete and read:
        for row, reading in FakeSteering(facts.run).read([t for t in recording.traces if t is not None], gate):
            recording.readings[row].append(reading)
    return recording


def test_a_whole_comparison_folds_into_its_traces(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    assert recording.complete and recording.read and recording.last_m == 4
    assert not recorded(facts, 0.5, read=False).read
    for row, trace in enumerate(recording.traces):
        assert trace is not None
        assert recording.ids(row) == trace.token_ids
        assert "".join(step.text for step in recording.steps[row].values()) == trace.text
    table = tc.cost_table(recording).set_index("answer")
    steered = recording.traces[1]
    assert steered is not None
    assert table.loc["steered", "total tokens"] == steered.tokens_used + steered.probe_tokens
    assert table.loc["steered", "commits"] == sum(step.decision.chosen is not None for step in steered.steps) > 0
    assert table.loc["vanilla", "probe tokens"] == 0


def test_an_answer_without_an_impulse_says_why(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    assert tc.unsteered_line(recording, "\n\n") is None
    trace = recording.traces[1]
    assert trace is not None
    quiet = trace.steps[0].model_copy(update={"decision": trace.steps[0].decision.model_copy(update={"chosen": None})})
    recording.traces[1] = trace.model_copy(update={"steps": (quiet, quiet)})
    assert "committed nothing at 2 control points" in (tc.unsteered_line(recording, "\n\n") or "")
    recording.traces[1] = trace.model_copy(update={"steps": (quiet,)})
    assert "one step. A step ends with a blank line" in (tc.unsteered_line(recording, "\n\n") or "")
    recording.traces[1] = None
    assert tc.unsteered_line(recording, "\n\n") is None


def test_strength_zero_is_checked_not_assumed(facts: RunFacts) -> None:
    recording = recorded(facts, 0.0)
    equal, line = tc.equality_line(recording)
    n = len(recording.ids(0))
    assert equal and line == f"{n} of {n} token ids equal"
    trace = recording.traces[1]
    assert trace is not None
    changed = (*trace.token_ids[:3], trace.token_ids[3] + 1, *trace.token_ids[4:])
    recording.traces[1] = trace.model_copy(update={"token_ids": changed})
    equal, line = tc.equality_line(recording)
    assert not equal and line.startswith("ids differ from token 4 on")
    assert recording.tokens(1)[3].m == 0


def test_a_stopped_comparison_keeps_what_came(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5, stop_after=9)
    assert not recording.complete
    assert sum(len(recording.ids(row)) for row in (0, 1)) == 7
    assert tc.cost_table(recording)["total tokens"].isna().all()
    assert tc.equality_line(recording) == (True, "the first 3 token ids are equal so far")
    saved = json.loads(json.dumps(tc.comparison_json(recording, "command")))
    assert saved["readings"] == {"vanilla": [], "steered": []}


@pytest.mark.parametrize(
    ("one", "other", "at"), [((), (), None), ((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2), ((), (5,), 0)]
)
def test_first_divergence(one: tuple[int, ...], other: tuple[int, ...], at: int | None) -> None:
    assert tc.first_divergence(one, other) == at
    assert tc.first_divergence(other, one) == at


def test_settings_digest_and_stale_fields(facts: RunFacts) -> None:
    gate, decode = facts.config.gate, facts.config.decode
    old = tc.settings_of("d", "q", None, gate, decode)
    assert digest_of(old) == digest_of(tc.settings_of("d", "q", None, gate, decode.model_copy(update={"batch_problems": 3})))
    new = tc.settings_of("d", "other", None, gate.model_copy(update={"k_scale": 2.0}), decode)
    assert digest_of(old) != digest_of(new)
    assert tc.stale_fields(old, new) == ["question", "gate.k_scale"]
    assert tc.stale_fields(old, old) == []


def test_closing_the_events_closes_the_decoder(facts: RunFacts) -> None:
    steering = FakeSteering(facts.run)
    events = steering.compare("question", facts.config.gate, facts.config.decode)
    next(events)
    assert steering.closed == 0
    events.close()
    assert steering.closed == 1


def test_line_ends_that_close_a_step_are_drawn(facts: RunFacts) -> None:
    row = recorded(facts, 0.5).steps[1][2]
    drawn = drawn_tokens(row)
    assert len(drawn) == len(row.tokens) and drawn[-1] == "↵↵"
    assert "".join(drawn) == row.text.replace("\n", "↵")


def test_repetition_is_measured_on_what_has_come(facts: RunFacts) -> None:
    recording = recorded(facts, 0.5)
    table = tc.degeneration_table(recording).set_index("answer")
    ids = recording.ids(0)
    pairs = list(pairwise(ids))
    assert table.loc["vanilla", "repeated 2-grams"] == pytest.approx(1 - len(set(pairs)) / len(pairs))
    assert 0 < table.loc["steered", "zlib ratio"] <= 1.2
    for row in (0, 1):
        recording.steps[row].clear()
        recording.traces[row] = None
    assert tc.degeneration_table(recording).drop(columns="answer").isna().all(axis=None)


def test_commands_survive_any_prompt(fake_run: Run) -> None:
    prompt = NASTY + ' it\'s; rm -rf "$HOME"\n`x`'
    words = shlex.split(trace_command(fake_run, prompt, raw=True, changed={"gate.k_scale": 0.0}))
    assert words == ["stir", "trace", str(fake_run.path), prompt, "--raw", "--strength", "0.0"]
    assert run_command(fake_run, "basis").endswith("--until basis")
    assert name_of(Run(EMBEDDED_RUNS["smollm2"], fake_run.facts)) == "smollm2"


def test_a_long_prompt_has_a_stand_in(fake_run: Run) -> None:
    for long in ("word " * 40, "a\nb\nc\nd"):
        assert shlex.split(trace_command(fake_run, long, instead="@prompt.txt"))[3] == "@prompt.txt"
        assert shlex.split(trace_command(fake_run, long))[3] == long
        assert shlex.split(whatif_command(fake_run, long, [Change(m=1)], instead="@prompt.txt"))[3] == "@prompt.txt"
    assert shlex.split(trace_command(fake_run, "How many?", instead="@prompt.txt"))[3] == "How many?"


def test_commands_are_ones_the_command_line_knows(fake_run: Run) -> None:
    from stir_core.cli import command_parser

    changed = {
        "gate.k_scale": 0.3,
        "gate.variant": "no_probing",
        "gate.persistence": "persistent",
        "gate.candidates": 2,
        "gate.probe_tokens": 6,
        "decode.max_new_tokens": 99,
    }
    words = shlex.split(trace_command(fake_run, "a question", raw=True, changed=changed))
    options = command_parser().parse_args(words[1:])
    assert (options.prompt, options.strength, options.max_new_tokens, options.raw) == ("a question", 0.3, 99, True)
    assert command_parser().parse_args(shlex.split(run_command(fake_run, "basis"))[1:]).until == "basis"
