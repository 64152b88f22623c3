"""The whole line on the built-in synthetic cohort: cohort, pretraining, fine-tuning, bundle, prediction, report."""

from pathlib import Path

from medssl.commands import app as application
from medssl.commands.parsing import resolve_folder, run_verb
from medssl.imaging.errors import MedsslError, how_to_install

POSITIONAL: tuple[str, ...] = ()


def quickstart(out: Path = Path("runs/quickstart")) -> None:
    """Make virtual patients (synthetic, nothing about real patients follows from them) and run every stage on them.

    Args:
        out: Folder of the run; ends with OUT/report.html. Run again to resume.

    Raises:
        MedsslError: The training extra or nilearn is not installed.
    """
    try:
        from medssl.data.demo_cohort import Cohort, write_cohort
    except ImportError as error:
        raise MedsslError(
            f"the demo needs the training and demo extras ({error}): {how_to_install('train,demo')}",
            reason="missing-extra",
        ) from error
    cohort = out / "cohort"
    if not (cohort / "README.json").is_file():
        write_cohort(cohort, Cohort())
    folder = resolve_folder("apps", Path("apps/demo_brain"))
    application.app("run", folder, cohort, out, skip=("report",))
    predictions = out / "predictions"
    if not predictions.is_dir():
        run_verb(
            "predict",
            [
                str(out / "bundle"),
                str(cohort / "dicom"),
                "--out",
                str(predictions),
                "--format",
                "nifti,dicom-seg,json,png",
            ],
        )
    application.app("run", folder, cohort, out)
