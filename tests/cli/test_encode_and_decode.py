"""`vtok encode` and `vtok decode` on files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_helpers import text, vtok
from helpers import DATA, SMALL_LANES, ClipMaker, inside, pixels_of, times_of

from vtok_codec.codec.quality_presets import QUALITIES
from vtok_codec.container.reader import VtkReader
from vtok_codec.tokens.coders import CODERS


def test_models_lists_the_default() -> None:
    code, out, err = text(vtok("models"))
    assert (code, err) == (0, "") and out.startswith("onevae-nano-4x8x8 (default): ")
    assert "\nonevae-nano-4x16x16: " in out
    assert "\n--quality medium (default): onevae-nano-4x8x8, 2 tokens per position, " in out


def test_encode_then_decode_as_typed(clip: Path, tmp_path: Path) -> None:
    assert text(vtok("verify", clip)) == (0, f"{clip}: whole, 61 frames in 4 GOPs\n", "")
    code, out, err = text(vtok("decode", clip, tmp_path / "rec.mp4"))
    assert (code, out) == (0, "") and err.startswith(f"vtok: {clip} -> {tmp_path / 'rec.mp4'}: 61 frames, ")
    assert times_of(tmp_path / "rec.mp4") == times_of(SMALL_LANES)
    assert [path.name for path in tmp_path.iterdir()] == ["rec.mp4"]


def test_several_inputs_go_to_a_folder(make_clip: ClipMaker, tmp_path: Path) -> None:
    make_clip("a.mp4"), make_clip("b.mkv")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "out").mkdir()
    code, out, err = text(vtok("encode", "a.mp4", "broken.mp4", "b.mkv", "-o", "out", "-q", cwd=tmp_path))
    assert (code, out) == (3, "") and err.count("\n") == 1 and "broken.mp4" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.vtk", "b.vtk"]


def test_the_coder_is_chosen_and_all_decode_alike(tmp_path: Path) -> None:
    sizes = {}
    for coder in CODERS:
        path = tmp_path / f"{coder}.vtk"
        chosen = ("--rdo", "0", "--coder", coder, "--duration", 1)
        assert inside("encode", SMALL_LANES, path, "-q", *chosen) == (0, "", "")
        assert inside("decode", path, path.with_suffix(".mkv"), "--codec", "ffv1", "-q") == (0, "", "")
        assert np.array_equal(pixels_of(path.with_suffix(".mkv")), pixels_of(tmp_path / "prior.mkv"))
        sizes[coder] = path.stat().st_size
    assert sizes["prior"] < 0.9 * sizes["waves"] < 0.8 * sizes["zstd"]
    code, _, err = inside("encode", SMALL_LANES, tmp_path / "x.vtk", "--coder", "lzma")
    assert (code, err) == (2, "vtok: coder 'lzma': choose from prior, waves, zstd\n")


def test_a_coder_that_gives_way_to_another_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, the pictures are as good as too large for the coder."""
    out = tmp_path / "out.vtk"
    command = ["encode", SMALL_LANES, out, "-f", "--duration", 0.2]
    code, _, err = inside(*command)
    assert code == 0 and "packed with" not in err
    monkeypatch.setitem(CODERS, "prior", replace(CODERS["prior"], fits=lambda layout, digits: False))
    code, _, err = inside(*command)
    assert code == 0 and "packed with coder waves, not prior: the model has no prior, or the pictures" in err
    assert "packed with" not in inside(*command, "--coder", "zstd")[2]


