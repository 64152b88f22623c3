"""A thousand SIGKILLs of a server at random moments while studies come in and are computed: what was lost, torn or
doubled, and what the interrupted jobs were at.

python tests/benchmarks/server_kills.py [KILLS]
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS), str(_TESTS / "runtime"), str(_TESTS / "runtime" / "server")]

from killing import kill_run  # noqa: E402


def main(kills: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fate = kill_run(Path(folder), kills, pause_s=0.4)
    sys.stdout.write(json.dumps(asdict(fate), indent=2) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000)
