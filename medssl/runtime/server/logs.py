"""Logs without patients: our own lines, which name jobs and pseudonyms, and of other libraries nothing.

pydicom, highdicom, pynetdicom and the web client quote values of headers, names and UIDs in what they log and warn.
"""

import logging
import sys
import warnings

LOG = logging.getLogger("medssl.server")
"""Messages hold job ids, pseudonyms, model names and reason codes, never text of an error or of a header."""

_OURS = ("medssl.server", "uvicorn.error")


def set_up_logs() -> None:
    """Write our lines to standard error and silence every other logger and all warnings."""
    warnings.simplefilter("ignore")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.name in _OURS)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "huey", "urllib3", "multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
