"""Measures, anchors, rate differences, protocols, the cache, and `vtok eval` with its page."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from helpers import LANES, SMALL_LANES, ClipMaker, inside, pixels_of
from torch import Tensor

from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.encoder import EncodeSummary, encode_video
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.errors import InputError, ModelError, OutputError, SettingError
from vtok_codec.evaluation import measure as measure_module
from vtok_codec.evaluation.anchors import ANCHORS, AnchorCodec, anchor_codecs
from vtok_codec.evaluation.bdrate import RatePoint, bd_rate
from vtok_codec.evaluation.cache import ResultCache
from vtok_codec.evaluation.campaign import Evaluation, evaluate_all
from vtok_codec.evaluation.clips import SourceClip, open_clip
from vtok_codec.evaluation.codecs import VtokCodec, _short, model_codecs
from vtok_codec.evaluation.comparison import _smallest_fitting, make_strips
from vtok_codec.evaluation.fd_codec import CodecFeatures
from vtok_codec.evaluation.frechet import Features, frechet_distance
from vtok_codec.evaluation.fvd import I3D
from vtok_codec.evaluation.measure import Measures, evaluate_clip, mean_result
from vtok_codec.evaluation.protocols import PROTOCOLS, prepare_clip
from vtok_codec.evaluation.scores import HIGHER_IS_BETTER, Flicker, ScoreMeter, Scores
from vtok_codec.evaluation.table import TextTable
from vtok_codec.evaluation.usage import Cost, run_measured
from vtok_codec.evaluation.vmaf import VmafMeter
from vtok_codec.media.reader import VideoReader, read_pixels
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.gradients import gradient_energy
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.stream.settings import EncodeSettings

NO_CACHE = ResultCache(None)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def everything() -> Measures:
    return Measures(lpips=load_lpips())


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Path:
    """A small excerpt of a real video, with motion, coded as lossless H.264."""
    path = tmp_path_factory.mktemp("road") / "road.mp4"
    cut = ["-i", str(LANES), "-frames:v", "6", "-vf", "crop=192:176:130:60", "-crf", "0", str(path)]
    subprocess.run([ffmpeg, "-v", "error", "-y", *cut], check=True)
    return path


def quality_of(source: np.ndarray, output: np.ndarray, everything: Measures) -> Scores:
    meter = ScoreMeter(True, everything.lpips)
    with VmafMeter(source.shape[2], source.shape[1]) as vmaf:
        for a, b in zip(source, output, strict=True):
            meter.add(a, b)
            vmaf.add(a, b)
        return meter.scores(vmaf.scores())


def test_a_lossless_copy_is_perfect(road: Path, everything: Measures, tmp_path: Path) -> None:
    result, _ = evaluate_clip(open_clip(road), AnchorCodec(ANCHORS["x264"], 0), everything, tmp_path, NO_CACHE)
    quality = result.scores
    assert math.isinf(quality.psnr_db)
    assert (quality.ssim, quality.ms_ssim, quality.lpips, quality.flicker, quality.energy) == (1, 1, 0, 0, 1)
    assert quality.vmaf is not None and quality.vmaf >= 97
    assert quality.vmaf_neg is not None and quality.vmaf_neg >= 97
    assert result.frames == 6 and not list(tmp_path.iterdir())


def test_every_measure_orders_distortions(road: Path, everything: Measures) -> None:
    source = read_pixels(road, 6)
    noise = np.random.default_rng(0).normal(size=source.shape)
    blurred = source.astype(np.float32)
    milder: dict[str, list[Scores]] = {"noise": [], "blur": []}
    for strength in (4, 12, 36):
        noisy = np.clip(source + strength * noise, 0, 255).round().astype(np.uint8)
        milder["noise"].append(quality_of(source, noisy, everything))
        for _ in range(strength // 4):
            blurred = (blurred + np.roll(blurred, 1, 1) + np.roll(blurred, 1, 2) + np.roll(blurred, 2, 2)) / 4
        milder["blur"].append(quality_of(source, blurred.round().astype(np.uint8), everything))
    for name, qualities in milder.items():
        for measure, higher in HIGHER_IS_BETTER.items():
            values = [getattr(quality, measure) for quality in qualities]
            assert values == sorted(values, reverse=higher) and len(set(values)) == 3, (name, measure, values)


def test_psnr_is_that_of_the_whole_clip() -> None:
    source = np.zeros((2, 40, 40, 3), np.uint8)
    output = source.copy()
    output[1] = 10
    meter = ScoreMeter(False, None)
    for a, b in zip(source, output, strict=True):
        meter.add(a, b)
    # The mean of 0 and 100; the mean of two PSNRs would be infinite.
    assert meter.scores(None).psnr_db == pytest.approx(10 * math.log10(255**2 / 50))


def test_energy_tells_blur_from_noise(road: Path) -> None:
    source = read_pixels(road, 3)
    blurred = ((source.astype(np.uint16) + np.roll(source, 1, 2)) // 2).astype(np.uint8)
    noisy = np.clip(source + np.random.default_rng(0).normal(0, 9, source.shape), 0, 255).astype(np.uint8)
    energies = []
    for output in (blurred, source, noisy):
        meter = ScoreMeter(False, None)
        for a, b in zip(source, output, strict=True):
            meter.add(a, b)
        energies.append(meter.scores(None).energy)
    assert energies[1] == 1 and energies[0] is not None and energies[2] is not None
    assert energies[0] < 0.9 and energies[2] > 1.1
    # Steps of 3 from column to column and of 4 from row to row.
    slope = 3 * torch.arange(5) + 4 * torch.arange(6)[:, None]
    assert gradient_energy(slope.float()[None]) == 9 + 16


def test_flicker_is_what_the_source_does_not_do() -> None:
    moving = [np.full((8, 8, 3), value, np.uint8) for value in (10, 60, 20)]
    brighter = [frame + 30 for frame in moving]
    jumping = [frame + jump for frame, jump in zip(moving, (0, 6, 0), strict=True)]
    for output, expected in ((moving, 0), (brighter, 0), (jumping, 6)):
        flicker = Flicker()
        for a, b in zip(moving, output, strict=True):
            flicker.add(a, b)
        assert flicker.mean == pytest.approx(expected, abs=1e-4)


def test_measures_that_do_not_apply_are_left_out() -> None:
    meter = ScoreMeter(True, load_lpips())
    picture = np.zeros((20, 200, 3), np.uint8)
    meter.add(picture, picture)
    quality = meter.scores(None)
    assert quality.ssim == 1 and quality.ms_ssim is quality.lpips is quality.flicker is quality.vmaf is None
    assert quality.energy is None


@pytest.mark.parametrize("size", ["64x48", "65x49", "161x163"])
def test_vmaf_takes_any_size(size: str, make_clip: ClipMaker) -> None:
    frames = read_pixels(make_clip("a.mkv", size=size, frames=3, options=["-c:v", "ffv1"]), 3)
    with VmafMeter(frames.shape[2], frames.shape[1]) as vmaf:
        for frame in frames:
            vmaf.add(frame, frame)
        assert vmaf.scores().neg > 95


def test_a_frame_too_few_is_no_result(road: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Forgetful(VtokCodec):
        def frames(self, coded: Path) -> Iterator[np.ndarray]:
            return iter(list(super().frames(coded))[:-1])

    with pytest.raises(InputError, match="other frames than it has"):
        evaluate_clip(open_clip(road), Forgetful(tokenizer, 1, "f"), Measures(False, vmaf=False), tmp_path, NO_CACHE)


def cut(ffmpeg: str, path: Path, *options: str) -> Path:
    """Five frames of a real video, made otherwise."""
    command = [ffmpeg, "-v", "error", "-y", "-i", str(LANES), "-frames:v", "5", *options, str(path)]
    subprocess.run(command, check=True)
    return path


def psnr_of(path: Path, codec: AnchorCodec, folder: Path) -> float:
    result, _ = evaluate_clip(open_clip(path), codec, Measures(False, vmaf=False), folder, NO_CACHE)
    assert result.frames == 5 and result.encode_mib and 5 < result.encode_mib < 1000
    return result.scores.psnr_db


@pytest.mark.parametrize("anchor", list(ANCHORS))
def test_anchors_keep_colours(anchor: str, tmp_path: Path, ffmpeg: str) -> None:
    """RGB sources, full range, other matrices: an anchor must not be blamed for a conversion of ours."""
    sources = {
        "bt709.mp4": ["scale=128:96:out_color_matrix=bt709", "-colorspace", "bt709", "-pix_fmt", "yuv420p"],
        "bt601.mp4": ["scale=128:96:out_color_matrix=bt601", "-colorspace", "bt470bg", "-pix_fmt", "yuv420p"],
        "full.mp4": ["scale=128:96:out_range=pc", "-color_range", "pc", "-pix_fmt", "yuv420p"],
        "deep.mp4": ["scale=128:96", "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", "log-level=error"],
        "unmarked.mkv": ["scale=128:96", "-c:v", "ffv1", "-pix_fmt", "yuv420p"],
        "rgb.mkv": ["scale=128:96", "-c:v", "ffv1", "-pix_fmt", "bgr0"],
        "animation.gif": ["scale=128:96"],
    }
    codec = anchor_codecs(anchor, (8,))[0]
    figures = {name: psnr_of(cut(ffmpeg, tmp_path / name, "-vf", *o), codec, tmp_path) for name, o in sources.items()}
    # A wrong matrix or range costs 10 dB and more. The animation's coloured dither does not survive halved chroma.
    assert figures.pop("animation.gif") > 20
    assert min(figures.values()) > 38, figures


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_anchors_take_odd_sizes_without_loss(pixel_format: str, tmp_path: Path, ffmpeg: str) -> None:
    codec = anchor_codecs("x264", (8,))[0]
    made = ["-c:v", "libx264", "-crf", "2", "-pix_fmt", pixel_format]
    figures = {}
    for width, height in ((128, 96), (127, 96), (128, 95), (127, 95)):
        path = tmp_path / f"{width}x{height}.mp4"
        # x264 itself takes no odd 4:2:0: it comes from a stream that crops.
        sides = [f"scale=128:96,format={pixel_format},crop={width}:{height}:0:0:exact=1"]
        coder = ["-c:v", "ffv1", "-pix_fmt", pixel_format] if pixel_format == "yuv420p" else made
        path = cut(ffmpeg, path.with_suffix(".mkv"), "-vf", *sides, *coder)
        figures[width, height] = psnr_of(path, codec, tmp_path)
    assert max(figures.values()) - min(figures.values()) < 3, figures


def test_anchors_place_chroma_where_it_was(tmp_path: Path, ffmpeg: str) -> None:
    """Saturated edges: the same stream read with its chroma half a pixel aside loses decibels."""
    source = tmp_path / "saturated.mkv"
    bars = ["-f", "lavfi", "-i", "testsrc2=size=128x96:rate=25", "-frames:v", "5", "-c:v", "ffv1", "-pix_fmt", "bgr0"]
    subprocess.run([ffmpeg, "-v", "error", *bars, source], check=True)
    figures = {name: psnr_of(source, anchor_codecs(name, (8,))[0], tmp_path) for name in ANCHORS}
    assert max(figures.values()) - min(figures.values()) < 1, figures


@pytest.mark.parametrize("anchor", ANCHORS)
def test_anchors_keep_chroma_at_the_left(anchor: str, tmp_path: Path, ffmpeg: str) -> None:
    """Where almost all video has it, whatever the codec, the depth and the range of the source."""
    bars = ["-f", "lavfi", "-i", "testsrc2=size=128x96:rate=25", "-frames:v", "5", "-crf", "1", "-pix_fmt", "yuv420p"]
    first = tmp_path / "first.mp4"
    subprocess.run([ffmpeg, "-v", "error", *bars, "-c:v", "libx264", first], check=True)
    kinds = {
        "ffv1.mkv": ["-c:v", "ffv1"],
        "vp9.webm": ["-c:v", "libvpx-vp9", "-crf", "1", "-b:v", "0"],
        "deep.mp4": ["-c:v", "libx265", "-crf", "1", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error"],
        "full.mp4": ["-c:v", "libx264", "-crf", "1", "-vf", "scale=out_range=pc", "-color_range", "pc"],
    }
    figures = {}
    for name, options in kinds.items():
        subprocess.run([ffmpeg, "-v", "error", "-i", first, *options, tmp_path / name], check=True)
        figures[name] = psnr_of(tmp_path / name, anchor_codecs(anchor, (8,))[0], tmp_path)
    assert min(figures.values()) > 40, figures


@pytest.mark.parametrize("anchor", ANCHORS)
def test_anchors_keep_chroma_where_nobody_says_it_lies(anchor: str, tmp_path: Path, ffmpeg: str) -> None:
    """In videos that no encoder of H.264 has named the place for: the reader takes it to be the centre."""
    bars = ["-f", "lavfi", "-i", "testsrc2=size=128x96:rate=25", "-frames:v", "5", "-pix_fmt", "yuv420p"]
    vp9 = ["-c:v", "libvpx-vp9", "-crf", "1", "-b:v", "0"]
    kinds = {"ffv1.mkv": ["-c:v", "ffv1"], "vp9.mp4": vp9, "vp9.webm": vp9, "raw.nut": ["-c:v", "rawvideo"]}
    figures = {}
    for name, options in kinds.items():
        subprocess.run([ffmpeg, "-v", "error", *bars, *options, tmp_path / name], check=True)
        figures[name] = psnr_of(tmp_path / name, anchor_codecs(anchor, (8,))[0], tmp_path)
    assert min(figures.values()) > 40, figures


def test_results_depend_on_the_network_that_measured_them(monkeypatch: pytest.MonkeyPatch) -> None:
    measures = Measures(False, load_lpips(), vmaf=False)
    before = measures.identity
    monkeypatch.setattr(measure_module, "lpips_sha256", lambda: "another")
    assert measures.identity != before


def test_an_anchor_is_searched_up_to_its_last_crf() -> None:
    """SVT-AV1 goes on to 63, and x264 ends at 51."""
    for name, last in (("x264", 51), ("av1", 63)):
        assert _smallest_fitting(lambda crf: round(1e6 / crf), 1, ANCHORS[name].largest_crf) == last


def test_a_picture_has_no_rate(tmp_path: Path, ffmpeg: str) -> None:
    clip = open_clip(cut(ffmpeg, tmp_path / "one.png", "-update", "1"))
    measures = Measures(False, vmaf=False)
    result, _ = evaluate_clip(clip, anchor_codecs("x264", (20,))[0], measures, tmp_path, NO_CACHE)
    assert (result.frames, result.kbit_s, result.scores.flicker) == (1, None, None)


def test_rotated_and_uneven_video_is_compared_as_coded(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str) -> None:
    plain = make_clip("plain.mp4", size="96x64", frames=12)
    turned = tmp_path / "turned.mp4"
    subprocess.run([ffmpeg, "-v", "error", "-display_rotation", "90", "-i", plain, "-c", "copy", turned], check=True)
    uneven = make_clip("uneven.mkv", size="96x64", frames=12, options=["-vf", "setpts=N*N/TB/50", "-fps_mode", "vfr"])
    for path in (turned, uneven):
        clip = open_clip(path)
        result, _ = evaluate_clip(
            clip, anchor_codecs("x264", (10,))[0], Measures(False, vmaf=False), tmp_path, NO_CACHE
        )
        assert result.scores.psnr_db > 30 and result.frames == clip.frames


def test_sizes_are_those_of_the_whole_file(road: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    clip = open_clip(road)
    codec = VtokCodec(tokenizer, 2, "model")
    codec.encode(clip, tmp_path / "kept.vtk")
    size = (tmp_path / "kept.vtk").stat().st_size
    result, _ = evaluate_clip(clip, codec, Measures(False, vmaf=False), tmp_path, NO_CACHE)
    assert result.bits_per_pixel == pytest.approx(8 * size / (6 * 192 * 176))
    assert clip.seconds is not None and result.kbit_s == pytest.approx(8 * size / clip.seconds / 1000)
    assert result.encode_mib is not None and result.encode_mib > 50


CURVE = [RatePoint(rate, quality) for rate, quality in ((1, 30.0), (2, 33.0), (4, 35.5), (8, 37.0))]


def test_bd_rate_of_a_codec_with_itself_and_with_twice_the_size() -> None:
    assert bd_rate(CURVE, CURVE) == pytest.approx(0, abs=1e-12)
    doubled = [RatePoint(2 * point.rate, point.quality) for point in CURVE]
    assert bd_rate(CURVE, doubled) == pytest.approx(1)
    assert bd_rate(doubled, CURVE) == pytest.approx(-0.5)
    distances = [RatePoint(point.rate, -point.quality) for point in CURVE]
    twice = [RatePoint(point.rate, -point.quality) for point in doubled]
    assert bd_rate(distances, twice, higher_is_better=False) == pytest.approx(1)


def test_bd_rate_says_when_there_is_no_common_range() -> None:
    better = [RatePoint(point.rate, point.quality + 20) for point in CURVE]
    assert bd_rate(CURVE, better) is None
    assert bd_rate(CURVE, CURVE[:1]) is None
    sliver = [RatePoint(1, 36.95), RatePoint(2, 45.0)]
    assert bd_rate(CURVE, sliver) is None
    # A point that costs more and is worse is no part of a curve, nor is a lossless one.
    odd = [*CURVE, RatePoint(16, 36.0), RatePoint(32, math.inf)]
    assert bd_rate(CURVE, odd) == pytest.approx(0, abs=1e-12)


def test_x264_against_itself_is_zero(road: Path, tmp_path: Path) -> None:
    codecs = anchor_codecs("x264", (20, 30, 40))
    evaluation = evaluate_all("", [open_clip(road)], codecs, Measures(False, vmaf=False), tmp_path, NO_CACHE)
    assert evaluation.bd_rates()["x264"]["psnr_db"].mean == pytest.approx(0, abs=1e-12)
    assert [mean.setting for mean in evaluation.means()] == ["crf 20", "crf 30", "crf 40"]
    doubled = [replace(r, codec="twice", bits_per_pixel=2 * r.bits_per_pixel) for r in evaluation.results]
    both = Evaluation("", evaluation.clips, evaluation.results + doubled)
    assert both.bd_rates()["twice"]["psnr_db"].mean == pytest.approx(1)


def test_a_source_that_a_network_refuses_stops_nothing(road: Path, tmp_path: Path) -> None:
    class Refusing:
        name, identity = "FD", "none"

        def features(self, frames: Sequence[Pixels]) -> list[Features]:
            raise InputError("too short")

    codecs = anchor_codecs("x264", (30,))
    measures = Measures(False, vmaf=False, networks=[Refusing()])
    evaluation = evaluate_all("", [open_clip(road)], codecs, measures, tmp_path, NO_CACHE)
    assert evaluation.failures[0] == f"{road.name}: too short" and not evaluation.distances


def test_names_of_clips_are_safe_to_print(road: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31m.mp4"
    odd.write_bytes(road.read_bytes())
    assert open_clip(odd).name == r"a\x1b[31m.mp4"


def test_means_are_over_clips(road: Path, tmp_path: Path) -> None:
    codec = anchor_codecs("x264", (30,))[0]
    result, _ = evaluate_clip(open_clip(road), codec, Measures(False, vmaf=False), tmp_path, NO_CACHE)
    worse = replace(result, bits_per_pixel=3 * result.bits_per_pixel, scores=replace(result.scores, psnr_db=10.0))
    mean = mean_result([result, worse])
    assert mean.bits_per_pixel == pytest.approx(2 * result.bits_per_pixel)
    assert mean.scores.psnr_db == pytest.approx((result.scores.psnr_db + 10) / 2)
    assert mean.scores.lpips is None and mean.frames == 12
    assert mean.encode_s == pytest.approx(result.encode_s)
    without = replace(result, scores=replace(result.scores, psnr_db=None))
    assert mean_result([result, without]).scores.psnr_db is None


class Counting(AnchorCodec):
    """An anchor that counts how often it encodes, and stops where it is told."""

    encodes: list[str] = []  # noqa: RUF012 - shared on purpose
    fails_at: int | None = None

    def encode(self, clip: SourceClip, target: Path) -> Cost:
        if len(self.encodes) == self.fails_at:
            raise KeyboardInterrupt
        self.encodes.append(clip.name)
        return super().encode(clip, target)


def test_clips_can_be_measured_side_by_side(road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order and to the same figures; but what they took is not taken for what they take alone."""
    monkeypatch.setattr(Counting, "encodes", [])
    other = tmp_path / "other.mp4"
    shutil.copy(road, other)
    other.write_bytes(other.read_bytes() + b"\0")
    clips, cache = [open_clip(road), open_clip(other)], ResultCache(tmp_path / "cache")
    codecs, measures = [Counting(ANCHORS["x264"], crf) for crf in (20, 30)], Measures(False, vmaf=False)
    shared = evaluate_all("", clips, codecs, measures, tmp_path, cache, jobs=2)
    alone = evaluate_all("", clips, codecs, measures, tmp_path, cache)
    assert len(Counting.encodes) == 8
    assert [(each.clip, each.setting, each.scores) for each in shared.results] == [
        (each.clip, each.setting, each.scores) for each in alone.results
    ]
    assert evaluate_all("", clips, codecs, measures, tmp_path, cache, jobs=2).results == alone.results
    assert len(Counting.encodes) == 8


