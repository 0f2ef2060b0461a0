"""The player in a real browser: what it shows is what `vtok decode` gives, and bad files are told."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from file_parts import parts_of
from helpers import DATA, inside, pixels_of, psnr_db

from vtok_codec.container.prefix import VERSION, header_to_bytes
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import AUDIO, TOKENS

PLAYER = 'document.querySelector("vtok-player")'
MESSAGE = f'{PLAYER}.shadowRoot.querySelector("p")'
HOSTILE = "<img src=x onerror=alert(1)>"
EVENTS = ("loadedmetadata", "frame", "ended", "damage", "error", "saved")

pytestmark = pytest.mark.skipif(not CHROMIUM or not shutil.which("npm"), reason="needs Chromium and Node.js")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the built player, and below /files/ the files of a test, in ranges."""

    files: Path

    def translate_path(self, path: str) -> str:
        """The file of an address."""
        name = path.split("?")[0].removeprefix("/files/")
        return str(self.files / name) if path.startswith("/files/") else super().translate_path(path)

    def do_GET(self) -> None:
        """Answer, with a part of the file if that is asked for."""
        path = Path(self.translate_path(self.path))
        if "Range" not in self.headers or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        begin, end = (int(each) for each in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[begin : end + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the server shows below /files/."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def site(player: Path, files: Path) -> Iterator[str]:
    """The address of the player."""
    kind = type("Own", (Handler,), {"files": files})
    handler = functools.partial(kind, directory=str(player / "dist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser that may play sound without a click."""
    with Browser(tmp_path, "--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


def open_page(browser: Browser, url: str) -> None:
    """Open a page with the player, and note its events."""
    browser.open(url)
    # The page reloads itself with the headers that allow threads.
    browser.wait_for(f"crossOriginIsolated && !!{PLAYER}?.canvas")
    browser.value(
        f"""(() => {{
            window.events = [];
            for (const name of {json.dumps(EVENTS)}) {{
                {PLAYER}.addEventListener(name, ({{ detail }}) => events.push([name, detail]));
            }}
        }})()"""
    )


def events(browser: Browser, name: str) -> list[dict[str, Any]]:
    """The details of the events of a name so far."""
    found = browser.value(f'JSON.stringify(events.filter(([name]) => name === "{name}").map((each) => each[1]))')
    return json.loads(found)  # type: ignore[no-any-return]


def keep_pictures(browser: Browser, every: int) -> None:
    """Keep every so many pictures, from now on."""
    browser.value(
        f"""(() => {{
            window.kept = [];
            window.text = (data) => Array.from(data, (byte) => String.fromCharCode(byte)).join("");
            let count = 0;
            {PLAYER}.addEventListener("frame", ({{ detail }}) => {{
                if (count++ % {every} === 0) {{
                    const {{ width, height }} = {PLAYER}.canvas;
                    const {{ data }} = {PLAYER}.canvas.getContext("2d").getImageData(0, 0, width, height);
                    kept.push([detail.time, width, height, window.text(data)]);
                }}
            }});
        }})()"""
    )


def kept_pictures(browser: Browser) -> list[tuple[float, np.ndarray]]:
    """The kept pictures with their times, `H W 3`."""
    made = []
    for number in range(browser.value("kept.length")):
        time, width, height = browser.value(f"kept[{number}].slice(0, 3)")
        data = np.frombuffer(base64.b64decode(browser.value(f"btoa(kept[{number}][3])")), np.uint8)
        made.append((time, data.reshape(height, width, 4)[..., :3]))
    return made


def decoded(path: Path, folder: Path, start_s: int = 0) -> list[np.ndarray]:
    """The frames that `vtok decode` gives from a time on, without loss."""
    out = folder / "decoded.mkv"
    assert inside("decode", path, out, "--codec", "ffv1", "-q", "--start", start_s) == (0, "", "")
    return pixels_of(out)


def test_the_example_plays_from_where_one_seeks(player: Path, site: str, browser: Browser, tmp_path: Path) -> None:
    """The clip of the project's page, ten seconds with sound: in order to its end, every picture as it should be."""
    expected = decoded(player / "example.vtk", tmp_path, start_s=9)
    open_page(browser, site)
    browser.wait_for('events.some(([name]) => name === "frame")')
    browser.wait_for(f"{PLAYER}.duration > 0")
    assert browser.value(f"{PLAYER}.duration") == pytest.approx(10)
    keep_pictures(browser, 3)
    browser.value(f"{PLAYER}.currentTime = 9")
    browser.wait_for("events.some(([name, detail]) => name === 'frame' && detail.time === 9)")
    browser.value(f"{PLAYER}.play()")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=180)
    times = [each["time"] for each in events(browser, "frame")]
    assert times[0] == 0
    assert times[1:] == sorted(set(times[1:]))
    assert times[1] == 9
    assert times[-1] == pytest.approx(9.96)
    assert events(browser, "error") == events(browser, "damage") == []
    pictures = kept_pictures(browser)
    assert len(pictures) > 1
    for time, picture in pictures:
        assert psnr_db(picture, expected[round(25 * (time - 9))]) >= 45
    browser.picture(tmp_path / "page.png")


@pytest.fixture(scope="module")
def small(files: Path, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Path:
    """A small clip of an odd size with sound, in GOPs of half a second."""
    clip = tmp_path_factory.mktemp("small") / "small.mkv"
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=100x68:r=10:d=3", "-f", "lavfi", "-i", "sine=d=3"]
    picture = ["-vf", "format=yuv444p,crop=99:67:0:0:exact=1", "-c:v", "ffv1", "-metadata", f"title={HOSTILE}"]
    subprocess.run([ffmpeg, "-v", "error", *inputs, *picture, "-c:a", "aac", str(clip)], check=True)
    path = files / "small.vtk"
    assert inside("encode", clip, path, "--gop", 1, "-q") == (0, "", "")
    return path


def hear(browser: Browser) -> None:
    """Note the sound that is played: its time in the video, and its length, both in seconds."""
    browser.value(
        f"""(() => {{
            window.heard = [];
            const start = AudioBufferSourceNode.prototype.start;
            AudioBufferSourceNode.prototype.start = function (when, late) {{
                const time = {PLAYER}.currentTime + when - this.context.currentTime - late;
                heard.push([time, this.buffer.duration - late]);
                return start.call(this, when, late);
            }};
        }})()"""
    )


def test_sound_is_heard_from_the_start_and_after_a_seek(small: Path, site: str, browser: Browser) -> None:
    """The packets of a GOP's first frames stand before it in the file."""
    open_page(browser, f"{site}?src=files/small.vtk")
    browser.wait_for('events.some(([name]) => name === "frame")')
    hear(browser)
    browser.value(f"{PLAYER}.play()")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=60)
    heard = json.loads(browser.value("JSON.stringify(heard)"))
    assert min(time for time, _ in heard) < 0.4
    assert sum(length for _, length in heard) > 2.4
    browser.value(f"(heard.length = 0, {PLAYER}.currentTime = 1.5, {PLAYER}.play())")
    browser.wait_for("events.filter(([name]) => name === 'ended').length === 2", seconds=60)
    heard = json.loads(browser.value("JSON.stringify(heard)"))
    assert 1.3 < min(time for time, _ in heard) < 1.8


def test_a_whole_file_is_checked(small: Path, site: str, browser: Browser, tmp_path: Path) -> None:
    """Played from its start to its end, with fewer tokens at first."""
    expected = decoded(small, tmp_path)
    open_page(browser, f"{site}?src=files/small.vtk")
    browser.wait_for('events.some(([name]) => name === "frame")')
    browser.value(f"{PLAYER}.tokens = 1")
    keep_pictures(browser, 1)
    browser.value(f"({PLAYER}.tokens = 2, {PLAYER}.play())")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=60)
    assert events(browser, "ended") == [{"checked": True}]
    pictures = kept_pictures(browser)
    assert psnr_db(pictures[-1][1], expected[-1]) >= 45
    assert [time for time, _ in pictures] == sorted(time for time, _ in pictures)
    # Texts of a file are never markup.
    assert browser.value(f"{PLAYER}.canvas.title") == HOSTILE
    assert browser.value(f'{PLAYER}.shadowRoot.querySelector("img")') is None


def test_it_saves_an_mp4_file(small: Path, site: str, browser: Browser, tmp_path: Path) -> None:
    """All frames, at their times, and the packets of the sound as they were."""
    open_page(browser, f"{site}?src=files/small.vtk")
    browser.wait_for('events.some(([name]) => name === "frame")')
    browser.value(f'{PLAYER}.shadowRoot.querySelectorAll("button")[1].click()')
    browser.wait_for("events.some(([name]) => name === 'saved')", seconds=60)
    text = browser.value(
        """events.find(([name]) => name === "saved")[1].file.arrayBuffer().then((data) =>
            btoa(Array.from(new Uint8Array(data), (byte) => String.fromCharCode(byte)).join("")))"""
    )
    saved = tmp_path / "saved.mp4"
    saved.write_bytes(base64.b64decode(text))
    expected = decoded(small, tmp_path)
    with av.open(str(saved)) as file:
        frames = list(file.decode(video=0))
    times = [float(frame.time or 0) for frame in frames]
    assert times == pytest.approx([number / 10 for number in range(30)], abs=1e-3)
    for frame, picture in zip(frames, expected, strict=True):
        assert psnr_db(frame.to_ndarray(format="rgb24")[:67, :99], picture) > 30
    with av.open(str(saved)) as file, av.open(str(tmp_path / "decoded.mkv")) as source:
        sounds = [[bytes(packet) for packet in each.demux(audio=0) if packet.size] for each in (file, source)]
    assert sounds[0] == sounds[1][-len(sounds[0]) :]
    assert len(sounds[1]) - len(sounds[0]) <= 2


def test_damage_is_told_and_played_past(small: Path, files: Path, site: str, browser: Browser, tmp_path: Path) -> None:
    """A changed byte in the second GOP costs that GOP alone."""
    data = bytearray(small.read_bytes())
    second = next(chunk for chunk in parts_of(bytes(data)).of_type(TOKENS) if chunk.fields.gop == 1)
    data[second.payload_start + 22] ^= 1
    (files / "damaged.vtk").write_bytes(data)
    open_page(browser, f"{site}?src=files/damaged.vtk")
    browser.wait_for('events.some(([name]) => name === "frame")')
    browser.value(f"{PLAYER}.play()")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=60)
    assert [each["until"] for each in events(browser, "damage")] == [1]
    assert "CRC" in browser.value(f"{MESSAGE}.textContent")
    assert browser.value(f'{PLAYER}.shadowRoot.querySelectorAll(".lost").length') == 1
    assert events(browser, "ended") == [{"checked": False}]
    times = [each["time"] for each in events(browser, "frame")]
    assert times[-1] == pytest.approx(2.9)
    browser.picture(tmp_path / "damaged.png")


def test_a_damaged_record_of_sound_costs_no_frame(small: Path, files: Path, site: str, browser: Browser) -> None:
    data = bytearray(small.read_bytes())
    sound = parts_of(bytes(data)).of_type(AUDIO)
    data[sound[len(sound) // 2].payload_start + 5] ^= 1
    (files / "silent.vtk").write_bytes(data)
    open_page(browser, f"{site}?src=files/silent.vtk")
    browser.wait_for('events.some(([name]) => name === "frame")')
    keep_pictures(browser, 1)
    browser.value(f"{PLAYER}.play()")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=60)
    (told,) = events(browser, "damage")
    assert told["from"] is None and told["message"].startswith("sound is lost")
    assert events(browser, "ended") == [{"checked": False}]
    assert len(kept_pictures(browser)) >= 29


def test_what_cannot_be_played_is_told(small: Path, files: Path, site: str, browser: Browser) -> None:
    """In a line, for a file of another kind, a missing one, and one of a model that is not there."""
    (files / "other.vtk").write_bytes(b"# vtk DataFile Version 3.0\n")
    shutil.copy(DATA / "golden-waves.vtk", files / "foreign.vtk")
    header = VtkReader(io.BytesIO(small.read_bytes())).header
    lying = replace(header, model=replace(header.model, stride=(4, 4, 4)))
    (files / "lying.vtk").write_bytes(header_to_bytes(lying, VERSION))
    wrong = {
        "lying": "does not fit its model",
        "other": "not a .vtk file",
        "missing": "404",
        "foreign": "the video needs the model",
    }
    for name, reason in wrong.items():
        open_page(browser, f"{site}?src=files/{name}.vtk")
        said = browser.wait_for(f"{MESSAGE}.textContent.startsWith('This') && {MESSAGE}.textContent")
        assert said.startswith("This file cannot be played")
        assert reason in said


def test_a_model_that_is_not_the_one_of_the_player_is_refused(
    player: Path, small: Path, files: Path, site: str, browser: Browser
) -> None:
    """Such as an older one that the browser has kept, which would show wrong pictures."""
    shutil.copytree(player / "dist", files / "spoiled", dirs_exist_ok=True)
    (weights,) = (files / "spoiled" / "models").glob("onevae-nano-4x8x8*.bin")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 0x80
    weights.write_bytes(data)
    open_page(browser, f"{site}files/spoiled/index.html?src=/files/small.vtk")
    said = browser.wait_for(f"{MESSAGE}.textContent.includes('cannot be played') && {MESSAGE}.textContent")
    assert "is not the file that this player was built with" in said


def test_a_seek_to_the_end_shows_the_last_picture(small: Path, site: str, browser: Browser) -> None:
    open_page(browser, f"{site}?src=files/small.vtk")
    browser.wait_for(f"{PLAYER}.duration > 0 && events.some(([name]) => name === 'frame')")
    browser.value(f"({PLAYER}.play(), {PLAYER}.currentTime = {PLAYER}.duration)")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=60)
    assert events(browser, "frame")[-1]["time"] == pytest.approx(2.9)


def test_a_file_without_its_end_is_played_and_steered_by_keys(
    small: Path, files: Path, site: str, browser: Browser
) -> None:
    """Its duration is not known, nor where its groups of pictures start."""
    data = small.read_bytes()
    (files / "endless.vtk").write_bytes(data[: len(data) - 60])
    open_page(browser, f"{site}?src=files/endless.vtk")
    browser.wait_for("events.some(([name]) => name === 'frame')")
    assert browser.value(f"{PLAYER}.duration") is None
    browser.value(f"({PLAYER}.currentTime = 1.5, {PLAYER}.canvas.focus())")
    browser.wait_for("events.some(([name, detail]) => name === 'frame' && detail.time === 1.5)", seconds=60)
    browser.press("ArrowRight")
    browser.wait_for("events.some(([name, detail]) => name === 'frame' && detail.time === 2.5)", seconds=60)
    browser.value(f"{PLAYER}.currentTime = 0.4")
    # The second press does not wait for the picture of the first.
    for _ in range(2):
        browser.press("ArrowRight")
    browser.wait_for("events.some(([name, detail]) => name === 'frame' && detail.time === 2.4)", seconds=60)


def test_damage_behind_the_video_is_no_lost_video(small: Path, files: Path, site: str, browser: Browser) -> None:
    data = bytearray(small.read_bytes())
    data[-1] ^= 1
    (files / "end.vtk").write_bytes(data)
    open_page(browser, f"{site}?src=files/end.vtk")
    browser.wait_for("events.some(([name]) => name === 'frame')")
    browser.value(f"{PLAYER}.play()")
    browser.wait_for("events.some(([name]) => name === 'ended')", seconds=60)
    assert browser.value(f"{MESSAGE}.textContent").startswith("The file is damaged, though no frame is missing")
    assert events(browser, "ended") == [{"checked": False}]
    assert browser.value(f'{PLAYER}.shadowRoot.querySelectorAll(".lost").length') == 0


def test_wrong_addresses_are_told(site: str, browser: Browser) -> None:
    open_page(browser, f"{site}?src=ftp://example.org/mine.vtk")
    assert "takes an http or https address" in browser.value(f"{MESSAGE}.textContent")
    browser.value(f"{PLAYER}.setAttribute('src', 'http://[')")
    browser.wait_for("events.some(([name]) => name === 'error')")
    assert browser.value(f"{MESSAGE}.textContent").startswith("This file cannot be played")
