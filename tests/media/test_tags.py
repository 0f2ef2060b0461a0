"""Tags: kept by every container that can, and told where one cannot."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from helpers import ClipMaker, inside

TAGS = {"title": "A day\nat sea", "artist": "Änne", "comment": "none", "mood": "calm"}


@pytest.fixture
def packed(make_clip: ClipMaker, tmp_path: Path) -> Path:
    """A file of a clip with tags, and a track with a language."""
    options = [word for name, text in TAGS.items() for word in ("-metadata", f"{name}={text}")]
    options += ["-c:v", "libx264", "-c:a", "aac", "-metadata:s:a:0", "language=deu"]
    source = make_clip("in.mkv", audio=True, options=options)
    assert inside("encode", source, tmp_path / "clip.vtk", "-q") == (0, "", "")
    return tmp_path / "clip.vtk"


@pytest.mark.parametrize(
    ("target", "lost"),
    [
        ("out.mkv", []),
        ("out.nut", []),
        ("out.mp4", ["MOOD"]),
        ("out.mov", ["MOOD"]),
        ("out.avi", ["MOOD"]),
        ("out.gif", ["title", "ARTIST", "COMMENT", "MOOD"]),
        ("out.y4m", ["title", "ARTIST", "COMMENT", "MOOD"]),
    ],
)
def test_tags_are_kept_or_told(packed: Path, tmp_path: Path, target: str, lost: list[str]) -> None:
    code, _, told = inside("decode", packed, tmp_path / target)
    assert code == 0
    assert all(name in told for name in lost) and (f"{len(lost)} tag" in told) == bool(lost)
    with av.open(str(tmp_path / target)) as container:
        found = {name.lower(): text for name, text in container.metadata.items()}
        languages = [stream.metadata.get("language") for stream in container.streams.audio]
    kept = {name: text for name, text in TAGS.items() if name not in [each.lower() for each in lost]}
    assert found.items() >= kept.items()
    if target in ("out.mkv", "out.mp4"):
        assert languages in (["deu"], ["ger"])


@pytest.mark.parametrize(
    ("language", "target", "lost"),
    [
        ("eng", "out.mov", False),
        ("tlh", "out.mkv", False),
        ("tlh", "out.mp4", False),
        ("tlh", "out.mov", True),
        ("Klingon", "out.mov", True),
        ("Klingon", "out.mp4", True),
        ("Klingon", "out.mkv", False),
    ],
)
def test_languages_are_kept_or_told(
    make_clip: ClipMaker, tmp_path: Path, language: str, target: str, lost: bool
) -> None:
    """MP4 knows three letters, and MOV a few languages."""
    options = ["-c:v", "libx264", "-c:a", "aac", "-metadata:s:a:0", f"language={language}"]
    source = make_clip("in.mkv", audio=True, options=options)
    assert inside("encode", source, tmp_path / "clip.vtk", "-q") == (0, "", "")
    code, _, told = inside("decode", tmp_path / "clip.vtk", tmp_path / target)
    assert code == 0 and ("1 tag of audio track 0 (language)" in told) is lost
    with av.open(str(tmp_path / target)) as container:
        found = container.streams.audio[0].metadata.get("language")
    assert (found in (None, "und")) is lost


def test_info_shows_tags_on_one_line_each(packed: Path) -> None:
    code, told, _ = inside("info", packed)
    assert code == 0
    assert "  tag    title: A day at sea\n" in told and "language" in told


@pytest.mark.parametrize("name", ["in.avi", "in.mkv", "in.mp4"])
def test_tags_in_another_encoding_are_told(make_clip: ClipMaker, tmp_path: Path, name: str) -> None:
    """Old files have tags in the encoding of the machine that they were made on."""
    title = "a title of many letters"
    source = make_clip(name, audio=True, options=["-metadata", f"title={title}", "-metadata", "artist=somebody"])
    data = source.read_bytes()
    assert data.count(title.encode()) == 1
    source.write_bytes(data.replace(title.encode(), title.replace("i", "\xed").encode("latin-1")))
    code, _, told = inside("encode", source, tmp_path / "out.vtk")
    assert code == 0 and "1 tag" in told and "title" in told
    code, out, _ = inside("info", tmp_path / "out.vtk", "--json")
    assert code == 0 and "somebody" in out and "a title" not in out
