"""`medssl VERB ...`: one verb a file in `medssl/commands/`; errors become one message and an exit code.

Exit codes: 0 done, 2 a mistake of the user or an input that cannot be used, 3 an internal error, 130 Ctrl-C, 143
SIGTERM, 141 nobody reads the output any more.
"""

import ast
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from medssl.imaging.errors import MedsslError, how_to_install
from medssl.imaging.files import DISK_FULL

_COMMANDS = Path(__file__).parent / "commands"
_EXTRAS = {
    "pyarrow": "embed",
    "umap": "embed",
    "peft": "peft",
    "timm": "timm",
    "nilearn": "demo",
    "cryptography": "sign",
    **dict.fromkeys(("fastapi", "uvicorn", "pynetdicom", "dicomweb_client", "huey", "peewee", "limits"), "serve"),
}
"""Module to the extra that brings it; all others come with `train`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getpid() == 1:  # of a container: the kernel keeps from it every signal that it has no handler for
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    if verb == "--version":
        sys.stdout.write(f"medssl {version('medssl')}\n")
        return 0
    if verb not in _verbs():
        sys.stderr.write(f"medssl: {verb!r} is no verb; known: {', '.join(_verbs())}\n")
        return 2
    return _run(verb, arguments[1:])


def _run(verb: str, arguments: list[str]) -> int:
    from medssl.commands.parsing import run_verb

    try:
        run_verb(verb.replace("-", "_"), arguments)
    except MedsslError as error:
        return _fail(verb, f"error ({error.reason}): {error.message}", 2)
    except KeyboardInterrupt:
        return _fail(verb, "stopped by Ctrl-C", 130)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "medssl":
            raise
        extra = _EXTRAS.get((error.name or "").split(".")[0], "train")
        return _fail(verb, f"needs {error.name!r}, which the base install leaves out: {how_to_install(extra)}", 2)
    except OSError as error:
        return _fail_on_file(verb, error)
    except Exception as error:  # the user gets one line; the whole trace is there on request
        if os.environ.get("MEDSSL_DEBUG"):
            traceback.print_exc()
        return _fail(verb, f"internal error: {type(error).__name__}: {error} (MEDSSL_DEBUG=1 shows the trace)", 3)
    return 0


def _fail_on_file(verb: str, error: OSError) -> int:
    if isinstance(error, BrokenPipeError):  # the reader of the output, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    where = f" ({error.filename})" if error.filename else ""
    if not where and error.errno in DISK_FULL:
        where = f" (where the results go, or in the folder for temporary files, {tempfile.gettempdir()})"
    return _fail(verb, f"error (file): {error.strerror or error}{where}", 2)


def _fail(verb: str, message: str, code: int) -> int:
    sys.stderr.write(f"medssl {verb}: {message}\n")
    return code


def _verbs() -> list[str]:
    """Files that name their positional arguments; the others are parts of verbs."""
    files = (path for path in _COMMANDS.glob("*.py") if "\nPOSITIONAL" in path.read_text(encoding="utf-8"))
    return sorted(path.stem.replace("_", "-") for path in files)


def _overview() -> str:
    """Verbs with the first line of their modules' docstrings, read without importing them."""
    lines = ["usage: medssl VERB [--help] [ARGUMENTS]", ""]
    for verb in _verbs():
        text = (
            ast.get_docstring(ast.parse((_COMMANDS / f"{verb.replace('-', '_')}.py").read_text(encoding="utf-8"))) or ""
        )
        lines.append(f"  {verb:<16}{text.splitlines()[0] if text else ''}")
    return "\n".join([*lines, "", "Not a medical device: for research only.", ""])


if __name__ == "__main__":
    sys.exit(main())
