"""Files with 1D tokens, from encode to decode, with tiny weights."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers import LANES, inside, pixels_of, randomized
from onedva_helpers import ENHANCED, TINY_DVA, random_onedva

import vtok_codec
from vtok_codec.codec.decoders import Decoders
from vtok_codec.codec.pixel_decoder import DecoderChoice
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import FormatError, ModelError
from vtok_codec.models.config import CONFIG_KEY, FLOW
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.registry import DRAWS, RUN_CODEC, find_weights
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of random transformers, beside those of the codec that they are for."""
    folder = tmp_path_factory.mktemp("onedva")
    codec = folder / RUN_CODEC
    codec.write_bytes(dump_weights(randomized(OneVAE(ENHANCED)), ENHANCED, {}))
    sha256 = WeightsFile("tiny", codec).sha256
    path = folder / "tiny-dva.safetensors"
    path.write_bytes(dump_weights(random_onedva(), TINY_DVA, {"codec": "tiny", CODEC_SHA256: sha256}))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the repository's clip, small and with a grid that windows do not divide: three by four positions."""
    path = tmp_path_factory.mktemp("clip") / "small.mkv"
    with av.open(str(LANES)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 42, "yuv420p"
        for _, frame in zip(range(40), source.decode(video=0), strict=False):
            for packet in stream.encode(frame.reformat(64, 42, "yuv420p")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


@pytest.fixture(scope="module")
def noisy(weights: Path) -> Path:
    """The same transformers, said to be trained for decoding from noise."""
    path = weights.parent / "tiny-noisy.safetensors"
    named = {"codec": "tiny", CODEC_SHA256: WeightsFile("tiny", weights.parent / RUN_CODEC).sha256}
    path.write_bytes(dump_weights(random_onedva(), TINY_DVA, {**named, DRAWS: FLOW}))
    return path


def encoded(weights: Path, clip: Path, out: Path, *more: object) -> Path:
    assert inside("encode", "--model", weights, clip, out, "-f", "-q", *more) == (0, "", "")
    return out


def chunks_of(path: Path) -> list[TokenChunk]:
    reader = VtkReader(io.BytesIO(path.read_bytes()))
    return [event for event in reader.events() if isinstance(event, TokenChunk)]


def test_a_file_holds_its_1d_tokens_and_they_matter(weights: Path, clip: Path, tmp_path: Path) -> None:
    file = encoded(weights, clip, tmp_path / "a.vtk")
    chunks = chunks_of(file)
    # Three by four positions are two rows of two windows of two by three, of which the first alone is full.
    counts = [chunk.window_tokens.counts.tolist() for chunk in chunks if chunk.window_tokens]
    assert len(counts) == len(chunks) and set(map(tuple, counts)) == {(6, 2, 3, 1)}
    assert VtkReader(io.BytesIO(file.read_bytes())).header.tokens_per_position == 1
    pictures = {}
    for name, options in (("own", ()), ("structural", ("--decoder", "structural"))):
        target = tmp_path / f"{name}.mkv"
        code, _, said = inside("decode", file, target, "--weights", weights, "--codec", "ffv1", "-q", *options)
        assert (code, said) == (0, "")
        pictures[name] = np.stack(pixels_of(target))
        assert len(pictures[name]) == 40
    assert not np.array_equal(pictures["own"], pictures["structural"])
    # The codec by itself decodes the structural tokens alone, as it does with the decoder of that name.
    target = tmp_path / "codec.mkv"
    named = ("--weights", weights.parent / RUN_CODEC, "--decoder", "structural")
    assert inside("decode", file, target, *named, "--codec", "ffv1", "-q")[0] == 0
    assert np.array_equal(np.stack(pixels_of(target)), pictures["structural"])


def test_the_same_tokens_whatever_the_codec_does_with_them(weights: Path, clip: Path, tmp_path: Path) -> None:
    """The structural tokens do not depend on the 1D tokens, so a reader of the former alone gets them all."""
    whole, bare = (encoded(weights, clip, tmp_path / f"{n}.vtk", "--window-tokens", n) for n in (6, 0))
    assert [chunk.packed for chunk in chunks_of(whole)] == [chunk.packed for chunk in chunks_of(bare)]
    assert inside("verify", whole, "-q")[0] == 0


@pytest.mark.parametrize("lengths", ["0", "3", "motion", "error"])
def test_lengths_are_chosen(weights: Path, clip: Path, tmp_path: Path, lengths: str) -> None:
    file = encoded(weights, clip, tmp_path / "a.vtk", "--window-tokens", lengths, "--rdo", 0.5)
    counts = np.concatenate([chunk.window_tokens.counts for chunk in chunks_of(file) if chunk.window_tokens])
    if lengths.isdecimal():
        assert counts.max() == int(lengths)
    assert counts.max() <= 6
    assert inside("decode", file, tmp_path / "a.mkv", "--weights", weights, "-q") == (0, "", "")


def test_a_dear_bit_leaves_fewer_1d_tokens(weights: Path, clip: Path, tmp_path: Path) -> None:
    totals = []
    for rdo in (0, 100):
        settings = ("--window-tokens", "error", "--rdo", min(rdo, 1))
        file = encoded(weights, clip, tmp_path / f"{rdo}.vtk", *settings)
        totals.append(sum(int(chunk.window_tokens.counts.sum()) for chunk in chunks_of(file) if chunk.window_tokens))
    assert totals[1] < totals[0]


def test_a_part_decodes_as_in_the_whole(weights: Path, clip: Path, tmp_path: Path) -> None:
    file = encoded(weights, clip, tmp_path / "a.vtk", "--gop", 0.64)
    tokenizer = load_tokenizer(find_weights(weights), "cpu")
    header = VtkReader(io.BytesIO(file.read_bytes())).header
    assert len({chunk.gop for chunk in chunks_of(file)}) > 1
    with vtok_codec.open(file, model=weights) as whole:
        frames = list(whole.frames())
        part = list(whole.frames(start=0.8))
    assert np.array_equal(part[0].pixels, frames[-len(part)].pixels)
    assert np.array_equal(part[-1].pixels, frames[-1].pixels)
    assert Decoders(tokenizer).choose(DecoderChoice(), header.windows) is not tokenizer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--window-tokens", "7"), "give 0 to 6"),
        (("--window-tokens", "many"), "motion or error"),
        (("--tokens", "2"), "1 token per position"),
        (("--sticky", "0.1"), "without stickiness"),
        (("--effort", "slow"), "with effort fast only"),
    ],
)
def test_settings_that_do_not_go_with_1d_tokens(
    weights: Path, clip: Path, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    code, _, told = inside("encode", "--model", weights, clip, tmp_path / "a.vtk", *options)
    assert code == 2 and said in told and told.count("\n") == 1
    assert not (tmp_path / "a.vtk").exists()


def test_a_model_without_1d_tokens_says_so(weights: Path, clip: Path, tmp_path: Path) -> None:
    code, _, told = inside("encode", clip, tmp_path / "a.vtk", "--window-tokens", "4")
    assert code == 2 and "no 1D tokens" in told


def test_a_file_whose_transformers_are_missing_names_what_to_do(weights: Path, clip: Path, tmp_path: Path) -> None:
    file = encoded(weights, clip, tmp_path / "a.vtk")
    code, _, told = inside("decode", file, tmp_path / "a.mkv", "--weights", weights.parent / RUN_CODEC)
    assert code == 6 and "tiny-dva" in told and "--decoder structural" in told and told.count("\n") == 1


def test_transformers_of_another_codec_are_refused(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(dump_weights(random_onedva(), TINY_DVA, {CODEC_SHA256: "0" * 64}))
    with pytest.raises(ModelError, match="which is not here"):
        load_tokenizer(find_weights(other), "cpu")


def test_lost_1d_tokens_leave_the_structural_picture(weights: Path, clip: Path, tmp_path: Path) -> None:
    """A decoder without the 1D tokens of a chunk pads them, and goes on."""
    file = encoded(weights, clip, tmp_path / "a.vtk")
    tokenizer = load_tokenizer(find_weights(weights), "cpu")
    header = VtkReader(io.BytesIO(file.read_bytes())).header
    decoder = Decoders(tokenizer).choose(DecoderChoice(), header.windows)
    digits = np.zeros((6, 5, 3, 4), np.uint8)
    pixels, state = decoder.decode(digits, (42, 64), 5, None)
    grids = [len(chunk.window_tokens.counts) for chunk in chunks_of(file) if chunk.window_tokens]
    none = WindowTokens(np.zeros(grids[0], np.uint8), np.zeros(0, np.uint16))
    assert np.array_equal(pixels, decoder.decode(digits, (42, 64), 5, None, window_tokens=none)[0])
    assert pixels.shape == (5, 42, 64, 3)
    assert decoder.decode(digits[:, :1], (42, 64), 4, state)[0].shape == (4, 42, 64, 3)


def test_eval_measures_numbers_of_1d_tokens(weights: Path, clip: Path) -> None:
    options = ("--model", weights, "--window-tokens", "0,6", "--measures", "psnr", "--no-cache", "--json", "-q")
    code, shown, _ = inside("eval", clip, *options)
    results = json.loads(shown)["evaluations"][0]["results"]
    assert code == 0 and [result["setting"] for result in results] == ["1 token, 0 1D", "1 token, 6 1D"]
    assert results[0]["bits_per_pixel"] < results[1]["bits_per_pixel"]
    assert results[0]["psnr_db"] != results[1]["psnr_db"]
    code, _, told = inside("eval", clip, "--model", weights, "--window-tokens", "9", "--no-cache")
    assert code == 2 and "give 0 to 6" in told


def test_a_header_that_does_not_fit_the_transformers_is_refused(weights: Path, clip: Path, tmp_path: Path) -> None:
    file = encoded(weights, clip, tmp_path / "a.vtk")
    described = VtkReader(io.BytesIO(file.read_bytes())).header.windows
    assert described is not None
    decoders = Decoders(load_tokenizer(find_weights(weights), "cpu"))
    for changes in ({"most": 7}, {"window": (4, 2, 2)}, {"levels": (8, 8)}):
        with pytest.raises(FormatError, match="does not fit"):
            decoders.choose(DecoderChoice(), replace(described, **changes))  # type: ignore[arg-type]


def test_weights_of_one_name_are_told_apart(weights: Path, clip: Path, tmp_path: Path) -> None:
    """Decoders are kept by the hash of the weights, since names say little."""
    other = tmp_path / weights.name
    (tmp_path / RUN_CODEC).write_bytes((weights.parent / RUN_CODEC).read_bytes())
    metadata = {key: value for key, value in find_weights(weights).metadata.items() if key != CONFIG_KEY}
    other.write_bytes(dump_weights(random_onedva(seed=1), TINY_DVA, metadata))
    files = [encoded(each, clip, tmp_path / f"{n}.vtk") for n, each in enumerate((weights, other))]
    decoders = Decoders(load_tokenizer(find_weights(weights), "cpu"))
    first, second = (VtkReader(io.BytesIO(file.read_bytes())).header.windows for file in files)
    assert first and second and first.name == second.name
    decoders.choose(DecoderChoice(), first)
    with pytest.raises(ModelError):
        decoders.choose(DecoderChoice(), second)


def test_a_still_image_has_1d_tokens_too(weights: Path, clip: Path, tmp_path: Path) -> None:
    picture, file, back = tmp_path / "a.png", tmp_path / "a.vtk", tmp_path / "b.png"
    assert (
        inside("decode", encoded(weights, clip, file), picture, "--weights", weights, "--duration", 0.01, "-q")[0] == 0
    )
    encoded(weights, picture, file)
    assert [len(chunk.pts) for chunk in chunks_of(file)] == [1]
    assert inside("decode", file, back, "--weights", weights, "-q") == (0, "", "")
    assert pixels_of(back)[0].shape == (42, 64, 3)


def test_drawing_from_noise(noisy: Path, clip: Path, tmp_path: Path) -> None:
    """The same seed gives the same frames, in a part of the file too; another seed, or fewer steps, gives others."""
    file = encoded(noisy, clip, tmp_path / "a.vtk", "--gop", 0.64)
    made = {}
    choices = (("mean", ()), ("again", ("flow", 4, 0)), ("drawn", ("flow", None, 0)))
    for name, choice in (*choices, ("other seed", ("flow", 4, 7)), ("fewer steps", ("flow", 2, 0))):
        with vtok_codec.open(file, model=noisy) as opened:
            options: dict[str, Any] = dict(zip(("decoder", "steps", "seed"), choice, strict=False))
            made[name] = np.stack([frame.pixels for frame in opened.frames(**options)])
            part = np.stack([frame.pixels for frame in opened.frames(start=0.8, **options)])
        assert np.array_equal(part, made[name][-len(part) :])
    assert np.array_equal(made["again"], made["drawn"])
    for other in ("mean", "other seed", "fewer steps"):
        assert not np.array_equal(made["drawn"], made[other])


def test_only_transformers_trained_for_it_draw_from_noise(
    weights: Path, noisy: Path, clip: Path, tmp_path: Path
) -> None:
    file, target = encoded(weights, clip, tmp_path / "a.vtk"), tmp_path / "a.mkv"
    code, _, said = inside("decode", file, target, "--weights", weights, "--decoder", "flow", "-q")
    assert code == 6 and said.count("\n") == 1 and "onedva-noise" in said and not target.exists()
    drawn = encoded(noisy, clip, tmp_path / "b.vtk")
    for wrong in (("--steps", 17), ("--seed", -1)):
        code, _, said = inside("decode", drawn, target, "--weights", noisy, "--decoder", "flow", "-q", *wrong)
        assert code == 2 and said.count("\n") == 1
