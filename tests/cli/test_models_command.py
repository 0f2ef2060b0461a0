"""Weights that the package knows but does not bring along are fetched, and checked by their hash."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from helpers import DATA, SMALL_LANES, inside

from vtok_codec import registry
from vtok_codec.registry import WEIGHTS_FOLDER, find_weights, missing_weights

WEIGHTS = DATA.parent.parent / "weights"
NAME = "onevae-nano-4x8x8"


@pytest.fixture
def light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that brings no model along; the folder for fetched weights."""
    installed, fetched = tmp_path / "installed", tmp_path / "fetched"
    installed.mkdir()
    shutil.copy(WEIGHTS / "SHA256SUMS", installed)
    shutil.copy(WEIGHTS / "prior-onevae-nano-4x8x8.safetensors", installed)
    monkeypatch.setattr(registry, "_FOLDERS", (installed,))
    monkeypatch.setenv(WEIGHTS_FOLDER, str(fetched))
    monkeypatch.delenv("VTOK_WEIGHTS_SOURCE", raising=False)
    return fetched


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server of the project's weights."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(WEIGHTS))
    handler.func.log_message = lambda *rest: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()


def test_what_is_not_here_is_told(light: Path, tmp_path: Path) -> None:
    assert NAME in missing_weights()
    code, out, _ = inside("models")
    assert code == 0 and f"{NAME}: not here" in out
    code, _, told = inside("encode", SMALL_LANES, tmp_path / "out.vtk")
    assert (
        code == 6
        and told == f"vtok: the weights of {NAME} are not here; 'vtok models fetch {NAME} --from PLACE' gets them\n"
    )


def test_a_decoder_that_is_not_here_can_be_fetched(light: Path, tmp_path: Path) -> None:
    assert inside("models", "fetch", NAME, "--from", WEIGHTS, "-q")[0] == 0
    assert inside("encode", SMALL_LANES, tmp_path / "a.vtk", "--duration", 0.2, "-q") == (0, "", "")
    code, _, told = inside("decode", tmp_path / "a.vtk", tmp_path / "a.mp4", "--decoder", "ddim")
    assert code == 6 and "fetch one that 'vtok models' lists" in told


def test_weights_are_fetched_from_a_folder(light: Path, tmp_path: Path) -> None:
    assert inside("models", "fetch", NAME, "--from", WEIGHTS) == (0, f"{NAME}: {light}/{NAME}.safetensors\n", "")
    assert NAME not in missing_weights()
    assert find_weights(NAME).data == (WEIGHTS / f"{NAME}.safetensors").read_bytes()
    assert inside("encode", SMALL_LANES, tmp_path / "out.vtk", "-q") == (0, "", "")


def test_weights_are_fetched_from_a_server(light: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTOK_WEIGHTS_SOURCE", server)
    assert inside("models", "fetch", "lpips-alex", "-q") == (0, "", "")
    assert (light / "lpips-alex.safetensors").read_bytes() == (WEIGHTS / "lpips-alex.safetensors").read_bytes()


def test_other_files_of_the_name_are_refused(light: Path, tmp_path: Path) -> None:
    wrong = bytearray((WEIGHTS / f"{NAME}.safetensors").read_bytes())
    wrong[-1] ^= 1
    (tmp_path / f"{NAME}.safetensors").write_bytes(wrong)
    code, out, told = inside("models", "fetch", NAME, "--from", tmp_path)
    assert code == 6 and not out and "is another file" in told
    assert list(light.iterdir()) == []
    # The others are fetched all the same.
    shutil.copy(WEIGHTS / "lpips-alex.safetensors", tmp_path)
    code, out, told = inside("models", "fetch", NAME, "lpips-alex", "--from", tmp_path, "-q")
    assert code == 6 and not out and told.count("\n") == 1 and (light / "lpips-alex.safetensors").exists()
    assert inside("models", "fetch", "all", NAME, "--from", tmp_path)[0] == 2
    # One that was changed after it was fetched is found when it is used.
    (light / f"{NAME}.safetensors").write_bytes(wrong)
    assert inside("encode", SMALL_LANES, tmp_path / "out.vtk")[0] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fetch", "unknown"], 6, "knows no weights"),
        (["fetch", NAME], 2, "say where"),
        (["fetch", NAME, "--from", "nowhere"], 6, "No such file"),
        (["fetch", NAME, "--from", "ftp://x"], 2, "use a folder"),
        (["fetch", NAME, "--from", "http://127.0.0.1:9/"], 6, "cannot fetch"),
        (["fetch", NAME, "--from", "http://localhost:abc"], 6, "cannot fetch"),
        (["fetch", NAME, "--from", "http://["], 6, "cannot fetch"),
        (["fetch", NAME, "--from", "http://a b/"], 6, "cannot fetch"),
        (["fetch", NAME, "--from", "hf://vtok/weights"], 6, "pip install 'vtok-codec[hub]'"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(light: Path, arguments: list[str], code: int, message: str) -> None:
    result, out, told = inside("models", *arguments)
    assert result == code and not out and message in told and told.count("\n") == 1


def test_a_file_that_is_not_on_the_server_is_told(light: Path, server: str) -> None:
    code, _, told = inside("models", "fetch", NAME, "--from", f"{server}below/")
    assert code == 6 and "404" in told
