"""The estimate: its bounds hold against what was really made, its expectations are what was measured, and nothing is guessed."""

import json
import os
import shutil

import pytest

from stir_core.cli import main
from stir_core.config import config_from
from stir_core.errors import ConfigError, DataError, ModelError
from stir_core.evaluate.estimate import MEMORY, CostEstimate, Lengths, bound_and_expectation, estimate, mean_tokens, rollout_flops
from stir_core.intervene.nearest import BYTES_BESIDE
from stir_core.models.cost import Cost, flops
from stir_core.models.loading import load_model
from stir_core.models.passes import Feed, forward
from stir_core.models.sizes import Shape, Sizes, sizes_of
from stir_core.records import Continuation
from stir_core.store.jsonl import read_records
from stir_core.store.runs import EMBEDDED_RUNS, Run

SMOLLM2 = Sizes(30, 576, 8192, Shape(106168320, 28311552, 17280), 134515008, 2 * 30 * 3 * 64)
"""The embedded model's sizes, so that one test alone needs its files."""


@pytest.fixture(autouse=True)
def sizes_are_known(monkeypatch):
    monkeypatch.setattr("stir_core.evaluate.estimate.sizes_of", lambda name: SMOLLM2 if name == "smollm2" else sizes_of(name))


@pytest.fixture(scope="module")
def embedded() -> Run:
    return Run.open("smollm2")


def test_bounds_hold_against_the_embedded_run(embedded, tmp_path):
    found = estimate(embedded.config, tmp_path)
    assert found.measured is not None and found.measured.run == "smollm2" and found.measured.differs == ()
    rollouts = embedded.rollouts()
    tokens = sum(rollout.n_tokens for rollout in rollouts)
    row = found.of("rollout tokens")
    assert row.low == row.high == tokens == embedded.manifest("rollouts").counts["tokens"]
    assert row.bound is not None and tokens <= row.bound == 56 * 8 * 128
    rolled = sum(each.n_tokens for each in read_records(embedded.folder("actions") / "continuations.jsonl", Continuation))
    counts = embedded.manifest("steered").counts
    sizes = {
        "states on disk": embedded.folder("states") / "states.safetensors",
        "actions on disk": embedded.folder("actions") / "actions.safetensors",
    }
    made = {name: file.stat().st_size for name, file in sizes.items()}
    made |= {"re-roll tokens": rolled, "probe tokens": counts["steered_probe_tokens"]}
    made |= {"held-out tokens": counts["vanilla_tokens"] + counts["steered_tokens"], "rollouts": len(rollouts)}
    for name, value in made.items():
        bound = found.of(name).bound
        assert bound is not None and 0 < value <= bound, name
    least = sum((_fed(len(r.prompt_ids) if r.k == 0 else 0, r) for r in rollouts), Cost())  # each prompt once, each token but the last
    row = found.of("rollout FLOPs")
    assert row.bound is not None and row.low is not None and row.high is not None
    assert flops(SMOLLM2.shape, least) <= row.bound and row.low <= row.high <= row.bound
    assert row.low == pytest.approx(flops(SMOLLM2.shape, least), rel=0.03)


