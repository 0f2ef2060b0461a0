"""Sizes and qualities on demand: the search finds the settings, and the files keep what was asked for."""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import LANES, SMALL_LANES, ClipMaker, inside, pixels_of, psnr_db

from vtok_codec.codec.goals import LADDER, Goal, Outcome, Point, bitrate_goal, psnr_goal, search, size_goal
from vtok_codec.codec.trials import _noted
from vtok_codec.media.types import Frame

_RUNGS = [("small", 1), ("small", 2), ("large", 1), ("large", 2)]


def _outcome(point: Point) -> Outcome:
    """Every rung doubles the size and adds 1.5 dB; a bit that costs more takes up to two thirds of the size away."""
    rung = _RUNGS.index((point.model, point.tokens_per_position))
    size = 10_000 * 2**rung * (0.001 / point.rdo) ** 0.17
    return Outcome(round(size), 500, 10.0, 1 << 20, 20 + 1.5 * math.log2(size / 1000))


def _search(goal: Goal) -> tuple[Outcome, int]:
    tried: list[Point] = []

    def measure(point: Point) -> float:
        assert point not in tried
        tried.append(point)
        return goal.value(_outcome(point))

    return _outcome(search(_RUNGS, measure, goal)), len(tried)


@pytest.mark.parametrize("size", [5000, 6789, 9999, 13_000, 20_000, 33_333, 47_000, 60_000, 78_000])
def test_a_size_is_reached_from_below(size: int) -> None:
    outcome, trials = _search(size_goal(size, ""))
    assert 0.95 * size <= outcome.video_bytes + outcome.audio_bytes <= size
    assert trials <= 12


@pytest.mark.parametrize("psnr", [23.5, 25.0, 26.2, 27.7, 28.8])
def test_a_quality_is_reached_from_above(psnr: float) -> None:
    outcome, trials = _search(psnr_goal(psnr, ""))
    assert outcome.psnr_db is not None and psnr <= outcome.psnr_db <= psnr + 0.2
    assert trials <= 12


def test_a_bit_rate_leaves_the_audio_out() -> None:
    outcome, _ = _search(bitrate_goal(16_000, ""))
    assert 0.95 * 16_000 <= 8 * outcome.video_bytes / 10 <= 16_000


def test_what_cannot_be_reached_comes_out_as_near_as_can_be() -> None:
    for goal, size in ((size_goal(1000, ""), _outcome(Point("small", 1, 0.5))), (psnr_goal(50, ""), None)):
        outcome, _ = _search(goal)
        assert not goal.met(goal.value(outcome))
        assert outcome == (size or _outcome(Point("large", 2, 0.001)))
    # All settings are smaller than that: nothing more can be had, and nothing was broken.
    goal = size_goal(1 << 30, "")
    outcome, _ = _search(goal)
    assert goal.met(goal.value(outcome)) and outcome == _outcome(Point("large", 2, 0.001))


def test_the_ladder_climbs(tmp_path: Path) -> None:
    """Each rung has a larger file and a better picture than the one before."""
    reached = []
    for model, tokens in LADDER:
        file, shown = tmp_path / "o.vtk", tmp_path / "o.mkv"
        chosen = ("--model", model, "--tokens", tokens, "--rdo", 0.02, "--duration", 0.5)
        assert inside("encode", SMALL_LANES, file, "-qf", *chosen)[0] == 0
        assert inside("decode", file, shown, "-qf")[0] == 0
        pictures = pixels_of(shown)
        quality = psnr_db(np.stack(pictures), np.stack(pixels_of(SMALL_LANES)[: len(pictures)]))
        reached.append((file.stat().st_size, quality))
    assert all(low[0] < high[0] and low[1] < high[1] for low, high in pairwise(reached)), reached


def test_files_keep_what_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "o.vtk"
    beginning = ("--duration", 0.5)
    code, _, err = inside("encode", SMALL_LANES, target, *beginning, "--size", "1k")
    assert code == 0 and 950 <= target.stat().st_size <= 1_000
    assert f"small-lanes.mp4: {target.stat().st_size} bytes with onevae-nano-" in err
    named = ("-m", "onevae-nano-4x8x8", "-qf")
    assert inside("encode", SMALL_LANES, target, *beginning, "--psnr", "27.5", *named) == (0, "", "")
    assert inside("decode", target, tmp_path / "o.mkv", "-q") == (0, "", "")
    shown = pixels_of(tmp_path / "o.mkv")
    reached = psnr_db(np.stack(shown), np.stack(pixels_of(SMALL_LANES)[: len(shown)]))
    assert 27.45 <= reached <= 27.75
    info = json.loads(inside("info", target, "--json")[1])
    assert info["model"]["name"] == "onevae-nano-4x8x8"


