"""Whether the data of a study are still those that it was prepared from."""

from functools import partial
from pathlib import Path

from medssl.commands.app import make_manifest
from medssl.commands.console import say
from medssl.commands.data_changes import manifest_now, refuse_changes, told_changes
from medssl.commands.prepare import changed_cases
from medssl.commands.study_images import images_cache
from medssl.commands.study_tuned import application_of, cache_of, prepare_options
from medssl.evaluation.study_plan import StudyPlan
from medssl.imaging.manifest import Manifest


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
        now = manifest_now(partial(make_manifest, application_of(plan), data), out)
        problems += told_changes(own, changed_cases(now, own))
    for images in plan.image_sets:
        cache = images_cache(images, prepare_options(plan), own, out)
        if _is_prepared(cache):
            problems += told_changes(cache, changed_cases(Manifest.read(cache.with_name("images.csv")), cache))
    refuse_changes(problems)


def _is_prepared(cache: Path) -> bool:
    return (cache / "cache.json").is_file()
