"""Whether the data of a study are still those that it was prepared from."""

from collections.abc import Mapping
from pathlib import Path

from medssl.commands.app import make_manifest
from medssl.commands.console import say
from medssl.commands.prepare import changed_cases
from medssl.commands.study_images import images_cache
from medssl.commands.study_tuned import application_of, cache_of, prepare_options
from medssl.evaluation.study_plan import StudyPlan
from medssl.imaging.errors import MedsslError
from medssl.imaging.manifest import Manifest
from medssl.imaging.problems import problems_beside

_SHOWN = 5


def refuse_other_data(plan: StudyPlan, data: Path, out: Path) -> None:
    """Refuse data that changed since the study was prepared, whose results would be told of what is there no longer.

    The manifest is made anew, and its rows and the bytes of their files are compared with what the cache keeps of them;
    of sets of images that arms are pretrained on those that were taken.

    Args:
        plan: The study.
        data: Folder of the data.
        out: Folder of the study.

    Raises:
        MedsslError: Cases that are new, gone or changed, or files that are missing.
    """
    own, problems = cache_of(plan, out), []
    if _is_prepared(own):
        say(f"curve: {data} is compared with what {own} was prepared from")
        problems += _told(own, changed_cases(_manifest_now(plan, data, out), own))
    for images in plan.image_sets:
        cache = images_cache(images, prepare_options(plan), own, out)
        if _is_prepared(cache):
            problems += _told(cache, changed_cases(Manifest.read(cache.with_name("images.csv")), cache))
    if problems:
        advice = "Results of other data are not mixed: choose another --out, or bring back the data as they were"
        raise MedsslError("\n".join([*problems, advice]), reason="run-exists")


def _is_prepared(cache: Path) -> bool:
    return (cache / "cache.json").is_file()


def _manifest_now(plan: StudyPlan, data: Path, out: Path) -> Manifest:
    """The manifest of the data as they are, made beside the study's own, since its paths may be relative."""
    path = out / "manifest_now.csv"
    try:
        make_manifest(application_of(plan), data, path)
        return Manifest.read(path)
    finally:
        for made in (path, problems_beside(path)):
            made.unlink(missing_ok=True)


def _told(cache: Path, changed: Mapping[str, str]) -> list[str]:
    if not changed:
        return []
    shown = ", ".join(f"{case} {what}" for case, what in list(changed.items())[:_SHOWN])
    return [f"{cache} was prepared from other data: {shown}{', ...' if len(changed) > _SHOWN else ''}"]