def test_a_cut_file_decodes_up_to_the_cut(clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.vtk"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    code, out, err = inside("decode", cut, tmp_path / "o.mp4", "-q")
    frames = pixels_of(tmp_path / "o.mp4")
    assert (code, out) == (5, "") and len(frames) >= 13
    assert err.startswith(f"vtok: {cut}: the file is cut short (after chunk ")
    assert err.endswith(f"); {len(frames)} frames decoded\n")


def test_qualities_choose_model_and_tokens(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("a.mp4", frames=2)
    for options, stride, tokens in (
        (["-Q", "tiny"], [4, 16, 16], 2),
        (["-Q", "best"], [4, 8, 8], 4),
        (["-Q", "best", "-t", "3"], [4, 8, 8], 3),
        ([], [4, 8, 8], 2),
    ):
        assert inside("encode", source, tmp_path / "o.vtk", "-qf", *options) == (0, "", "")
        info = json.loads(inside("info", tmp_path / "o.vtk", "--json")[1])
        assert (info["model"]["stride"], info["tokens"]) == (stride, tokens)
        assert inside("decode", tmp_path / "o.vtk", tmp_path / "o.mkv", "-qf") == (0, "", "")
        assert len(pixels_of(tmp_path / "o.mkv")) == len(pixels_of(source))
    code, _, err = inside("encode", source, tmp_path / "p.vtk", "--quality", "good")
    assert (code, err) == (2, "vtok: quality good: choose from tiny, small, medium, best\n")


def test_qualities_choose_by_rate_and_error(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("a.mp4", frames=30)
    files = []
    cost = str(QUALITIES["small"].rdo)
    for options in (
        ["-Q", "small"],
        ["-t", "1", "--rdo", cost],
        ["-t", "1", "--rdo", "0"],
        ["-t", "1", "--sticky", "0.1"],
    ):
        assert inside("encode", source, tmp_path / "o.vtk", "-qf", *options) == (0, "", "")
        files.append((tmp_path / "o.vtk").read_bytes())
    assert files[0] == files[1] != files[2] != files[3]
    assert len(files[0]) < len(files[2]) and len(files[3]) < len(files[2])
    code, _, err = inside("encode", source, tmp_path / "p.vtk", "--rdo", "2")
    assert (code, err) == (2, "vtok: rdo 2.0: give a number from 0 to 1\n")
    code, _, err = inside("encode", source, tmp_path / "p.vtk", "--rdo", "0.02", "--sticky", "0.3")
    assert (code, err) == (2, "vtok: rdo 0.02 and sticky 0.3: choose one of them\n")


def test_the_readme_tells_each_quality() -> None:
    readme = (DATA.parent.parent / "README.md").read_text(encoding="utf-8")
    for name, quality in QUALITIES.items():
        tokens = f"{quality.tokens_per_position}, λ {quality.rdo:g}"
        assert f"| `{name}` | {tokens} | {quality.bits_per_pixel:.4f} | {quality.psnr_db:.2f} |" in readme


def test_pictures_too_large_are_refused_before_any_work(clip: Path, tmp_path: Path) -> None:
    for command, source, target in (("encode", SMALL_LANES, "o.vtk"), ("decode", clip, "o.mp4")):
        code, _, err = inside(command, source, tmp_path / target, "--max-pixels", 7423)
        assert code == 3 and err.endswith("has pictures of 116x64, more than --max-pixels 7423\n")
        assert not list(tmp_path.iterdir())


def test_recovery_says_what_is_gone(tmp_path: Path) -> None:
    whole = tmp_path / "whole.vtk"
    assert inside("encode", SMALL_LANES, whole, "--gop", "0.8", "-q")[0] == 0
    data = bytearray(whole.read_bytes())
    data[VtkReader(io.BytesIO(data)).index()[1].offset + 60] ^= 1
    damaged = tmp_path / "damaged.vtk"
    damaged.write_bytes(data)
    code, _, err = inside("decode", damaged, tmp_path / "plain.mp4", "-q")
    assert code == 5 and err.endswith("; 17 frames decoded; try --recover\n")
    code, out, err = inside("decode", damaged, tmp_path / "o.mp4", "-q", "--recover")
    assert (code, out) == (5, "") and len(pixels_of(tmp_path / "o.mp4")) == 61
    first, last = err.splitlines()
    assert first.startswith(f"vtok: {damaged}: 0.68 s to 1.36 s are lost, 17 frames filled: a record is damaged")
    assert last == f"vtok: {damaged} is damaged: 1 part skipped"
    piped = vtok("decode", "-", tmp_path / "p.mp4", "--recover", stdin=bytes(data))
    assert text(piped)[0] == 3 and b"recover from damage needs a file" in piped.stderr


def test_an_empty_window_writes_nothing(clip: Path, tmp_path: Path) -> None:
    code, _, err = inside("decode", clip, tmp_path / "o.mp4", "--start", "100")
    assert (code, err) == (3, "vtok: no frame lies between the start and the end that were asked for\n")
    assert list(tmp_path.iterdir()) == []
