"""Refined digits: the gradient is that of the picture's error, and the same quality takes fewer bits."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import LANES, SMALL_LANES, ClipMaker, inside, pixels_of, psnr_db
from torch.utils._pytree import tree_leaves

from vtok_codec.codec import refinement
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.distortion import Distortion, make_distortion
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.refinement import Refiner, refining_bytes_per_pixel
from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import SettingError
from vtok_codec.media.parts import Part
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, Pixels
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.prior_files import find_prior
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.stream import headers
from vtok_codec.stream.effort import EFFORTS, TUNES
from vtok_codec.stream.reading import read_tokens
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.coders import CODERS
from vtok_codec.tokens.radix import Digits, Values
from vtok_codec.training.measures import mean_lpips

_EXACT = Placement(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def frames() -> Pixels:
    """Frames of two chunks, of a size that no grid divides."""
    return np.stack(pixels_of(LANES))[:29, 40:116, 100:190]


@pytest.fixture(scope="module", params=[DEFAULT_MODEL, "onevae-nano-4x16x16"])
def exact(request: pytest.FixtureRequest) -> Tokenizer:
    """A shipped model in fp32."""
    return Tokenizer(find_weights(request.param), _EXACT)


@pytest.fixture(scope="module")
def coarse() -> Tokenizer:
    """The model of the coarsest quality preset, in fp32."""
    return Tokenizer(find_weights("onevae-nano-4x16x16"), _EXACT)


def _error(tokenizer: Tokenizer, digits: torch.Tensor, frames: Pixels) -> float:
    """Return the squared error of a picture of digits that need not be whole numbers."""
    with torch.inference_mode():
        video, _ = tokenizer.model.decode_digits(digits[None], None)
    skipped, (height, width) = tokenizer.layout.filled_frames(True), frames.shape[1:3]
    shown = video[0, :, skipped : skipped + len(frames), :height, :width].permute(1, 2, 3, 0)
    return float(((shown.double() + 1) * 127.5 - torch.from_numpy(frames)).square().sum())


def test_the_gradient_is_the_slope_of_the_error(exact: Tokenizer, frames: Pixels) -> None:
    part = frames[:13]
    digits, _ = exact.encode(part, 2, None)
    gradient = Refiner(exact, EFFORTS["slow"], 0.0, Distortion(_EXACT))._gradient(digits, part, 0)[0]
    direction = torch.from_numpy(gradient) / float(np.sqrt(np.square(gradient).sum()))
    there, back = (_error(exact, torch.from_numpy(digits).float() + way * direction, part) for way in (0.2, -0.2))
    assert (there - back) / 0.4 == pytest.approx(float(np.sqrt(np.square(gradient).sum())), rel=0.02)


@pytest.mark.parametrize("tune", TUNES)
def test_slices_give_the_gradient_of_the_whole(
    exact: Tokenizer, frames: Pixels, tune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digit harms frames of later slices too, and its gradient must tell."""
    refiner, state = Refiner(exact, EFFORTS["slow"], 0.0, make_distortion(TUNES[tune], _EXACT)), None
    for begin, end in pairwise((0, 13, 29)):
        part = frames[begin:end]
        digits, state = exact.encode(part, 2, state)
        whole, error = refiner._gradient(digits, part, 1)
        with monkeypatch.context() as patch:
            patch.setattr(refinement, "_MAX_GRAPH_BYTES", 1)
            sliced, again = refiner._gradient(digits, part, 1)
        assert again == pytest.approx(error, rel=1e-3)
        # LPIPS takes the larger of two values, and which one that is may depend on the last bit.
        assert np.abs(sliced - whole).max() < (1e-4 if tune == "psnr" else 1e-2) * np.abs(whole).max()
        _, refiner._state = exact.decode(digits, part.shape[1:3], len(part), refiner._state)