def test_an_interrupted_run_goes_on(road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "encodes", [])
    other = tmp_path / "other.mp4"
    shutil.copy(road, other)
    other.write_bytes(other.read_bytes() + b"\0")
    clips = [open_clip(road), open_clip(other)]
    cache, measures = ResultCache(tmp_path / "cache"), Measures(False, vmaf=False)
    codecs = [Counting(ANCHORS["x264"], crf) for crf in (20, 30)]
    monkeypatch.setattr(Counting, "fails_at", 3)
    with pytest.raises(KeyboardInterrupt):
        evaluate_all("", clips, codecs, measures, tmp_path, cache)
    monkeypatch.setattr(Counting, "fails_at", None)
    evaluation = evaluate_all("", clips, codecs, measures, tmp_path, cache)
    assert Counting.encodes == ["road.mp4", "other.mp4"] * 2
    again = evaluate_all("", clips, codecs, measures, tmp_path, cache)
    assert len(Counting.encodes) == 4 and again.results == evaluation.results
    # Other measures, or other settings, are other results.
    evaluate_all("", clips[:1], codecs[:1], Measures(True, vmaf=False), tmp_path, cache)
    evaluate_all("", clips[:1], [Counting(ANCHORS["x264"], 31)], measures, tmp_path, cache)
    assert len(Counting.encodes) == 6
    for number, damage in enumerate(("{", '{"key": 1}'), 7):
        for entry in (tmp_path / "cache").iterdir():
            entry.write_text(damage, encoding="utf-8")
        evaluate_all("", clips[:1], codecs[:1], measures, tmp_path, cache)
        assert len(Counting.encodes) == number


