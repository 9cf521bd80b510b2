"""Paired evaluation on the tiny model: what is answered, kept, taken up again, refused."""

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)

import re

import pytest
import torch

from stir_core.config import with_changes
from stir_core.errors import ConfigError, DataError, StoreError
from stir_core.evaluate import runner
from stir_core.evaluate.decoders import sampled
from stir_core.evaluate.decoders.registry import ABLATIONS, DECODERS, method, methods
from stir_core.evaluate.libraries import libraries_of
from stir_core.evaluate.report import evaluation_markdown
from stir_core.evaluate.runner import evaluate, settle
from stir_core.records import Problem
from stir_core.requests import EvaluationRequest
from stir_core.store.evaluations import EvaluationFolder, evaluations
from tests.evaluate.conftest import lines

ALL = ["stir", "static", "noise", "stir:library=zero", "stir:candidates=1,library=all", "sampling", "self_consistency:k=2", "deer"]


def ask(*names: str, **more) -> EvaluationRequest:
    return EvaluationRequest(methods=names, n=more.pop("n", 4), rows=more.pop("rows", 3), **more)


def evaluated(run, model, *names, **more):
    spec, problems = settle(run, model.identity, ask(*names, **more), command="stir eval", environment={})
    return evaluate(run, model, spec, problems)


def test_every_method_answers_every_problem(run, tiny_loaded):
    report, path = evaluated(run, tiny_loaded, *ALL)
    folder = EvaluationFolder(run, "arithmetic-eval")
    assert report.complete and folder.finished and path == folder.final
    assert [m.name for m in report.methods] == ["vanilla", *ALL]
    for made in report.methods:
        answers = folder.answers(made.name)
        assert len({answer.problem_id for answer in answers}) == len(answers) == 4
        assert all(answer.verdict is not None and answer.seconds is not None for answer in answers)
        assert made.right == sum(answer.verdict.correct for answer in answers)
        assert made.committed == pytest.approx(sum(answer.tokens_used for answer in answers) / 4)
        assert all(0 < answer.tokens_used <= 24 for answer in answers)
        assert all(answer.flops > 0 and answer.forward_tokens >= answer.prompt_tokens for answer in answers)
        assert (made.versus is None) == (made.name == "vanilla")
    assert evaluation_markdown(report) == (path / "report.md").read_text()
    assert [folder.spec().label for folder in evaluations(run)] == ["arithmetic-eval"]


@pytest.mark.parametrize(("kind", "template"), [("number", "boxed"), ("choice", "auto")])
def test_another_task_is_asked_in_the_runs_words_where_its_answers_are_of_the_same_kind(run, tiny_loaded, monkeypatch, kind, template):
    config = with_changes(run.config, task=with_changes(run.config.task, template="boxed"))
    monkeypatch.setattr(run, "config", config)
    assert {problem.kind for problem in run.problems()} == {"number"} and config.task.name != "chain"
    asked = [Problem(id=f"p{i}", task="chain", split="eval", question=f"{kind} {i}?", answer="1", kind=kind) for i in range(4)]
    monkeypatch.setattr(runner, "load_problems", lambda *names, **more: asked)
    spec, _ = settle(run, tiny_loaded.identity, ask("stir", task="chain"), command=None, environment={})
    assert spec.template == template


def test_a_library_of_zero_vectors_and_no_memory_equal_vanilla_token_for_token(run, tiny_loaded):
    evaluated(run, tiny_loaded, "stir", "stir:library=zero", "stir:variant=no_memory", "noise:strength=0")
    folder = EvaluationFolder(run, "arithmetic-eval")
    tokens = {name: {a.problem_id: a.token_ids for a in folder.answers(name)} for name in folder.spec().methods}
    assert tokens["stir:library=zero"] == tokens["stir:variant=no_memory"] == tokens["noise:strength=0"] == tokens["vanilla"]
    assert tokens["stir"] != tokens["vanilla"], "the comparison proves nothing when nothing is steered"
    commits = {name: sum(float(a.facts["commits"]) for a in folder.answers(name)) for name in tokens}
    assert commits["stir:library=zero"] > 0 == commits["stir:variant=no_memory"]


def test_ablations_are_methods_and_differ(run, tiny_loaded):
    named = {name: text for name, text in ABLATIONS.items()}
    assert all(method(text).name == text for text in named.values())
    evaluated(run, tiny_loaded, *named.values())
    folder = EvaluationFolder(run, "arithmetic-eval")
    answers = {text: tuple(a.token_ids for a in folder.answers(text)) for text in named.values()}
    assert answers[named["norm-matched random vector"]] != answers["stir"]
    assert answers[named["shuffled labels"]] != answers["stir"]
    assert all(a.probe_tokens == 0 for a in folder.answers(named["no probing"]))