def _fed(prompt: int, rollout) -> Cost:
    before, n = len(rollout.prompt_ids), rollout.n_tokens - 1
    return Cost(prompt + n, prompt * (prompt + 1) // 2 + n * before + n * (n + 1) // 2, n + (prompt > 0))


def test_an_answer_that_was_cut_off_is_a_range():
    lengths = Lengths((5,), (10, 20, 30), (False, False, True))
    assert mean_tokens(lengths, 30) == (20, 20)
    assert mean_tokens(lengths, 15) == pytest.approx((40 / 3, 40 / 3))  # shorter: known exactly
    assert mean_tokens(lengths, 60) == (20, 30)  # longer: it might have ended at once, or never


def test_flops_are_those_of_the_passes():
    shape = Shape(1000, 100, 8)
    by_hand = Cost()
    for _ in range(3):  # problems
        by_hand += Cost(7, 7 * 8 // 2, 1)
        for _ in range(2):
            for i in range(1, 6):
                by_hand += Cost(1, 7 + i, 1)
    assert rollout_flops(shape, 3, 2, 7, 1, 5) == flops(shape, by_hand)


def test_what_was_not_measured_is_not_there(tmp_path):
    found = estimate(config_from({"task": {"name": "gsm8k"}}), tmp_path)
    assert found.measured is None and "no measurement yet" in found.notes[0]
    assert found.of("rollout tokens").low is None and found.of("rollout FLOPs").low is None
    time = found.of("decoding time")
    assert (time.bound, time.low, time.high, time.note) == (None, None, None, "no measurement yet")
    assert bound_and_expectation(time) == ("", "")


def test_a_run_that_cannot_be_opened_is_left_out_by_name(tmp_path):
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "run.json").write_text("")
    notes = estimate(config_from({"task": {"name": "chain"}}), tmp_path / "runs").notes
    assert [note for note in notes if note.startswith("left out: ") and "broken/run.json" in note]


def test_a_run_whose_rollouts_are_damaged_is_left_out_by_name(tmp_path):
    run = tmp_path / "runs" / "mine"
    shutil.copytree(EMBEDDED_RUNS["two_habits"], run)
    (run / "rollouts" / "rollouts.jsonl").write_text("")
    found = estimate(config_from({"model": {"name": "organism:two_habits"}, "task": {"name": "chain"}}), tmp_path / "runs")
    assert [note for note in found.notes if note.startswith("left out: ") and "mine/rollouts/rollouts.jsonl" in note]


def test_time_comes_from_logs_of_the_same_machine_and_dtype(embedded, tmp_path):
    for name, rate, device in (("a", 20.0, "x86_64"), ("b", 50.0, "x86_64"), ("c", 900.0, "A GPU")):
        run = Run.at(tmp_path / name, embedded.config, {"device": device})
        run.save()
        os.symlink(embedded.folder("rollouts"), run.path / "rollouts")
        line = {"stage": "rollouts", "seconds": 1.0, "tokens": 5, "tokens_per_second": rate}
        (run.path / "log.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"tokens": 0, "tokens_per_second": None}) + "\n")
        if name == "c":
            (run.path / "log.jsonl").unlink()
    found = estimate(embedded.config, tmp_path, until="rollouts")
    assert found.measured is not None and found.measured.tokens_per_second == (20.0, 50.0)
    time, tokens = found.of("decoding time"), found.of("rollout tokens")
    assert tokens.low is not None and tokens.bound is not None
    assert time.low == pytest.approx(tokens.low / 50) and time.high == pytest.approx(tokens.bound / 20)
    names = ["rollouts", "rollout tokens", *MEMORY, "rollout FLOPs", "decoding time"]
    assert [each.name for each in found.quantities] == names
    other = estimate(config_from(embedded.config.model_dump() | {"model": {"dtype": "bfloat16"}}), tmp_path)
    assert other.of("decoding time").low is None


def test_sizes_are_those_of_the_loaded_model(tiny_folder):
    loaded, found = load_model(tiny_folder), sizes_of(tiny_folder)
    assert found is not None and found[:4] == (loaded.n_layers, loaded.d_model, loaded.n_ctx, loaded.shape)
    assert found.parameters == sum(weight.numel() for weight in loaded.plain.parameters())
    store = loaded.new_store(columns=64)
    forward(loaded, [Feed(store.open(), [1, 2, 3])])
    kept = [part.numel() for layer in range(loaded.n_layers) for part in (store.keys(layer), store.values(layer))]
    assert found.cache_width == sum(kept) // 64


def test_memory_is_that_of_weights_and_cache(tmp_path, monkeypatch):
    def asked(**model: str) -> CostEstimate:
        return estimate(config_from({"model": model, "rollouts": {"cache_tokens": 1000}}), tmp_path)

    exact, half = asked(dtype="float32"), asked(dtype="float16")
    assert [exact.of(name).bound for name in MEMORY] == [4 * SMOLLM2.parameters, 4 * 1000 * SMOLLM2.cache_width]
    assert [half.of(name).bound for name in MEMORY] == [2 * SMOLLM2.parameters, 2 * 1000 * SMOLLM2.cache_width]
    assert not any("of memory" in note for note in exact.notes)
    monkeypatch.setattr("os.sysconf", lambda name: 20_000)  # pages of 20 kB, and as many of them
    assert any(
        note.startswith("weights and cache need 584.1 MB, and this machine has 400.0 MB of memory") for note in asked(dtype="float32").notes
    )


@pytest.mark.parametrize(
    ("device", "cards", "note"),
    [
        ("cpu", [1], None),
        ("auto", [], None),
        ("cuda", [], "model.device is cuda, and there is no CUDA device here"),
        ("all", [], "model.device is all, and there is no CUDA device here"),
        ("auto", [10**8, 10**9], "weights and cache need 584.1 MB, and the GPU here has 100.0 MB of memory"),
        ("all", [10**8, 2 * 10**8], "weights and cache need 584.1 MB, and the 2 GPUs here have 300.0 MB of memory"),
        ("all", [10**8, 10**9], None),
    ],
)
def test_memory_is_compared_with_that_of_the_device_asked_for(tmp_path, monkeypatch, device, cards, note):
    monkeypatch.setattr("stir_core.evaluate.estimate.gpu_memory", lambda: cards)
    config = config_from({"model": {"dtype": "float32", "device": device}, "rollouts": {"cache_tokens": 1000}})
    first = next((each for each in estimate(config, tmp_path).notes if "memory" in each or "CUDA" in each), None)
    assert (first or "").startswith(note or "") and (first is None) == (note is None)


def test_memory_of_a_library_and_its_index(tmp_path):
    def asked(budget: int, search: str) -> CostEstimate:
        mining = {"mining": {"top_pairs": 100_000}, "basis": {"budget": budget}}
        return estimate(config_from({"model": {"dtype": "float32"}, "gate": {"search": search}} | mining), tmp_path)

    library = asked(300, "exact")
    assert library.of("library in memory").bound == 3 * 300 * 576 * 4 and "library=all: 1.4 GB" in library.of("library in memory").note
    assert not any(each.name == "index in memory" for each in library.quantities)
    assert [asked(n, "approximate").of("index in memory").bound for n in (99_999, 100_000)] == [0, 100_000 * (2 * 576 + BYTES_BESIDE)]


@pytest.mark.model
def test_sizes_of_the_embedded_model(smollm2):
    assert sizes_of("smollm2") == SMOLLM2
    assert SMOLLM2[:4] == (smollm2.n_layers, smollm2.d_model, smollm2.n_ctx, smollm2.shape)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ({"task": {"name": "arithmetics"}}, DataError, "did you mean arithmetic"),
        ({"task": {"name": "math500"}}, DataError, "mine on math"),
        ({"task": {"levels": ["Level 9"]}}, DataError, "no level 'Level 9'"),
        ({"task": {"template": "bxoed"}}, DataError, "is not known"),
        ({"delimiter": "segmenter:nobody"}, DataError, "not registered here"),
        ({"task": {"n_train": 10**6}}, DataError, "mine problems, 1000000 were asked for"),
        ({"task": {"n_eval": 10**6}}, DataError, "eval problems, 1000000 were asked for"),
        ({"model": {"name": "smollm"}}, ModelError, "did you mean"),
        ({"mining": {"layers": [31]}}, ConfigError, "blocks 0 to 29"),
        ({"mining": {"layers": ["x/y"]}}, ConfigError, "is not a layer"),
        ({"mining": {"layers": ["x"]}, "model": {"name": "some/where"}}, ConfigError, "is not a layer"),
    ],
)
def test_what_the_run_would_refuse_is_refused_before(tmp_path, data, kind, message):
    with pytest.raises(kind, match=message):
        estimate(config_from(data), tmp_path)


def test_the_command(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("")
    argv = ["estimate", str(tmp_path / "c.toml"), "--set", "task.n_train=2", "--until", "rollouts", "--runs", str(tmp_path)]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quantities"][0]["bound"] == 16 and found["measured"]["run"] == "smollm2"
    assert main(argv) == 0
    assert "expected from run smollm2" in capsys.readouterr().out
    assert main([*argv, "--runs", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
