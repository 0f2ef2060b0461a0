"""Text that is safe to print: names from files may hold characters that control a terminal."""

from __future__ import annotations

import unicodedata

_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that could make one name look like another."""
_UNSAFE_CATEGORIES = ("Cc", "Cs")
"""Control characters and lone surrogates."""


def is_printable(character: str) -> bool:
    """Whether a character can neither control a terminal nor disguise the text around it."""
    return unicodedata.category(character) not in _UNSAFE_CATEGORIES and character not in _BIDI_CONTROLS


def is_text(character: str) -> bool:
    """Whether a character may stand in a text of several lines: printable, or a line break or tab."""
    return is_printable(character) or character in "\n\r\t"


def printable(text: str) -> str:
    """The text with every unsafe character written as an escape, such as `\\x1b`."""
    return "".join(c if is_printable(c) else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The text on a single line, safe to print."""
    return printable(" ".join(text.split()))


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 frame`, `2 frames`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """The first line of the text of an error, or the name of its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