def test_what_fails_is_told_and_the_rest_goes_on(road: Path, tmp_path: Path) -> None:
    class Failing(AnchorCodec):
        def encode(self, clip: SourceClip, target: Path) -> Cost:
            raise OutputError("no luck")

    codecs = [Failing(ANCHORS["x265"], 30), *anchor_codecs("x264", (30, 40))]
    evaluation = evaluate_all("", [open_clip(road)], codecs, Measures(False, vmaf=False), tmp_path, NO_CACHE)
    assert evaluation.failures == ["road.mp4 by x265, crf 30: no luck"]
    assert evaluation.codecs == ["x264"] and len(evaluation.results) == 2


def test_programs_that_fail_say_why_and_leave_no_child(tmp_path: Path, ffmpeg: str) -> None:
    with pytest.raises(OutputError, match="No such file"):
        run_measured([ffmpeg, "-v", "error", "-i", str(tmp_path / "none.mp4"), "-f", "null", "-"])
    cost = run_measured([sys.executable, "-c", "x = bytearray(200 << 20); import time; time.sleep(0.3)"])
    assert cost.seconds > 0.3 and cost.peak_mib is not None and 200 < cost.peak_mib < 300


def test_efforts_are_settings_of_their_own(tokenizer: Tokenizer) -> None:
    codecs = model_codecs([tokenizer], [2], rdos=(0.02,), efforts=("fast", "slow"))
    assert [codec.setting for codec in codecs] == ["2 tokens, λ 0.02", "2 tokens, λ 0.02, slow"]
    # Results that are kept must not be taken for those of another effort.
    assert codecs[0].identity != codecs[1].identity
    with pytest.raises(SettingError, match="sticky needs effort fast"):
        model_codecs([tokenizer], [2], stickinesses=(0.1,), efforts=("slow",))


