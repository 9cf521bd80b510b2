"""The tables of ``stir codebook``."""

import pytest

from stir_core.cli import main
from stir_core.commands.codebook import print_codebook
from stir_core.findings import Code, CodebookReport, CodeFit, CodeInformation, LayerCodes


def test_every_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    fit = CodeFit(method="vq", size=4, error=0.5, perplexity=3.9, dead=0)
    pca = CodeFit(method="pca", size=4, error=0.6, perplexity=None, dead=None)
    told = CodeInformation(about="habit", steps=90, information=0.7, null=0.01, ari=0.5, read_as=0.98, shuffled=0.0)
    steps = {"points": {"2": 9}, "exemplars": ("so 2 plus 2 makes 4",), "flags": ("position",)}
    code = Code(code=0, merged=0, members=9, right=0.5, tokens=7.0, **steps)
    more = {"information": (told,), "flag": "f", "codes": (code,), "merged": 4, "merged_error": 0.5, "entries": 3}
    layer = LayerCodes(layer=1, fits=(fit, pca), rate=(fit,), seeds=0.9, halves=0.8, **more)
    facts = {"run": "r", "kind": "vq", "size": 4, "encoder": "state", "steps": 99, "problems": 8, "held_out": 2, "quality": "share"}
    print_codebook(CodebookReport(**facts, layers=(layer,), notes=("layer 1: f",)))
    seen = capsys.readouterr().out
    for text in ("99 steps", "0.98", "position", "'so 2 plus 2 makes 4'", "4: 0.500", "a proxy", "note: layer 1: f", "0.90 between seeds"):
        assert text in seen


def test_an_embedded_run_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codebook", "smollm2", "--size", "4"]) == 2
    assert "never written to" in capsys.readouterr().err