def test_the_static_vector_is_the_mean_action_at_the_dose_of_stir(run, tiny_loaded, monkeypatch):
    from stir_core.evaluate.decoders import stepwise

    seen = []
    steer = stepwise.steer
    monkeypatch.setattr(stepwise, "steer", lambda model, jobs, settings: seen.extend(jobs) or steer(model, jobs, settings))
    evaluated(run, tiny_loaded, "static:strength=2")
    memory = libraries_of(run)("all")
    corrective = [entry for entry in memory.entries if entry.kind == "corrective"]
    force = next(job.force for job in seen if job.force is not None)
    assert force(0) is None and force(4) is None, "where the gate may not act, nothing is forced"
    forced = force(1)
    own = [entry for entry in corrective if entry.layer == forced.layer]
    mean = torch.stack([memory.action(entry.id) for entry in own]).mean(0)
    assert (forced.vector - mean / mean.norm()).abs().max() < 1e-6
    norm = sum(float(memory.action(entry.id).norm()) for entry in own) / len(own)
    quality = sum(entry.quality for entry in own) / len(own)
    assert forced.alpha == pytest.approx(2 * 2.0 * quality * norm, rel=1e-5)
    assert force(3).alpha == forced.alpha


def test_repetitions_are_made_for_methods_of_chance_only(run, tiny_loaded):
    report, _ = evaluated(run, tiny_loaded, "sampling", seeds=3)
    folder = EvaluationFolder(run, "arithmetic-eval")
    assert (len(folder.answers("vanilla")), len(folder.answers("sampling"))) == (4, 12)
    assert len({answer.token_ids for answer in folder.answers("sampling")}) > 4
    sampling = report.methods[1]
    assert sampling.answers == 12 and "clusters" in sampling.interval
    assert sampling.versus.test.startswith("sign-flip")


def test_an_interrupted_evaluation_goes_on_and_repeats_nothing(run, tiny_loaded, monkeypatch):
    uninterrupted, _ = evaluated(run, tiny_loaded, "stir", "sampling", label="whole")
    spec, problems = settle(run, tiny_loaded.identity, ask("stir", "sampling", label="cut"), command=None, environment={})
    left = iter(range(5))

    def stop(step):
        if step.done > 0 and next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(run, tiny_loaded, spec, problems, report=stop)
    folder = EvaluationFolder(run, "cut")
    assert folder.path == folder.part and not folder.finished
    assert not folder.report().complete
    file = folder.file_of("stir") if folder.file_of("stir").exists() else folder.file_of("vanilla")
    there = {name: folder.file_of(name).read_bytes() for name in spec.methods if folder.file_of(name).exists()}
    with file.open("a") as out:
        out.write('{"torn')  # a killed process
    report, path = evaluate(run, tiny_loaded, spec, problems)
    assert report.complete and path == folder.final
    for name, before in there.items():
        assert folder.file_of(name).read_bytes().startswith(before)
    assert all(count == 4 for name, count in lines(path).items() if name != "problems.jsonl")
    strip = {"label", "command"}
    assert [m.model_dump(exclude={"seconds"}) for m in report.methods] == [m.model_dump(exclude={"seconds"}) for m in uninterrupted.methods]
    assert report.spec.model_dump(exclude=strip) == uninterrupted.spec.model_dump(exclude=strip)


def test_more_methods_and_problems_add_to_what_is_there(run, tiny_loaded):
    evaluated(run, tiny_loaded, "stir", n=3)
    folder = EvaluationFolder(run, "arithmetic-eval")
    before = folder.file_of("stir").read_bytes()
    report, path = evaluated(run, tiny_loaded, "noise", n=5)
    assert [m.name for m in report.methods] == ["vanilla", "stir", "noise"]
    assert report.problems == 5 and report.complete
    assert (path / "answers" / folder.file_of("stir").name).read_bytes().startswith(before)


def test_other_settings_under_the_same_label_are_refused(run, tiny_loaded):
    evaluated(run, tiny_loaded, "stir", n=2)
    with pytest.raises(StoreError, match="max_new_tokens = 24, not 10"):
        evaluated(run, tiny_loaded, "stir", n=2, max_new_tokens=10)
    report, _ = evaluated(run, tiny_loaded, "stir", n=2, max_new_tokens=10, fresh=True)
    assert report.spec.max_new_tokens == 10
    with pytest.raises(StoreError, match="not a folder name"):
        evaluated(run, tiny_loaded, "stir", label="../up")