def test_tunes_are_settings_of_their_own(tokenizer: Tokenizer) -> None:
    codecs = model_codecs([tokenizer], [2], efforts=("slow",), tunes=("psnr", "lpips"))
    assert [codec.setting for codec in codecs] == ["2 tokens, slow", "2 tokens, slow, tune lpips"]
    assert codecs[0].identity != codecs[1].identity
    with pytest.raises(SettingError, match="tune lpips needs effort normal or slow"):
        model_codecs([tokenizer], [2], tunes=("lpips",))


def test_what_eval_is_asked_to_tune_for_reaches_the_encoder(
    tokenizer: Tokenizer, road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[EncodeSettings] = []

    def watched(*args: Any, **named: Any) -> EncodeSummary:
        used.append(args[3])
        return encode_video(*args, **named)

    monkeypatch.setattr("vtok_codec.evaluation.codecs.encode_video", watched)
    (codec,) = model_codecs([tokenizer], [1], rdos=[0.02], efforts=["normal"], tunes=["lpips"])
    codec.encode(open_clip(road), tmp_path / "coded.vtk")
    assert [(each.effort, each.tune, each.rdo) for each in used] == [("normal", "lpips", 0.02)]


def test_columns_are_as_wide_as_their_settings(tokenizer: Tokenizer, road: Path, tmp_path: Path) -> None:
    codecs = model_codecs([tokenizer], [1], rdos=[0.02], efforts=["fast", "slow"], tunes=["psnr"])
    clip = open_clip(road)
    shown = TextTable([clip], codecs, ["psnr_db"])
    results = [
        evaluate_clip(clip, codec, Measures(False, vmaf=False), tmp_path, ResultCache(None))[0] for codec in codecs
    ]
    lines = [shown.heading(), *map(shown.row, results)]
    assert len({len(line) for line in lines}) == 1, lines


@pytest.mark.parametrize("option", ["--effort", "--tune", "--decoder"])
def test_an_empty_list_of_choices_is_refused(option: str) -> None:
    code, out, err = inside("eval", LANES, option, ",")
    assert (code, out) == (2, "") and option in err


def test_decoders_of_equal_file_names_are_told_apart() -> None:
    several = ["ddim:2", "runs/a/ema.safetensors:2", "runs/b/ema.safetensors:1"]
    assert [_short(each, several) for each in several] == several
    assert _short("runs/a/ema.safetensors:2", several[:2]) == "ema.safetensors:2"


def test_a_decoder_is_loaded_once_for_all_its_steps(tokenizer: Tokenizer) -> None:
    codecs = model_codecs([tokenizer], [1], decoders=["ddim:1", "ddim:2"])
    first, second = (codec.decoder for codec in codecs)
    assert isinstance(first, DiffusionDecoder) and isinstance(second, DiffusionDecoder)
    assert first is not second and first.model is second.model


def test_models_have_names_of_their_own(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    other = copy.copy(tokenizer)
    monkeypatch.setattr(other, "prior", None)
    first, second = (codec.name for codec in model_codecs([tokenizer, other], [1]))
    with pytest.raises(SettingError, match="has no prior, without which tokens have no cost"):
        model_codecs([other], [1], rdos=[0.0, 0.02])
    assert first.startswith(tokenizer.id.name + "-") and second.startswith(tokenizer.id.name + "-") and first != second
    with pytest.raises(SettingError, match="is named twice"):
        model_codecs([tokenizer, tokenizer], [1])
    slow = model_codecs([tokenizer], [1, 2], efforts=["fast", "slow"])
    assert [codec.name.removeprefix(tokenizer.id.name) for codec in slow] == [" fast", " slow"] * 2
    assert [codec.name for codec in model_codecs([tokenizer], [1, 2])] == [tokenizer.id.name] * 2
    with pytest.raises(SettingError, match="1 to 4 tokens"):
        model_codecs([tokenizer], [1, 5])
    monkeypatch.setattr(tokenizer, "id", replace(tokenizer.id, name="x264"))
    with pytest.raises(ModelError, match="must not be called x264"):
        model_codecs([tokenizer], [1])


@pytest.mark.parametrize(
    ("name", "side", "frames"), [("vidtok", 256, 17), ("onevae", 512, 33), ("cdt", 720, 17), ("onedva", 256, 17)]
)
def test_protocols_prepare_what_the_papers_measure(
    name: str, side: int, frames: int, make_clip: ClipMaker, tmp_path: Path
) -> None:
    source = make_clip("wide.mp4", size="320x160", frames=40, rate="15")
    protocol = PROTOCOLS[name]
    prepared = tmp_path / "prepared.mkv"
    assert prepare_clip(source, protocol, side, prepared)
    with VideoReader(prepared) as reader:
        assert (reader.info.width, reader.info.height) == (side, side)
        assert reader.info.rate == (protocol.rate or Fraction(15))
    shown = read_pixels(prepared, 100)
    assert len(shown) == frames
    if protocol.rate:
        # At 30 frames a second a picture of a 15-frame clip is shown twice.
        assert np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[1], shown[2])
    assert np.array_equal(shown, np.stack(pixels_of(prepared)))


def test_the_protocol_takes_the_centre(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("tall.mkv", size="256x400", frames=17, rate="30", options=["-c:v", "ffv1", "-pix_fmt", "bgr0"])
    prepared = tmp_path / "prepared.mkv"
    assert not prepare_clip(source, PROTOCOLS["vidtok"], 256, prepared)
    assert np.array_equal(read_pixels(prepared, 17), read_pixels(source, 17)[:, 72:328])


def test_a_clip_too_short_for_a_protocol_is_told(make_clip: ClipMaker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="9 frames of the 33"):
        prepare_clip(make_clip("short.mp4", frames=9), PROTOCOLS["onevae"], 512, tmp_path / "prepared.mkv")


def test_a_fast_clip_is_thinned_evenly(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("fast.mkv", size="64x64", frames=40, rate="60", options=["-c:v", "ffv1", "-pix_fmt", "bgr0"])
    prepared = tmp_path / "prepared.mkv"
    prepare_clip(source, replace(PROTOCOLS["vidtok"], sides=(64,)), 64, prepared)
    whole = read_pixels(source, 40)
    found = [
        next(n for n, frame in enumerate(whole) if np.array_equal(frame, shown)) for shown in read_pixels(prepared, 17)
    ]
    # Times of 60 frames/s in milliseconds waver; steps must be of two frames all the same.
    assert set(np.diff(found)) == {2}


class MeanColor(torch.nn.Module):
    """Stands in for I3D: it has the signature, and features that a test can compute."""

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        return video.mean(dim=(2, 3, 4)) / 255


@pytest.fixture(scope="module")
def i3d_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.jit.script(MeanColor()).save(str(path))
    return path


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(4000, 3))
    assert frechet_distance(list(source), list(source)) == pytest.approx(0, abs=1e-9)
    moved = frechet_distance(list(source), list(source + np.array([3.0, 0, 4.0])))
    assert moved == pytest.approx(25)
    # Of N(0, I) and N(0, 4 I): three times (2 − 1)².
    assert frechet_distance(list(source), list(2 * source)) == pytest.approx(3, rel=0.05)
    assert frechet_distance(list(source[:1]), list(source[:1])) is None


def test_fvd_needs_the_network_that_the_user_gives(road: Path, i3d_file: Path, tmp_path: Path) -> None:
    measures = Measures(False, vmaf=False, networks=(I3D(i3d_file, torch.device("cpu")),))
    cache = ResultCache(tmp_path / "cache")
    other = tmp_path / "other.mp4"
    shutil.copy(road, other)
    clips = [open_clip(road), open_clip(other)]
    evaluation = evaluate_all("", clips, anchor_codecs("x264", (0, 51)), measures, tmp_path, cache)
    again = evaluate_all("", clips, anchor_codecs("x264", (0, 51)), measures, tmp_path, cache)
    assert again.distances == evaluation.distances and again.results == evaluation.results
    lossless, coarse = evaluation.distances["FVD"].values()
    assert lossless == pytest.approx(0, abs=1e-9) and coarse is not None and coarse > 1e-6
    with pytest.raises(ModelError, match="not a TorchScript file"):
        I3D(road, torch.device("cpu"))


def test_fd_codec_needs_no_network_of_the_users(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """It grows with the error, and comes from the cache as it was."""
    measures, cache = Measures(False, vmaf=False, networks=(CodecFeatures(tokenizer),)), ResultCache(tmp_path / "cache")
    codecs = anchor_codecs("x264", (10, 40))
    evaluation = evaluate_all("", [open_clip(SMALL_LANES)], codecs, measures, tmp_path, cache)
    fine, coarse = evaluation.distances["FD-codec"].values()
    assert fine is not None and coarse is not None and 0 < fine < 0.1 * coarse
    again = evaluate_all("", [open_clip(SMALL_LANES)], codecs, measures, tmp_path, cache)
    assert again.distances == evaluation.distances


def run_eval(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vtok_codec", "eval", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report(road: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One evaluation through the command line, with its page and its cache."""
    folder = tmp_path_factory.mktemp("report")
    other = folder / "other clip.mp4"
    shutil.copy(road, other)
    result = run_eval(
        road, other, "-t", "1,2", "--against", "x264", "--report", folder / "out", "--cache", folder / "cache"
    )
    return folder, result


def test_eval_prints_a_table(report: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, result = report
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["clip", "codec", "setting", "bits/px"]
    assert len([line for line in lines if line.startswith("mean of 2")]) == 2 + len(ANCHORS["x264"].crfs)
    x264 = next(line for line in lines if line.startswith("x264") and "%" in line)
    assert x264.count("+0.0 % (2/2)") == 7
    assert "FVD was left out" in result.stderr


def test_eval_gives_json_and_csv_from_the_cache(
    report: tuple[Path, subprocess.CompletedProcess[str]], road: Path
) -> None:
    folder, first = report
    same = (road, "-t", "1,2", "--against", "x264", "--cache", folder / "cache", "-q")
    document = json.loads(run_eval(*same, "--json").stdout)
    assert {"vtok", "ffmpeg", "codecs", "notes"} <= document["context"].keys()
    count = 2 + len(ANCHORS["x264"].crfs)
    assert f"{count} results came from earlier runs; --no-cache measures them anew" in document["context"]["notes"]
    document = document["evaluations"][0]
    assert len(document["results"]) == 2 + len(ANCHORS["x264"].crfs)
    assert document["bd_rate"]["x264"]["psnr_db"] == {"mean": pytest.approx(0, abs=1e-12), "clips": 1, "of": 1}
    rows = run_eval(*same, "--csv").stdout.splitlines()
    assert rows[0].startswith("clip,width,height,codec,setting,is_anchor,frames,bits_per_pixel") and len(
        rows
    ) == 1 + len(document["results"])
    # The same measurement, not another one: even its seconds agree.
    assert f"{document['results'][0]['encode_s']:7.2f}" in first.stdout


def test_pictures_do_without_an_anchor_that_fails(
    tokenizer: Tokenizer, road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs = model_codecs([tokenizer], [1])
    evaluation = evaluate_all("", [open_clip(road)], codecs, Measures(False, vmaf=False), tmp_path, NO_CACHE)
    (strip,) = make_strips(evaluation, codecs, ANCHORS["x264"], tmp_path)
    assert [panel.title.split(",")[0] for panel in strip.panels] == ["source", "onevae-nano-4x8x8", "x264"]

    def fail(codec: AnchorCodec, clip: SourceClip, target: Path) -> Cost:
        raise OutputError("no luck")

    monkeypatch.setattr(AnchorCodec, "encode", fail)
    (strip,) = make_strips(evaluation, codecs, ANCHORS["x264"], tmp_path)
    assert [panel.title.split(",")[0] for panel in strip.panels] == ["source", "onevae-nano-4x8x8"]


def test_protocols_have_figures_of_their_own_for_each_size(road: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "cdt", replace(PROTOCOLS["cdt"], sides=(64, 160)))
    options = ("-t", "1", "--protocol", "cdt", "--measures", "psnr", "--no-cache")
    code, _, err = inside("eval", road, *options)
    assert code == 3 and "6 frames of the 17" in err
    code, out, err = inside("eval", SMALL_LANES, *options, "--json")
    assert code == 0, err
    evaluations = json.loads(out)["evaluations"]
    assert [e["title"] for e in evaluations] == ["cdt, 17x64x64", "cdt, 17x160x160"]
    assert [e["results"][0]["width"] for e in evaluations] == [64, 160]
    assert "1 of 1 clips had to be enlarged" in err


def test_eval_refuses_before_it_measures(road: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine", encoding="utf-8")
    cases = {
        ("--report", tmp_path): (7, "exists; use -f"),
        ("--against", "x266"): (2, "choose from x264, x265, av1"),
        ("--protocol", "mine"): (2, "choose from vidtok, onevae, cdt"),
        ("-t", "1,5"): (2, "1 to 4 tokens"),
        ("--sticky", "9"): (2, "from 0 to 4"),
        ("--sticky", "nan"): (2, "from 0 to 4"),
        ("--report", road): (7, "cannot write to"),
        ("-m", "no-such"): (6, "no model"),
        ("--i3d", road): (6, "not a TorchScript file"),
        ("--json", "--csv"): (2, "do not go together"),
        ("--measures", "beauty"): (2, "choose from"),
        ("-m", "onedva-nano-4x16x16", "--effort", "slow"): (2, "--effort does not apply to onedva-nano-4x16x16"),
    }
    for options, (expected, message) in cases.items():
        measures = () if "--measures" in options else ("--measures", "psnr")
        code, _, err = inside("eval", road, *options, *measures, "--no-cache")
        assert code == expected and message in err, (options, err)
        assert code == 2 or len(err.splitlines()) == 1
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "mine"


_PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  const result = {
    images: images.length,
    broken: images.filter(image => !image.naturalWidth).length,
    uneven: [...document.querySelectorAll(".strip")].filter(strip =>
      new Set([...strip.querySelectorAll("img")].map(image => `${image.width}x${image.height}`)).size > 1).length,
    plots: document.querySelectorAll(".plots svg").length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    outside: performance.getEntriesByType("resource").length,
  };
  document.body.innerHTML = `<pre id=probe>${JSON.stringify(result)}</pre>`;
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_reads_well_in_a_browser(
    report: tuple[Path, subprocess.CompletedProcess[str]], width: int, tmp_path: Path
) -> None:
    folder, _ = report
    page = (folder / "out" / "index.html").read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace("</body>", _PROBE + "</body>"), encoding="utf-8")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    browser = [str(CHROMIUM), "--headless", *quiet, f"--window-size={width},2000"]
    shown = subprocess.run(
        [*browser, "--dump-dom", probed.as_uri()], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    probe = json.loads(shown.split('<pre id="probe">')[1].split("</pre>")[0])
    # Two clips: source, ours and x264's with the errors of the latter two.
    assert probe == {"images": 10, "broken": 0, "uneven": 0, "plots": 8, "overflow": 0, "outside": 0}
    shot = tmp_path / "shot.png"
    page_uri = (folder / "out" / "index.html").as_uri()
    subprocess.run([*browser, f"--screenshot={shot}", page_uri], capture_output=True, check=True, timeout=120)
    with av.open(str(shot)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    # The curves of ours and of x264 are drawn, in their colours.
    for color in ((0xC2, 0x41, 0x0C), (0x1D, 0x4E, 0xD8)):
        assert (np.abs(picture.astype(int) - color).max(axis=2) < 8).sum() > 200
