# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Text for messages: printable, and of limited length."""

from collections.abc import Sequence


MAX_LISTED = 10


def printable(text: object) -> str:
    """The text with control characters escaped: names from others' files and models must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def first_of(lines: Sequence[str]) -> list[str]:
    """The first lines of a report, and how many more there are."""
    rest = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], *([f"  and {rest} more"] if rest > 0 else [])]


def raise_problems(head: str, problems: Sequence[str]) -> None:
    """Raise `ValueError` with the head and the first problems, a line each, if there are any."""
    if problems:
        raise ValueError("\n".join([head, *first_of([f"  {problem}" for problem in problems])]))


def count(number: int, noun: str) -> str:
    """1 error, 2 errors."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shorten(names: Sequence[str]) -> str:
    """The first names in quotes, and how many more there are."""
    shown = ", ".join(map(repr, names[:MAX_LISTED]))
    return shown + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")