def test_samples_of_a_server_and_of_this_process_are_not_mixed(run, tiny_loaded, monkeypatch):
    away = {"n": 2, "engine": "http://127.0.0.1:9/v1"}
    evaluated(run, tiny_loaded, "stir", **away)  # nothing is sampled, so no server is asked
    report, _ = evaluated(run, tiny_loaded, "sampling", n=2)
    assert report.spec.engine == "local"
    monkeypatch.setattr(sampled, "find_served", lambda engine, own: None)
    with pytest.raises(StoreError, match=r"made with engine = 'local', not 'http://127\.0\.0\.1:9/v1'"):
        evaluated(run, tiny_loaded, "self_consistency", **away)


def test_mined_problems_are_refused_and_marked_when_allowed(run, tiny_loaded, monkeypatch):
    mined = run.problems()
    monkeypatch.setattr(runner, "load_problems", lambda *a, **k: tuple(mined[:2]))
    with pytest.raises(DataError, match="2 of 2 evaluation problems were mined"):
        evaluated(run, tiny_loaded, "stir")
    report, path = evaluated(run, tiny_loaded, "stir", allow_leak=True)
    assert len(report.spec.leaks) == 2
    assert "**LEAK:** 2 of these problems were mined" in (path / "report.md").read_text()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("stirr", "did you mean stir"),
        ("zzz", "take one of vanilla"),
        ("stir:k_scal=1", "did you mean k_scale"),
        ("stir:k_scale=high", "'high' is not a number"),
        ("stir:k_scale=-1", "greater than or equal to 0"),
        ("stir:library=best", "there is no library 'best'"),
        ("stir:variant=other", "variant"),
        ("self_consistency:k=2.5", "not a whole number"),
        ("step_sampling:n=2_5", "not a whole number"),
        ("stir:library=all,library=basis", "library is given twice"),
        ("stir:rho=1,beta=2,rho=1", "rho is given twice"),
        ("soft_thinking:cold_stop=perhaps", "not true or false"),
        ("vanilla:x=1", "its parameters: none"),
    ],
)
def test_what_is_no_method_is_refused_in_one_line(text, what):
    with pytest.raises(ConfigError) as refusal:
        method(text)
    assert what in str(refusal.value) and "\n" not in str(refusal.value)


def test_names_are_canonical():
    assert method("stir:rho=1,beta=2.0").name == method("stir:beta=2,rho=1.0").name == "stir:beta=2,rho=1"
    assert method("static:strength=1.0").name == "static"
    assert [m.name for m in methods(["stir", "stir:library=basis", "vanilla"])] == ["stir", "vanilla"]
    for decoder in DECODERS.values():
        assert decoder.about and decoder.source


def test_a_layer_that_the_library_has_not_is_refused(run, tiny_loaded):
    with pytest.raises(ConfigError, match="no action at layer 3: choose one of 1, 2"):
        evaluated(run, tiny_loaded, "stir:layer=3")
    report, _ = evaluated(run, tiny_loaded, "stir:layer=2", label="two")
    assert report.complete


def test_actions_of_a_layer_can_be_used_at_another_block(run, tiny_loaded):
    for text, what in (("stir:at=1", "add layer=1"), ("stir:layer=1,at=99", "the model has blocks 0 to")):
        with pytest.raises(ConfigError, match=what):
            evaluated(run, tiny_loaded, text)
    evaluated(run, tiny_loaded, "stir:layer=1", "stir:layer=1,at=1", "stir:layer=1,at=2", label="moved")
    folder = EvaluationFolder(run, "moved")
    own, same, moved = (folder.answers(name) for name in ("stir:layer=1", "stir:at=1,layer=1", "stir:at=2,layer=1"))
    assert [answer.token_ids for answer in own] == [answer.token_ids for answer in same] != []

    def retrieved(answers):
        return [each for answer in answers for step in answer.trace.steps for each in step.evidence.retrieved]

    assert {each.layer for each in retrieved(own)} == {1} and {each.layer for each in retrieved(moved)} == {2}
    entries = {entry.id: entry for entry in run.entries()}
    assert {entries[each.entry_id].layer for each in retrieved(moved)} == {1}


