"""Text that is safe to print."""

from __future__ import annotations

import pytest

from vtok_codec.text import counted, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clip.mp4", "clip.mp4"),
        ("ünïcode 日本", "ünïcode 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\u202eb", "a\\u202eb"),
        ("a\udc80b", "a\\udc80b"),
        ("a\x9bb", "a\\x9bb"),
    ],
)
def test_controls_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_are_joined() -> None:
    assert one_line("a\n b\tc") == "a b c" and one_line("a\rb") == "a b"


def test_numbers_have_their_noun() -> None:
    assert counted(1, "frame") == "1 frame" and counted(0, "frame") == "0 frames"
