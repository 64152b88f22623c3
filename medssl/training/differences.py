"""What a run that is to go on would do otherwise than it began."""

import json
from collections.abc import Mapping
from typing import Any

from medssl.data.augment_options import AugmentOptions, ViewAugment
from medssl.tasks.options import CropOptions, InferenceOptions, TransferOptions
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import SecondData, ViewOptions


def differences(old: Mapping[str, Any], new: Mapping[str, Any], resumable: frozenset[str] | set[str]) -> list[str]:
    """A clause each for options, data and files that differ.

    Args:
        old: Content of the run's run.json, perhaps of an earlier version, which knew fewer options.
        new: Description as `RunFolder.start` takes it.
        resumable: Dotted names of options that may differ.
    """
    given, after = _flat(old.get("config", {})), _flat(new.get("config", {}))
    filled = _flat(_with_defaults(old.get("config", {}), new.get("config", {})))
    before = {name: value for name, value in filled.items() if name in given or name in after}
    changed = [
        f"{name}: the run has {before.get(name, 'nothing')!r}, now {after.get(name, 'nothing')!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name not in resumable
    ]
    if old.get("data_sha256") != new.get("data_sha256"):
        changed.append("data: the cache's content differs from the one the run began with")
    read = json.loads(json.dumps(new.get("read_as", [])))
    changed += [
        f"data: the cache was prepared with {name} {was[name]!r} when the run began, now {now[name]!r}"
        # runs from before it was kept pass; another number of caches is told by their hash
        for was, now in zip(old.get("read_as", read), read, strict=False)
        for name in now
        if was[name] != now[name]
    ]
    files = [content.get("helpers") or {} for content in (old, new)]
    return changed + [
        f"{name}: its file is not the one the run began with"
        for name in sorted(files[0].keys() | files[1].keys())
        if files[0].get(name) != files[1].get(name)
    ]


def _with_defaults(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run; those that its version did not know have their defaults, by which it went."""
    groups = {
        "train": TrainOptions().to_json(),
        "crops": CropOptions().to_json(),
        "augment": AugmentOptions().to_json(),
        "transfer": TransferOptions().to_json(),
        "inference": InferenceOptions().to_json(),
    }
    filled = {name: {**usual, **old.get(name, {})} for name, usual in groups.items() if name in new}
    if "views" in new:
        filled["views"] = _views(old.get("views", {}))
    if "also" in old:
        filled["also"] = {**SecondData().to_json(), **old["also"], "views": _views(old["also"].get("views", {}))}
    return {**old, **filled}


def _views(old: Mapping[str, Any]) -> dict[str, Any]:
    """The same of views and of those of their variations that are given."""
    views, usual = {**ViewOptions().to_json(), **old}, ViewAugment().to_json()
    return {name: {**usual, **value} if isinstance(value, Mapping) else value for name, value in views.items()}


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, Mapping) or not content:
        return {prefix: json.loads(json.dumps(content, default=str))}
    found: dict[str, Any] = {}
    for name, value in content.items():
        found.update(_flat(value, f"{prefix}.{name}" if prefix else str(name)))
    return found
