"""``stir impulse``: refusals before a model is loaded, and what it prints of the embedded run."""

import json

import pytest

from stir_core.cli import main
from stir_core.responses import ImpulseResponse


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["impulse", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_refusals_name_the_value_and_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert '"p0000x" is not an entry of' in refused(capsys, "smollm2", "p0000x")
    assert "is a null entry and has no action: take one that `stir show smollm2 --all` lists" in refused(capsys, "smollm2", "p0000n")
    assert '"nowhere:3" is not a place for p0006c: take one such as arithmetic/' in refused(
        capsys, "smollm2", "p0006c", "--at", "nowhere:3"
    )
    for wrong in ("-1", "inf", "much"):
        with pytest.raises(SystemExit):
            main(["impulse", "smollm2", "p0006c", "--alpha", wrong])
        assert "is not a strength" in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["impulse", "smollm2", "p0006c", "--alpha", "0.5", "--doses", "2", "--json"]) == 0
    found = ImpulseResponse.model_validate(json.loads(capsys.readouterr().out))
    assert found.entry_id == "p0006c" and found.spot.kind == "held-out" and found.spot.alpha is not None
    assert [dose.alpha for dose in found.doses] == [0.0, 0.5, 2.0]
    assert found.layers[0].norm == pytest.approx(0.5 * found.action_norm, rel=1e-4)
    assert 0 < found.doses[1].kl < found.doses[2].kl
    assert found.doses[1].kl == pytest.approx(found.kl[0], abs=1e-3)
    # without an impulse greedy decoding goes the way of the model itself, so its own tokens are likely
    assert found.doses[0].unsteered_logprob is not None and found.doses[0].unsteered_logprob > -1.5
