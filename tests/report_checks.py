"""What holds for every report: its page in a browser, its results against their schema, its tables as CSV."""

import csv
import json
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
from browser import DESKTOP, PHONE, Browser

_IMAGES = """return [...document.images].filter(
    image => !image.complete || image.naturalWidth === 0 || !image.alt.trim()).length"""
_HEADINGS = "return [...document.querySelectorAll('h1, h2, h3, h4')].map(heading => Number(heading.tagName[1]))"
_SCROLLED = """return [...document.querySelectorAll('table')].filter(
    table => table.scrollWidth > table.parentElement.clientWidth + 1
             && getComputedStyle(table.parentElement).overflowX !== 'auto').length"""


def check_results(path: Path) -> dict[str, Any]:
    """Content of a results.json, after a check against the schema that is shipped."""
    content = json.loads(path.read_text(encoding="utf-8"))
    text = resources.files("medssl.evaluation.report").joinpath("results.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    part = {"$defs": schema["$defs"], "$ref": f"#/$defs/{content['task']}"}  # its messages name the entry that is wrong
    jsonschema.Draft202012Validator(part).validate(content)
    jsonschema.Draft202012Validator(schema).validate(content)
    return dict(content)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file that has some."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows, f"{path} has no line"
    return rows


def check_page(browser: Browser, path: Path) -> None:
    """Open a report from disk, at a desktop's and at a phone's size, and look for everything that must not be."""
    for width, height in (DESKTOP, PHONE):
        seen = browser.open_page(path.as_uri(), width, height)
        assert seen.errors == ()
        assert seen.failed == ()
        assert seen.requests == (path.as_uri(),), "a report asks for nothing but itself"
        assert browser.run(_IMAGES) == 0, "every image loads, and says what it shows"
        assert browser.run("return document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
        assert browser.run(_SCROLLED) == 0, "a table that is too wide scrolls within its frame"
    levels = browser.run(_HEADINGS)
    assert levels[:2] == [1, 2]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "no heading is skipped"
    titles = browser.run("return [...document.querySelectorAll('h2')].map(heading => heading.textContent)")
    assert titles[-1] == "Environment and commands"
