"""`vtok continue` and `vtok generate`: files that decode, tokens that stay, and one line about what is wrong."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_helpers import make_still, vtok
from corpus_helpers import make_clips, tiny_weights
from generator_helpers import flow_weights, generator_weights
from helpers import ClipMaker, inside, pixels_of

from vtok_codec.container.reader import VtkReader
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.reading import read_all_gops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A file by a tiny codec, the weights of the codec, and those of a generator."""
    folder = tmp_path_factory.mktemp("made")
    codec = tiny_weights(folder)
    source, clip = make_clips(folder / "clips", [("64x48", 15)]) / "00.mp4", folder / "clip.vtk"
    assert inside("encode", "--model", codec, "--tokens", 2, source, clip, "-q") == (0, "", "")
    return clip, codec, generator_weights(folder, codec)


def gops_of(path: Path) -> list[np.ndarray]:
    return [gop.tokens for gop in read_all_gops(VtkReader(io.BytesIO(path.read_bytes())), find_prior)]


def test_a_continued_file_keeps_its_tokens_and_decodes(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    clip, codec, generator = made
    longer, back = tmp_path / "longer.vtk", tmp_path / "back.mp4"
    options = ("-g", generator, "--weights", codec, "--seconds", 0.5)
    code, out, told = inside("continue", clip, longer, *options, "--seed", 3)
    assert (code, out) == (0, "") and "12 frames drawn" in told and "2 frames at the end" in told
    before, after = np.concatenate(gops_of(clip)), np.concatenate(gops_of(longer))
    assert np.array_equal(after[: len(before) - 1], before[:-1]) and len(after) > len(before)
    assert inside("verify", longer, "-q") == (0, "", "")
    assert inside("decode", "--weights", codec, longer, back, "-q") == (0, "", "")
    assert len(pixels_of(back)) == 15 + 12
    again, other = tmp_path / "again.vtk", tmp_path / "other.vtk"
    assert inside("continue", clip, again, *options, "--seed", 3, "-q") == (0, "", "")
    assert inside("continue", clip, other, *options, "--seed", 4, "-q") == (0, "", "")
    assert np.array_equal(np.concatenate(gops_of(again)), after)
    assert not np.array_equal(np.concatenate(gops_of(other)), after)


def test_it_works_in_a_pipe(made: tuple[Path, Path, Path]) -> None:
    clip, codec, generator = made
    result = vtok("continue", "-", "-", "-g", generator, "--weights", codec, "--seconds", 0.2, stdin=clip.read_bytes())
    assert result.returncode == 0 and b"standard input -> standard output" in result.stderr
    assert (
        len(np.concatenate([gop.tokens for gop in read_all_gops(VtkReader(io.BytesIO(result.stdout)), find_prior)])) > 4
    )


def test_a_video_from_nothing(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, codec, generator = made
    out = tmp_path / "new.vtk"
    options = ("--codec", codec, "--size", "60x40", "--rate", 20, "--seconds", 0.5)
    assert inside("generate", out, "-g", generator, *options, "-q") == (0, "", "")
    header = VtkReader(io.BytesIO(out.read_bytes())).header
    assert (header.width, header.height, header.rate) == (60, 40, 20)
    assert inside("verify", out, "-q") == (0, "", "")


def test_a_latent_flow_draws_tokens_as_well(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    clip, codec, generator = made
    flow = flow_weights(tmp_path, codec)
    longer, new = tmp_path / "longer.vtk", tmp_path / "new.vtk"
    options = ("--seconds", 0.5, "--steps", 2, "-q")
    assert inside("continue", clip, longer, "-g", flow, "--weights", codec, *options) == (0, "", "")
    before, after = np.concatenate(gops_of(clip)), np.concatenate(gops_of(longer))
    assert np.array_equal(after[: len(before) - 1], before[:-1]) and len(after) > len(before)
    assert inside("generate", new, "-g", flow, "--codec", codec, "--size", "64x48", *options) == (0, "", "")
    assert inside("verify", new, "-q") == (0, "", "")
    for wrong, told in (
        (("-g", generator, "--steps", 2), "takes no steps"),
        (("-g", flow, "--top-p", 0.5), "top-p"),
        (("-g", flow, "--steps", 40), "steps 40"),
    ):
        code, _, error = inside("continue", clip, tmp_path / "out.vtk", "--weights", codec, *wrong)
        assert code == 2 and told in error and not (tmp_path / "out.vtk").exists()


def test_what_is_wrong_is_said_in_one_line(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    clip, codec, generator = made
    out, one = tmp_path / "out.vtk", tmp_path / "one.vtk"
    source = clip.parent / "clips" / "00.mp4"
    assert inside("encode", "--model", codec, "--tokens", 1, source, one, "-q") == (0, "", "")
    cases = [
        (3, "--tokens 2", ("continue", one, out, "-g", generator, "--weights", codec)),
        (3, "still picture", ("continue", make_still(tmp_path), out, "-g", generator)),
        (6, "was made with weights", ("continue", clip, out, "-g", generator, "--weights", "onevae-nano-4x8x8")),
        (6, "not a generator", ("continue", clip, out, "-g", codec, "--weights", codec)),
        (6, "no generator", ("continue", clip, out, "--weights", codec)),
        (2, "WIDTHxHEIGHT", ("generate", out, "-g", generator, "--codec", codec, "--size", "256")),
        (2, "WIDTHxHEIGHT", ("generate", out, "-g", generator, "--codec", codec, "--size", "0x40")),
        (2, "WIDTHxHEIGHT", ("generate", out, "-g", generator, "--codec", codec, "--size", "9" * 5000 + "x1")),
        (2, "temperature", ("generate", out, "-g", generator, "--codec", codec, "--temperature", "1e-45")),
        (3, "max-pixels", ("generate", out, "-g", generator, "--codec", codec, "--size", "9000x9000")),
        (3, "too large", ("generate", out, "-g", generator, "--codec", codec, "--size", "1000x1000")),
        (6, "other weights", ("generate", out, "-g", generator, "--codec", "onevae-nano-4x8x8")),
        (3, "No such file", ("continue", tmp_path / "none.vtk", out, "-g", generator)),
        (7, "exists", ("continue", clip, clip.parent / "tiny.safetensors", "-g", generator, "--weights", codec, "-q")),
    ]
    for code, words, command in cases:
        got, stdout, told = inside(*command)
        assert (got, stdout) == (code, "") and words in told and told.count("\n") == 1, (command, told)
        assert not out.exists()


def test_what_is_left_out_is_told(made: tuple[Path, Path, Path], make_clip: ClipMaker, tmp_path: Path) -> None:
    _, codec, generator = made
    clip, out = tmp_path / "clip.vtk", tmp_path / "out.vtk"
    source = make_clip("sound.mp4", audio=True)
    assert inside("encode", "--model", codec, "--tokens", 4, source, clip, "-q") == (0, "", "")
    code, _, told = inside("continue", clip, out, "-g", generator, "--weights", codec, "--seconds", 0.1)
    assert code == 0 and "2 of 4 tokens per position are kept" in told and "audio is left out" in told
    assert "constant rate" not in told
    header = VtkReader(io.BytesIO(out.read_bytes())).header
    assert header.tokens_per_position == 2 and not header.audio


def test_varying_times_are_told(made: tuple[Path, Path, Path], make_clip: ClipMaker, tmp_path: Path) -> None:
    _, codec, generator = made
    source = make_clip("vfr.mkv", frames=20, options=["-vf", "select='not(eq(mod(n,5),3))'", "-fps_mode", "vfr"])
    clip, out = tmp_path / "clip.vtk", tmp_path / "out.vtk"
    assert inside("encode", "--model", codec, source, clip, "-q") == (0, "", "")
    code, _, told = inside("continue", clip, out, "-g", generator, "--weights", codec, "--seconds", 0.1)
    assert code == 0 and "constant rate" in told


def test_a_prior_beside_the_weights_is_found(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """As `decode --weights` finds it."""
    _, codec, generator = made
    run, clip, data = tmp_path / "run", tmp_path / "clip.vtk", codec.parent / "clips"
    setting = ["--set", "phases=4x4x32", "--set", "channels=4", "--set", "features=4", "--set", "first_features=4"]
    command = ("train", "--stage", "prior", "--from", codec, "--data", data, "--run", run, "--steps", 1, "-q", *setting)
    assert inside(*command) == (0, "", "")
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(codec, folder)
    shutil.copy(run / "ema.safetensors", folder / "prior.safetensors")
    weights = folder / codec.name
    assert inside("encode", "--model", weights, data / "00.mp4", clip, "-q") == (0, "", "")
    assert VtkReader(io.BytesIO(clip.read_bytes())).header.prior_sha256
    options = ("-g", generator, "--weights", weights, "--seconds", 0.1, "-q")
    assert inside("continue", clip, tmp_path / "out.vtk", *options) == (0, "", "")
