"""Make the embedded run ``two_habits`` again, with its studies and its codebook: ``python -m scripts.embedded_run``

Everything is decoded in a temporary folder by the commands that are stored with the results. The evaluation keeps texts, verdicts and costs
but not the steps of its 1000 answers, which would be most of the package; the run's own held-out answers keep theirs.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from stir_core.cli import main as stir
from stir_core.errors import StirError
from stir_core.findings import Answer
from stir_core.store.evaluations import evaluations
from stir_core.store.jsonl import read_records, write_records
from stir_core.store.runs import EMBEDDED_RUNS, Run
from stir_core.store.seals import DIGESTS, write_seal

ROOT = Path(__file__).resolve().parents[1]
NAME = "two_habits"
COMMANDS: tuple[str, ...] = (
    f"run configs/demo.toml --out runs/{NAME}",
    f"eval {NAME} --n 200 --methods stir static stir:noise=matched,variant=random_vector oracle --rows 200",
    f"causal {NAME} --n 16 --states 24 --rolls 4 --rows 128",
    f"critical {NAME} --of vanilla --every 4 --rows 64",
    f"codebook {NAME} --size 4",
)


def make(folder: Path) -> Path:
    """The run, made in an empty folder."""
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / NAME).symlink_to(Path("runs") / NAME)  # a folder of that name comes before the embedded run
    with contextlib.chdir(folder):
        for command in COMMANDS:
            if code := stir(command.split()):
                raise StirError(f"stir {command} ended with exit code {code}")
    run = Run.open(folder / "runs" / NAME)
    for evaluation in evaluations(run):
        for file in (evaluation.path / "answers").iterdir():
            write_records(file, [answer.replaced(trace=None) for answer in read_records(file, Answer)])
        (evaluation.path / DIGESTS).unlink()
        write_seal(evaluation.path / DIGESTS, (file for file in evaluation.path.rglob("*") if file.is_file()))
    (run.path / "log.jsonl").unlink()  # times of this machine
    return run.path


def main() -> int:
    """Make the run and put it in its place in the package."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder))
        shutil.rmtree(EMBEDDED_RUNS[NAME], ignore_errors=True)
        shutil.copytree(made, EMBEDDED_RUNS[NAME], ignore=shutil.ignore_patterns("*.lock"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
