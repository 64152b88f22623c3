"""Errors for the person at the console: what is wrong, where, why, and what to do."""

from collections.abc import Sequence

_TELLING = 8
"""Characters of a text that a message does not have by chance."""


class MedsslError(Exception):
    """An error that the command line prints as one message, without a traceback.

    Args:
        message: What is wrong, where, why, and what to do about it.
        reason: Machine-readable code in kebab case, written to `problems.csv` and reports.
    """

    def __init__(self, message: str, *, reason: str = "error") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class ImageError(MedsslError):
    """A file or series that cannot be used as an image, with the reason code why.

    `series_uid` is the SeriesInstanceUID of a damaged DICOM file whose header still tells it.
    """

    series_uid = ""


class ManifestError(MedsslError):
    """A manifest that contradicts itself or the files it names."""


class CacheError(MedsslError):
    """A prepared cache that is missing, incomplete or does not fit the request."""


class CheckpointError(MedsslError):
    """A checkpoint, encoder or model file that is cut, edited, newer or does not fit."""


class BundleError(MedsslError):
    """A bundle that must not be used: hash, schema, golden case or content mismatch."""


class ConfigError(MedsslError):
    """Every mistake of a configuration, reported at once before any data is read.

    Args:
        problems: One sentence a mistake: name, value, rule, consequence, remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{len(problems)} mistake(s) in the options:\n{lines}", reason="config")
        self.problems = tuple(problems)


def in_words(error: BaseException) -> str:
    """Kind and text of what a library raised, on one line of sensible length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def message_of(error: BaseException) -> str:
    """What went wrong: the message of an error of medssl, kind and text of any other."""
    return error.message if isinstance(error, MedsslError) else in_words(error)


def unquoted(error: MedsslError) -> str:
    """Message of an error without the text of the library's error behind it, which may quote a patient's header."""
    message, cause = error.message, error.__cause__
    while cause is not None:
        if not isinstance(cause, MedsslError):
            message = _without(message, cause)
        cause = cause.__cause__
    return message


def _without(message: str, cause: BaseException) -> str:
    """The kind of error in place of its text, as it stands or on one line, whole or cut at its end."""
    kind, line = type(cause).__name__, " ".join(str(cause).split())
    message = message.replace(in_words(cause), kind)
    for text in (str(cause), line, line[:300], line[:200]):
        if len(text) >= _TELLING:
            message = message.replace(f"{kind}: {text}", kind).replace(text, kind)
        elif text:  # a word or number, which the message may have for another reason
            message = message.replace(f"({kind}: {text})", f"({kind})").replace(f"({text})", f"({kind})")
    return message


def how_to_install(extra: str) -> str:
    """How to install extras, `train` or `train,demo`.

    By path: medssl is in no package index, where somebody else could take its name.
    """
    return f"pip install -c constraints.txt '.[{extra}]' in medssl's clone, or from a wheelhouse (docs/hospital.md)"