def test_goals_out_of_reach_write_nothing(make_clip: ClipMaker, tmp_path: Path) -> None:
    source, target = make_clip("a.mp4", frames=5), tmp_path / "o.vtk"
    for options, message in (
        (["--size", "100"], "--size 100 cannot be reached; the least that these settings give is "),
        (["--psnr", "90"], "--psnr 90 cannot be reached; the best that these settings give is "),
        (["--bitrate", "1.5k"], "--bitrate 1.5k cannot be reached; the least that these settings give is "),
    ):
        code, out, err = inside("encode", source, target, *options)
        assert (code, out) == (2, "") and err.startswith(f"vtok: {source}: {message}") and err.count("\n") == 1
        assert not target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "2M", "--psnr", "30"], "only one of"),
        (["--size", "much"], "such as 500k or 2M"),
        (["--size", "0"], "such as 500k or 2M"),
        (["--psnr", "nan"], "above 0"),
        (["--psnr", "30", "--tokens", "2"], "do not go"),
        (["--size", "1M", "-Q", "best"], "do not go"),
        (["--dry-run", "--rdo", "0"], "do not go"),
    ],
)
def test_goals_that_make_no_sense_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    code, _, err = inside("encode", LANES, tmp_path / "o.vtk", *options)
    assert code == 2 and message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "o.vtk").exists()


def test_a_pipe_cannot_be_read_again(tmp_path: Path) -> None:
    for options in (["-", tmp_path / "o.vtk", "--size", "1M"], ["-", "--dry-run"]):
        code, _, err = inside("encode", *options)
        assert code == 2 and "name a file" in " ".join(err.replace("│", " ").split())
    os.mkfifo(tmp_path / "pipe")
    code, _, err = inside("encode", tmp_path / "pipe", tmp_path / "o.vtk", "--size", "1M")
    assert code == 2 and "name a file" in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "o.vtk").exists()


def test_a_dry_run_tells_every_preset(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("a.mp4", frames=5)
    code, out, err = inside("encode", source, source, "--dry-run", "-q")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 8 and lines[:4] == lines[4:]
    for line, name in zip(lines, ("tiny", "small", "medium", "best"), strict=False):
        assert line.startswith(f"{source}: --quality {name}: ") and line.endswith(" dB")
        assert inside("encode", source, tmp_path / "o.vtk", "-qf", "-Q", name) == (0, "", "")
        assert f" {(tmp_path / 'o.vtk').stat().st_size} bytes" in line
    assert list(tmp_path.glob("*.vtk")) == [tmp_path / "o.vtk"]


def test_sound_is_no_part_of_a_bit_rate(make_clip: ClipMaker, tmp_path: Path) -> None:
    """Its records count as sound whole, so that video alone has the same bit rate with and without it."""
    source, sizes = make_clip("a.mp4", frames=50, audio=True), []
    for options in ((), ("--no-audio",)):
        assert inside("encode", source, tmp_path / "o.vtk", "-qf", *options) == (0, "", "")
        about = json.loads(inside("info", tmp_path / "o.vtk", "--json")[1])
        sizes.append((tmp_path / "o.vtk").stat().st_size - about["audio_bytes"])
        code, _, told = inside("encode", source, tmp_path / "o.vtk", "-f", *options)
        shown = float(told.split(" bits/pixel")[0].split()[-1])
        assert code == 0 and abs(shown - about["bits_per_pixel"]) < 1e-4
    # The header describes the track.
    assert 0 <= sizes[0] - sizes[1] < 250


def test_a_quality_is_found_where_more_tokens_are_worse() -> None:
    """As on a grey picture, and on a black one."""
    for psnrs, wanted, rung in (((33.2, 34.8, 33.2, 33.4), 34.5, 1), ((46.0, 45.5, 45.6, 42.3), 45.0, 0)):

        def measure(point: Point, psnrs: tuple[float, ...] = psnrs, wanted: float = wanted) -> float:
            number = _RUNGS.index((point.model, point.tokens_per_position))
            outcome = Outcome(1000 * (number + 1), 0, 1.0, 1 << 20, psnrs[number] - 5 * (point.rdo - 0.02))
            return psnr_goal(wanted, "--psnr").value(outcome)

        point = search(_RUNGS, measure, psnr_goal(wanted, "--psnr"))
        assert (point.model, point.tokens_per_position) == _RUNGS[rung], psnrs


def test_a_still_image_has_no_bit_rate(make_clip: ClipMaker, tmp_path: Path) -> None:
    """Whatever FFmpeg says that it lasts."""
    source = make_clip("one.png", frames=1, options=["-update", "1"])
    code, out, err = inside("encode", source, tmp_path / "o.vtk", "--bitrate", "100k")
    assert (code, out) == (2, "") and "a still image has no duration; give a size" in err and err.count("\n") == 1
    assert not (tmp_path / "o.vtk").exists()


def test_a_last_frame_of_unknown_duration_counts_as_a_frame() -> None:
    ticks: list[int] = []
    for pts, duration in ((0, 40), (40, 40), (80, 0)):
        _noted(ticks, 40, Frame(np.zeros((2, 2, 3), np.uint8), pts, duration))
    assert ticks == [0, 120]