def test_the_gradient_of_a_tune_is_the_slope_of_what_it_names(frames: Pixels) -> None:
    """That is the squared error, and its size times the logarithm of LPIPS."""
    lpips, source = load_lpips(), frames[:2, :48, :56]
    pictures = torch.from_numpy(source).permute(0, 3, 1, 2) / 127.5 - 1
    shown = (0.9 * pictures).roll(1, dims=3)

    def squared(x: torch.Tensor) -> torch.Tensor:
        return ((x - pictures) * 127.5).double().square().flatten(1).sum(1)

    def distortion(x: torch.Tensor) -> float:
        return float((squared(x) + 0.5 * squared(shown) * lpips(x, pictures).double().log()).sum())

    gradient = Distortion(_EXACT, lpips, 0.5).gradient(shown, source, 0)
    direction = gradient / gradient.norm()
    slope = (distortion(shown + 1e-3 * direction) - distortion(shown - 1e-3 * direction)) / 2e-3
    assert slope == pytest.approx(float(gradient.norm()), rel=0.02)
    # LPIPS looks at the picture from another place in each step.
    assert not torch.allclose(gradient, Distortion(_EXACT, lpips, 0.5).gradient(shown, source, 1), rtol=0.01)


def _file(path: str, tokenizer: Tokenizer, settings: EncodeSettings, part: Part | None = None) -> bytes:
    with VideoReader(path, audio=False, part=part) as reader:
        stream = io.BytesIO()
        assert encode_video(reader.info, reader.events(), tokenizer, settings, stream).failure is None
    return stream.getvalue()


def _shown(data: bytes, tokenizer: Tokenizer) -> Pixels:
    events = decode_events(VtkReader(io.BytesIO(data)), tokenizer)
    return np.stack([event.pixels for event in events if isinstance(event, Frame)])


def _psnr(data: bytes, tokenizer: Tokenizer, source: list[Pixels]) -> float:
    return psnr_db(_shown(data, tokenizer), np.stack(source))


@pytest.mark.parametrize("coder", ["prior", "zstd"])
def test_effort_gives_a_better_picture_or_a_smaller_file(tokenizer: Tokenizer, coder: str) -> None:
    chosen = [EncodeSettings(rdo=0.02, gop_seconds=0.3, coder=coder, effort=effort) for effort in ("fast", "normal")]
    # Two GOPs.
    part = Part(duration_s=Fraction(14, 25))
    fast, normal = (_file(str(SMALL_LANES), tokenizer, each, part) for each in chosen)
    source = pixels_of(SMALL_LANES)[:14]
    # Only the coder that knows what digits cost can save bits; it does so at the same quality.
    assert _psnr(normal, tokenizer, source) > _psnr(fast, tokenizer, source) + (-0.05 if coder == "prior" else 0.2)
    assert coder != "prior" or len(normal) < 0.92 * len(fast)


def test_a_tune_lowers_lpips_at_the_same_size(tokenizer: Tokenizer, ffmpeg: str, tmp_path: Path) -> None:
    clip = str(tmp_path / "lanes.mkv")
    options = ["-vf", "crop=112:80:100:120", "-frames:v", "13", "-c:v", "ffv1"]
    subprocess.run([ffmpeg, "-v", "error", "-i", str(LANES), *options, clip], check=True)
    source, lpips = np.stack(pixels_of(Path(clip))), load_lpips()
    files = [_file(clip, tokenizer, EncodeSettings(rdo=0.02, effort="normal", tune=tune)) for tune in TUNES]
    assert len(files[1]) == pytest.approx(len(files[0]), rel=0.06)
    by_psnr, by_lpips = (
        mean_lpips(lpips, *(torch.from_numpy(x).permute(3, 0, 1, 2)[None].float() for x in (shown, source)))
        for shown in (_shown(data, tokenizer) for data in files)
    )
    assert by_lpips < 0.95 * by_psnr


