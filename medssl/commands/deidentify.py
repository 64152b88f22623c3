"""Copy DICOM images without their patients' identity, for research; pseudonyms agree across files and runs."""

from collections import Counter
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.deidentify import Dates
from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.files import atomic_folder
from medssl.imaging.problems import write_problems
from medssl.imaging.progress import Progress

POSITIONAL = ("folder",)


def deidentify(
    folder: Path,
    out: Path,
    private: Path | None = None,
    dates: Dates = "remove",
    accept_burned_in: bool = False,
) -> None:
    """Write OUT/STUDY/SERIES/INSTANCE.dcm, named by new UIDs, by the basic profile of DICOM PS3.15.

    Faces can be recognised in images of the head, and text in pixels is not looked for: images that often have some are
    left out. Nothing here replaces the decision of who is responsible for the data.

    Args:
        folder: Folder with DICOM files, or one file.
        out: New folder for what may leave.
        private: Folder for what must stay: the key of the pseudonyms (made where there is none; give it again for the
            same pseudonyms; one key is for the patient numbers of one hospital) and problems.csv, which names the
            original files. OUT-private where it is not given.
        dates: `remove`, or `shift` all dates of a patient by one secret number of days, so that intervals stay.
        accept_burned_in: Write images too that say, or whose kind or unused bits of pixels suggest, that text is drawn
            into their pixels.

    Raises:
        ConfigError: OUT is there already, or PRIVATE lies inside it.
        ImageError: There is no such folder, or nothing in it could be written.
    """
    private = private or out.with_name(f"{out.name}-private")
    problems = []
    if not folder.exists():
        problems.append(f"{folder} does not exist: check the path")
    if out.exists():
        problems.append(f"out: {out} exists already: choose another folder; nothing is overwritten")
    if out.resolve() == private.resolve() or out.resolve() in private.resolve().parents:
        problems.append(f"private: {private} lies in {out}: the key must be kept apart from what it protects")
    if folder.resolve() == out.resolve() or folder.resolve() in out.resolve().parents:
        problems.append(f"out: {out} lies in {folder}, among the files with names")
    if problems:
        raise ConfigError(problems)
    from medssl.imaging.deidentify import Pseudonyms
    from medssl.imaging.deidentify_tree import deidentify_tree, find_files, load_key

    pseudonyms = Pseudonyms(load_key(private / "key.txt"), dates)
    with Progress("deidentify", len(find_files(folder)[0]), "file") as progress, atomic_folder(out) as temporary:
        found = deidentify_tree(
            folder, temporary, pseudonyms, accept_burned_in=accept_burned_in, tell=lambda _: progress.advance()
        )
        write_problems(private / "problems.csv", found.problems, mode=0o600)
        counts = Counter(problem.reason for problem in found.problems if problem.action == "left out")
        left = ", ".join(f"{number} {reason}" for reason, number in counts.most_common()) or "nothing"
        if not found.files:
            raise ImageError(
                f"nothing below {folder} could be written (left out: {left}); see {private / 'problems.csv'}",
                reason="nothing-written",
            )
    say(f"deidentify: {found.files} file(s) of {len(found.patients)} patient(s) in {out}")
    say(f"left out: {left}; see {private / 'problems.csv'}. Keep {private} apart from {out}.")
