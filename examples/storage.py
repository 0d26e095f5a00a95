"""A folder of results, which loses nothing to a kill or to another command."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def folder(text: str) -> Path:
    """For argparse: the folder, which is there then."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot make the folder {text!r}: {error.strerror}") from None
    return path


def check(output: Path, settings: Mapping[str, Any]) -> None:
    """Exits where the tables that are there have settings, by name, that these leave out or change; more may come."""
    path = output / "settings.json"
    if not path.exists():
        return
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        sys.exit(f"error: {path} cannot be read; mend or remove it")
    here = json.loads(json.dumps(settings))
    changed = [
        f"{name} was {value!r}, is {here[name]!r}" if name in here else f"{name} is left out"
        for name, value in there.items()
        if here.get(name) != value or name not in here
    ]
    if changed:
        sys.exit(f"error: {output} has results of another command ({', '.join(changed)}); choose another --output")


def keep(output: Path, settings: Mapping[str, Any]) -> None:
    """For ``check`` of later commands."""
    write_whole(output / "settings.json", json.dumps(settings, indent=2) + "\n")


def write_whole(path: Path, content: str) -> Path:
    """All of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
    return path