def test_every_step_chooses_anew_and_the_coder_does_not_see_it(tokenizer: Tokenizer, frames: Pixels) -> None:
    chosen: list[tuple[Digits, float]] = []

    def choose(values: np.ndarray, rdo: float) -> Digits:
        digits = np.clip(np.rint(values), 0, levels - 1).astype(np.uint8)
        chosen.append((digits, rdo))
        return digits

    levels = np.array(tokenizer.id.levels).reshape(-1, 1, 1, 1)
    values, _ = tokenizer.encode_values(frames[:13], 1, None)
    refined = Refiner(tokenizer, EFFORTS["normal"], 0.01, Distortion(tokenizer.placement)).refined(
        values, frames[:13], choose
    )
    assert [rdo for _, rdo in chosen] == [0.01, 0.04, 0.04]
    assert refined is chosen[-1][0] and not np.array_equal(refined, chosen[0][0])


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("effort", ["normal", "slow"])
def test_flat_pictures_do_not_get_worse(coarse: Tokenizer, level: int, effort: str) -> None:
    """There, a digit moves all of the picture, and steps overshoot."""
    frames = np.full((13, 48, 48, 3), level, np.uint8)
    values, _ = coarse.encode_values(frames, 2, None)
    levels = np.array(coarse.id.levels * 2).reshape(-1, 1, 1, 1)
    calls: list[Digits] = []

    def choose(values: Values, rdo: float) -> Digits:
        calls.append(np.clip(np.rint(values), 0, levels - 1).astype(np.uint8))
        return calls[-1]

    refiner = Refiner(coarse, EFFORTS[effort], 0.0, Distortion(coarse.placement))
    refined = refiner.refined(values, frames, choose)
    first, last = (psnr_db(coarse.decode(each, (48, 48), 13, None)[0], frames) for each in (calls[0], refined))
    assert last >= first - 1
    # The decoder goes on from what was chosen.
    expected = coarse.decode(refined, (48, 48), 13, None)[1]
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(refiner._state), tree_leaves(expected), strict=True))


def test_efforts_that_do_not_exist_or_do_not_fit_are_refused(
    tokenizer: Tokenizer, make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip("a.mp4")
    for options, message in (
        (["--effort", "great"], "effort great: choose from fast, normal, slow"),
        (["--effort", "slow", "--sticky", "0.1"], "effort slow and sticky 0.1: sticky needs effort fast"),
        (["--tune", "ssim", "--effort", "slow"], "tune ssim: choose from psnr, lpips"),
        (["--tune", "lpips"], "tune lpips and effort fast: tune lpips needs effort normal or slow"),
    ):
        target = source.with_suffix(".vtk")
        code, _, err = inside("encode", source, target, *options)
        assert (code, err) == (2, f"vtok: {message}\n") and not target.exists()
    monkeypatch.setattr(headers, "MAX_REFINED_PIXELS", 64 * 48 - 1)
    code, _, err = inside("encode", source, source.with_suffix(".vtk"), "--effort", "normal")
    assert (code, err) == (3, "vtok: pictures of 64x48 are too large for effort normal; use fast\n")
    with pytest.raises(SettingError, match="effort"):
        _file(str(source), tokenizer, EncodeSettings(effort="great"))


def test_every_coder_can_be_refined(tokenizer: Tokenizer, make_clip: ClipMaker) -> None:
    source = str(make_clip("a.mp4", frames=20))
    for coder in CODERS:
        chosen = EncodeSettings(rdo=0.02, coder=coder, effort="normal")
        refined, usual = (_file(source, tokenizer, each) for each in (chosen, replace(chosen, effort="fast")))
        one, other = (read_tokens(io.BytesIO(data), find_prior) for data in (refined, usual))
        assert one.shape == other.shape and not np.array_equal(one, other)


def test_memory_for_gradients_counts_the_floating_point_type(tokenizer: Tokenizer, exact: Tokenizer) -> None:
    in_bf16 = replace(tokenizer.placement, dtype=torch.bfloat16)
    half, whole = SimpleNamespace(placement=in_bf16), exact
    assert refining_bytes_per_pixel(whole) == 2 * refining_bytes_per_pixel(half)  # type: ignore[arg-type]


def test_lpips_applies_to_pictures_of_any_size(make_clip: ClipMaker, tmp_path: Path) -> None:
    target = tmp_path / "small.vtk"
    source = make_clip("small.mp4", size="20x18", frames=6)
    assert inside("encode", source, target, "--effort", "normal", "--tune", "lpips")[0] == 0
    assert VtkReader(io.BytesIO(target.read_bytes())).header.width == 20