def test_answers_do_not_depend_on_rows(run, tiny_loaded):
    names = [name for name in ALL if name != "vanilla"]
    evaluated(run, tiny_loaded, *names, rows=1, label="one")
    evaluated(run, tiny_loaded, *names, rows=8, label="eight")
    for name in names:
        one, eight = (
            {a.problem_id: (a.token_ids, a.forward_tokens, a.flops) for a in EvaluationFolder(run, label).answers(name)}
            for label in ("one", "eight")
        )
        assert one == eight, name


def test_problems_that_repeat_a_mined_one_but_for_its_numbers_are_counted(run, tiny_loaded, monkeypatch):
    first = run.problems()[0]
    question = re.sub(r"\d+", lambda number: str(int(number[0]) + 7), first.question)
    other = Problem(**(first.model_dump() | {"id": "x", "question": question}))
    monkeypatch.setattr(runner, "load_problems", lambda *a, **k: (other,))
    report, path = evaluated(run, tiny_loaded, "stir:candidates=1")
    assert (report.spec.leaks, report.spec.same_words) == ((), 1)
    assert "1 problems repeat a mined one but for its numbers" in (path / "report.md").read_text()


def test_an_evaluation_does_not_shrink(run, tiny_loaded):
    """Methods asked for on fewer problems would take those that are answered out of the report."""
    report, path = evaluated(run, tiny_loaded, "stir:candidates=1", n=4, label="whole")
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    with pytest.raises(StoreError, match="has 4 problems, not 2: ask for --n 4, choose another --label, or add --fresh"):
        evaluated(run, tiny_loaded, "noise", n=2, label="whole")
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == before and report.problems == 4


def test_a_problem_that_does_not_fit_the_context_is_left_out_for_all_methods_and_named(run, tiny_loaded, monkeypatch):
    load = runner.load_problems

    def with_a_long_one(*given, **more):
        first, *rest = load(*given, **more)
        return (first.replaced(id="long", question="9 + " * 4000), *rest)

    monkeypatch.setattr(runner, "load_problems", with_a_long_one)
    report, path = evaluated(run, tiny_loaded, "stir:candidates=1", label="long")
    assert report.complete and report.problems == report.spec.n == 3
    assert len(report.spec.left_out) == 1 and "long" in report.spec.left_out[0]
    assert "since their prompts do not fit the context: 1 (problem long: the prompt has" in (path / "report.md").read_text()
    again, _ = evaluated(run, tiny_loaded, "stir:candidates=1", label="long")  # it goes on with the same problems
    assert again.spec.left_out == report.spec.left_out and again.problems == 3


def test_a_library_that_cannot_be_had_is_refused_before_anything_is_written(run, tiny_loaded):
    for name, what in (("stir:library=measured", "stir causal"), ("stir:layer=3", "no action at layer 3")):
        with pytest.raises((StoreError, ConfigError), match=what):
            evaluated(run, tiny_loaded, name, n=2)
    assert not (run.path / "evaluation").exists()
    report, _ = evaluated(run, tiny_loaded, "noise", n=2)
    assert report.complete and [m.name for m in report.methods] == ["vanilla", "noise"]


def test_tokens_that_were_previewed_and_committed_count_once(run, tiny_loaded):
    report, _ = evaluated(run, tiny_loaded, "stir:k_scale=0")
    answers = EvaluationFolder(run, "arithmetic-eval").answers("stir:k_scale=0")
    assert sum(a.reused_tokens for a in answers) > 0
    for answer in answers:
        assert answer.decoded == answer.tokens_used + answer.trace.probe_tokens - answer.trace.reused_tokens
    assert report.methods[1].total == pytest.approx(sum(a.decoded for a in answers) / 4)


def test_the_commands_of_all_attempts_are_kept(run, tiny_loaded):
    evaluated(run, tiny_loaded, "stir", n=2)
    spec, problems = settle(run, tiny_loaded.identity, ask("noise", n=2), command="stir eval again", environment={})
    report, path = evaluate(run, tiny_loaded, spec, problems)
    assert report.spec.command == "stir eval\nstir eval again"
    assert "    stir eval\n    stir eval again\n" in (path / "report.md").read_text()


def test_control_libraries_keep_whole_pairs(run):
    for name in ("shuffled", "length_matched"):
        memory = libraries_of(run)(name)
        kinds: dict[int, set[str]] = {}
        for entry in memory.entries if memory else ():
            kinds.setdefault(entry.pair, set()).add(entry.kind)
        basis = {(entry.pair, entry.kind) for entry in libraries_of(run)("basis").entries}
        assert all(kinds[pair] == {kind for own, kind in basis if own == pair} for pair in kinds)
