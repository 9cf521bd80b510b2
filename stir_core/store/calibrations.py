"""Results of `stir calibrate` on disk: one file each. The package has one of the organisms that it embeds."""

from pathlib import Path

from stir_core.findings import CalibrationReport
from stir_core.store.jsonl import read_record, write_record
from stir_core.store.seals import DIGESTS, as_sealed, write_seal

FILE = "calibration.json"
SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "organisms" / FILE
"""The result that comes with the package."""


def calibration_files(root: Path) -> dict[str, Path]:
    """Results by name: the shipped one, then those below a folder of runs, each named by its folder."""
    own = sorted([*root.glob(f"*/{FILE}"), *root.glob(f"*/*/{FILE}")])
    return {"shipped": SHIPPED} | {str(file.parent.relative_to(root)): file for file in own}


def read_calibration(file: Path) -> CalibrationReport:
    """The result in a file.

    Raises:
        StoreError: missing or malformed.
    """
    as_sealed(file.with_name(f"{file.stem}.{DIGESTS}"), file, "copy it again, or make it again with `stir calibrate`")
    return read_record(file, CalibrationReport, "make it again with `stir calibrate`")


def write_calibration(folder: Path, report: CalibrationReport) -> None:
    """Write a result into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    seal = folder / f"{Path(FILE).stem}.{DIGESTS}"
    seal.unlink(missing_ok=True)
    write_record(folder / FILE, report)
    write_seal(seal, [folder / FILE])
