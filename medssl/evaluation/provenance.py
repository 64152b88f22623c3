"""The commands that a run came from, as far as its folders tell: preparation, pretraining, training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medssl.imaging.environment import environment


def made_with(runs: Sequence[Path]) -> dict[str, Any]:
    """Entry `environment` of results.json: command, versions, commit, machine, and the commands of what was judged.

    Args:
        runs: Folders of training runs.
    """
    earlier = [entry for run in runs for entry in origins(run)]
    unique = [entry for n, entry in enumerate(earlier) if entry not in earlier[:n]]
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {**environment(), "gpus": devices, "earlier": unique}


def origins(run: Path) -> list[dict[str, str]]:
    """`what` was done and the `command`, oldest first; what a folder does not tell is left out.

    Args:
        run: Folder with run.json, or with the run.json of folds.
    """
    found: list[dict[str, str]] = []
    for file in (run / "run.json", *sorted(run.glob("fold_*/run.json"))[:1]):
        content = _read(file)
        config = content.get("config", {})
        if config.get("data"):
            found += _told("prepare", _read(Path(config["data"]) / "cache.json").get("command"))
        if config.get("init"):
            found += origins(Path(config["init"]).parent)
        for session in content.get("sessions", ()):
            found += _told(content.get("verb", "training"), session.get("command"))
    return found


def _told(what: str, command: str | None) -> list[dict[str, str]]:
    return [{"what": what, "command": command}] if command else []


def _read(path: Path) -> dict[str, Any]:
    """A damaged file tells nothing: where a number comes from must not keep it from being shown."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
