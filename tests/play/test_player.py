"""`vtok play`: the server shows a file to whoever knows its address, and the page plays it in a real browser."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from command_helpers import VTOK
from helpers import DATA, SMALL_LANES, ClipMaker, inside, pixels_of, psnr_db

from vtok_codec.cli.play import _page_folder
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.decoders import Decoders
from vtok_codec.codec.pixel_decoder import DecoderChoice, PixelDecoder
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import DamageError
from vtok_codec.play.overview import Overview, read_overview
from vtok_codec.play.server import Played, PlayServer
from vtok_codec.play.streams import write_decoded


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's clip in three GOPs."""
    path = tmp_path_factory.mktemp("clip") / "lanes.vtk"
    assert inside("encode", SMALL_LANES, path, "--gop", 1, "-q") == (0, "", "")
    return path


def overview_of(path: Path) -> Overview:
    with path.open("rb") as stream:
        return read_overview(VtkReader(stream))


@contextmanager
def served(path: Path, tokenizer: Tokenizer, source: Path | None = None) -> Iterator[PlayServer]:
    """A server of a file, by the shipped model."""
    decoders = Decoders(tokenizer)

    def load(name: str) -> PixelDecoder:
        return decoders.choose(DecoderChoice(name))

    with path.open("rb") as stream:
        reader = VtkReader(stream)
        played = Played(path, reader.header, read_overview(reader), source, ("deterministic", "ddim"), load)
    with PlayServer(played) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetched(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def damaged(clip: Path, folder: Path, gop: int = 1) -> Path:
    """A copy of a clip in which a GOP has a flipped bit."""
    path = folder / "damaged.vtk"
    data = bytearray(clip.read_bytes())
    with clip.open("rb") as stream:
        entries = VtkReader(stream).index()
    data[entries[gop].offset + 100] ^= 1
    path.write_bytes(data)
    return path


def test_an_overview_has_every_gop(clip: Path) -> None:
    overview = overview_of(clip)
    assert [round(gop.start_s, 2) for gop in overview.gops] == [0, 0.84, 1.68]
    assert [round(gop.end_s, 2) for gop in overview.gops] == [0.84, 1.68, 2.44]
    assert overview.seconds == pytest.approx(61 / 25) and not overview.damage
    assert 0 < sum(gop.token_bytes for gop in overview.gops) < clip.stat().st_size


def test_an_overview_tells_what_is_damaged(clip: Path, tmp_path: Path) -> None:
    overview = overview_of(damaged(clip, tmp_path))
    (lost,) = overview.damage
    assert (round(lost.start_s, 2), lost.end_s and round(lost.end_s, 2)) == (0.84, 1.68) and "CRC" in lost.reason
    assert [round(gop.start_s, 2) for gop in overview.gops] == [0, 1.68]
    cut = tmp_path / "cut.vtk"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert overview_of(cut).damage[-1].end_s is None
    cut.write_bytes(clip.read_bytes()[:600])
    with pytest.raises(DamageError, match="nothing of the file can be decoded"):
        overview_of(cut)


def test_times_count_from_the_first_frame_even_if_it_is_lost(clip: Path, tmp_path: Path) -> None:
    """As those of `decode --start` do, so that a bar of the time line plays what it shows."""
    overview = overview_of(damaged(clip, tmp_path, gop=0))
    (lost,) = overview.damage
    assert (lost.start_s, lost.end_s and round(lost.end_s, 2)) == (0, 0.84)
    assert [round(gop.start_s, 2) for gop in overview.gops] == [0.84, 1.68]
    assert overview.seconds == pytest.approx(61 / 25)


def test_what_stands_behind_the_video_is_no_damage_of_it(clip: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.vtk"
    longer.write_bytes(clip.read_bytes() + b"more")
    assert not overview_of(longer).damage


def test_the_page_gets_the_frames_that_decode_gives(clip: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with served(clip, tokenizer, source=SMALL_LANES) as server:
        for query, options in (("start=0", []), ("start=0.84&tokens=1", ["--start", 0.84, "--tokens", 1])):
            status, data, headers = fetched(f"{server.url}video?{query}")
            assert status == 200 and headers["Content-Type"] == "video/mp4"
            (tmp_path / "got.mp4").write_bytes(data)
            out = tmp_path / "decoded.mkv"
            assert inside("decode", clip, out, "--codec", "ffv1", "-f", "-q", *options) == (0, "", "")
            got, expected = pixels_of(tmp_path / "got.mp4"), pixels_of(out)
            assert len(got) == len(expected) and psnr_db(np.stack(got), np.stack(expected)) > 40
        (tmp_path / "source.mp4").write_bytes(fetched(f"{server.url}source?start=1.2")[1])
        got, expected = pixels_of(tmp_path / "source.mp4"), pixels_of(SMALL_LANES)[30:]
        assert len(got) == len(expected) and psnr_db(np.stack(got), np.stack(expected)) > 40


def test_only_who_knows_the_address_gets_an_answer(clip: Path, tokenizer: Tokenizer) -> None:
    with served(clip, tokenizer) as server:
        port = server.server_port
        assert server.server_address[0] == "127.0.0.1"
        for path in ("/", "/about.json", f"/{'x' * len(server.token)}/", f"/{server.token}/../../etc/passwd"):
            assert fetched(f"http://127.0.0.1:{port}{path}")[0] == 404
        # A page elsewhere may let its own name stand for this machine (DNS rebinding).
        for host in ("example.com", f"example.com:{port}", f"localhost:{port}"):
            assert fetched(server.url, Host=host)[0] == 404
        for name in ("page.css.bak", "source", "server.py", "%2e%2e/server.py"):
            assert fetched(server.url + name)[0] == 404
        status, page, headers = fetched(server.url)
        assert status == 200 and b"<script src" in page
        assert "default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in str(headers)


@pytest.mark.parametrize(
    "query", ["start=x", "start=-1", "start=nan", "start=99", "tokens=x", "decoder=nope", "decoder=/etc/x"]
)
def test_wrong_requests_are_refused(clip: Path, tokenizer: Tokenizer, query: str) -> None:
    with served(clip, tokenizer) as server:
        assert fetched(f"{server.url}video?{query}")[0] == 400
        assert fetched(f"{server.url}about.json")[0] == 200


def test_a_file_that_is_replaced_or_gone_is_told(clip: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The decoder was chosen for the first one."""
    path = tmp_path / "clip.vtk"
    shutil.copy(clip, path)
    with served(path, tokenizer, source=tmp_path / "映像.mp4") as server:
        assert inside("encode", SMALL_LANES, path, "--tokens", 1, "--duration", 0.2, "-f", "-q") == (0, "", "")
        status, text, _ = fetched(f"{server.url}video")
        assert status == 400 and b"another file by now" in text
        path.unlink()
        status, text, _ = fetched(f"{server.url}video")
        assert status == 400 and b"No such file" in text
        status, text, _ = fetched(f"{server.url}source")
        assert status == 400 and "映像.mp4" in text.decode()


def test_what_nobody_reads_is_not_decoded_to_its_first_fragment(clip: Path, tokenizer: Tokenizer) -> None:
    asked = 0

    def is_wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked <= 3

    with clip.open("rb") as stream:
        header = VtkReader(stream).header
    with pytest.raises(BrokenPipeError):
        write_decoded(clip, header, Decoders(tokenizer).choose(DecoderChoice()), None, 0.0, io.BytesIO(), is_wanted)
    assert asked == 4


def test_a_reader_that_goes_away_stops_the_decoder(clip: Path, tokenizer: Tokenizer) -> None:
    with served(clip, tokenizer) as server:
        before = set(threading.enumerate())
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
                request = f"GET /{server.token}/video HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
                connection.sendall(request.encode())
                assert connection.recv(100)
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", f"/{server.token}/about.json")
        assert json.loads(connection.getresponse().read())["tokens"] == 2
        begun, deadline = set(threading.enumerate()) - before, time.monotonic() + 60
        for thread in begun:
            thread.join(max(0.0, deadline - time.monotonic()))
        # The last request keeps its connection.
        assert sum(thread.is_alive() for thread in begun) <= 1


def test_odd_sizes_and_sound_reach_the_page(make_clip: ClipMaker, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source, clip = make_clip("odd.mp4", size="65x49", audio=True, frames=30), tmp_path / "odd.vtk"
    assert inside("encode", source, clip, "-q") == (0, "", "")
    with served(clip, tokenizer) as server:
        about = json.loads(fetched(f"{server.url}about.json")[1])
        assert about["sound"] and (about["width"], about["height"]) == (65, 49)
        (tmp_path / "got.mp4").write_bytes(fetched(f"{server.url}video")[1])
    with av.open(str(tmp_path / "got.mp4")) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.pix_fmt) == (66, 50, "yuv420p") and len(container.streams.audio) == 1


def test_sound_that_no_browser_plays_is_encoded_for_it(
    make_clip: ClipMaker, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = make_clip("pcm.mkv", audio=True, frames=30, options=["-c:a", "pcm_s16le"])
    clip = tmp_path / "pcm.vtk"
    assert inside("encode", source, clip, "-q") == (0, "", "")
    with served(clip, tokenizer) as server:
        (tmp_path / "got.mp4").write_bytes(fetched(f"{server.url}video")[1])
    with av.open(str(tmp_path / "got.mp4")) as container:
        (track,) = container.streams.audio
        assert track.codec_context.name == "aac"
        assert sum(frame.samples for frame in container.decode(track)) > 44100


def test_the_source_begins_with_its_first_frame(
    make_clip: ClipMaker, clip: Path, tokenizer: Tokenizer, tmp_path: Path, ffmpeg: str
) -> None:
    """As what is decoded does, also where its sound begins before the picture."""
    plain, late = make_clip("plain.mkv", frames=40), tmp_path / "late.mkv"
    inputs = ["-itsoffset", "0.8", "-i", str(plain), "-f", "lavfi", "-i", "sine=d=2", "-c:v", "copy"]
    subprocess.run([ffmpeg, "-v", "error", *inputs, str(late)], check=True)
    expected = pixels_of(plain)
    with served(clip, tokenizer, source=late) as server:
        for start, first in (("0", 0), ("1", 25)):
            (tmp_path / "source.mp4").write_bytes(fetched(f"{server.url}source?start={start}")[1])
            got = pixels_of(tmp_path / "source.mp4")
            assert len(got) == 40 - first
            assert max(range(40), key=lambda number: psnr_db(got[0], expected[number])) == first
            with av.open(str(tmp_path / "source.mp4")) as container:
                assert next(container.decode(video=0)).time == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to play in")
def test_it_plays_and_seeks_in_a_browser(clip: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with served(clip, tokenizer, source=SMALL_LANES) as server, browsing(tmp_path) as browser:
        browser.open(server.url)
        browser.wait_for("about && video.currentTime > 0.3 && source.currentTime > 0")
        assert browser.value("[video.videoWidth, video.videoHeight, document.title]") == [116, 64, "lanes.vtk"]
        assert not browser.value("part('source-figure').hidden") and browser.value("part('volume-label').hidden")
        browser.wait_for("ended && now()")
        assert browser.value("now()") == pytest.approx(2.44, abs=0.05)
        # A click on the last third of the curve goes to the GOP there, and arrow keys to those beside it.
        left, top, width = browser.value(
            "(({left, top, width}) => [left, top, width])(timeline.getBoundingClientRect())"
        )
        browser.click(left + 0.9 * width, top + 20)
        browser.wait_for("start > 1.6 && video.currentTime > 0.1")
        assert browser.value("start") == pytest.approx(1.68, abs=0.01)
        browser.value("(timeline.focus(), video.pause())")
        for key, expected in (("Home", 0), ("ArrowRight", 1.68), ("Home", 0), ("End", 1.68)):
            browser.press(key)
            assert browser.wait_for(f"Math.abs(start - {expected}) < 0.01 && [start]")
        browser.value("(seek(0), video.play())")
        browser.wait_for("!video.paused && video.currentTime > 0")
        browser.press(" ")
        browser.wait_for("video.paused")
        browser.value("(() => { part('tokens').value = '1'; part('tokens').dispatchEvent(new Event('change')); })()")
        assert "tokens=1" in browser.wait_for("video.src.includes('tokens=1') && video.src")
        browser.wait_for("video.readyState > 2")
        shot = tmp_path / "shot.png"
        browser.picture(shot)
    with av.open(str(shot)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    # The curve is drawn: what was played in blue.
    assert (np.abs(picture - (0x1E, 0x88, 0xE5)).max(axis=2) < 8).sum() > 2000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to play in")
def test_a_damaged_file_says_so_and_plays_on(clip: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The name of the file is no part of the page either."""
    hostile = tmp_path / "<img src=x onerror=document.title='hacked'>.vtk"
    shutil.copy(damaged(clip, tmp_path), hostile)
    with served(hostile, tokenizer) as server, browsing(tmp_path) as browser:
        browser.open(server.url)
        browser.wait_for("ended")
        assert browser.value("document.querySelector('#damage').innerText").startswith("Damaged from 0.84 s to 1.68 s")
        assert browser.value("[document.title, part('name').textContent, document.images.length]") == [
            *[hostile.name] * 2,
            0,
        ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to play in")
def test_arrow_keys_leave_a_long_group_of_pictures(tokenizer: Tokenizer, make_clip: ClipMaker, tmp_path: Path) -> None:
    source, path = make_clip("long.mp4", size="64x48", frames=60, options=["-r", "5"]), tmp_path / "long.vtk"
    assert inside("encode", source, path, "--gop", 6, "-q") == (0, "", "")
    with served(path, tokenizer) as server, browsing(tmp_path) as browser:
        browser.open(server.url)
        browser.wait_for("about && video.currentTime > 0")
        browser.value("timeline.focus()")
        browser.press("ArrowRight")
        assert browser.wait_for("start > 5 && [start]") == pytest.approx([browser.value("about.gops[1].start_s")])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to play in")
def test_a_video_that_breaks_off_says_why(
    clip: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the page and in the terminal, whatever the error is."""

    def broken(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, event in enumerate(decode_events(*arguments, **options)):
            if number == 30:
                raise RuntimeError("the decoder fell\nover")
            yield event

    monkeypatch.setattr("vtok_codec.play.streams.decode_events", broken)
    with served(clip, tokenizer) as server, browsing(tmp_path) as browser:
        browser.open(server.url)
        said = browser.wait_for("document.querySelector('#message').textContent")
        assert said == "The video breaks off: internal error: the decoder fell over"
        assert server.problem == "internal error: the decoder fell over"


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    with Browser(folder, "--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


def test_the_command_prints_its_address_and_ends_with_an_interrupt(clip: Path) -> None:
    process = subprocess.Popen(
        [*VTOK, "play", str(clip), "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip()
    about = json.loads(fetched(f"{url}about.json")[1])
    assert about["name"] == clip.name and about["decoders"] == ["deterministic", "ddim", "flow"]
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0 and b"Ctrl-C" in told


def test_a_browser_that_is_a_snap_can_read_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees no temporary files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _page_folder(tmp_path) == tmp_path
    assert _page_folder(tmp_path / "none") is None


def test_a_browser_in_the_terminal_does_not_keep_the_server(clip: Path, tmp_path: Path) -> None:
    """And its arguments, which all users can see, do not hold the address."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/seen\ncat "${{1#file://}}" > {tmp_path}/page\nsleep 60\n')
    browser.chmod(0o755)
    environment = os.environ | {"BROWSER": f"{browser} %s"}
    process = subprocess.Popen([*VTOK, "play", str(clip)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip()
    assert fetched(url)[0] == 200
    for _ in range(100):
        if (tmp_path / "page").exists() and (tmp_path / "page").read_text():
            break
        time.sleep(0.1)
    assert url in (tmp_path / "page").read_text() and url.split("/")[3] not in (tmp_path / "seen").read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    subprocess.run(["pkill", "-f", str(browser)], check=False)


def test_what_cannot_be_played_is_told(clip: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = [
            (3, "pipe cannot seek", ["-"]),
            (3, "pipe cannot seek", ["/dev/null"]),
            (3, "No such file", [tmp_path / "none.vtk"]),
            (4, "not a .vtk file", [SMALL_LANES]),
            (3, "none.mp4", [clip, "--source", tmp_path / "none.mp4"]),
            (7, "cannot listen", [clip, "--port", taken.getsockname()[1]]),
            (3, "max-pixels", [clip, "--max-pixels", 1000]),
            (6, "was made with weights", [clip, "--weights", "onevae-nano-4x16x16"]),
            (6, "did not come with vtok", [DATA / "golden-1.0.vtk"]),
        ]
        for code, words, arguments in cases:
            got, out, told = inside("play", *arguments, "--no-browser")
            assert (got, out) == (code, "") and words in told and told.count("\n") == 1, (arguments, told)
