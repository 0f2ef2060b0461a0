"""Measures how fast the browser player decodes in headless Chromium, on the processor.

    bin/player && .venv/bin/python bench/web_player.py [--threads 1 2] [--models …] [--json FILE]

The middle of the repository's clip, 256×256 pixels, is decoded to its end by the player's worker, which a page takes
every picture from at once. Loading is not counted; unpacking the tokens is.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import Browser
from common import ROOT, print_table, write_json

_CLIP = ROOT / "tests" / "data" / "lanes.mp4"
_RUN = """(async () => {
    const worker = new Worker("vtok-worker.js", { type: "module" });
    const ask = (message) => worker.postMessage(message);
    ask({ type: "open", source: new URL("bench.vtk", location).href, assets: location.href, engine: "wasm" });
    const counts = [];
    let run = 0;
    return new Promise((resolve) => {
        worker.onmessage = ({ data }) => {
            const now = performance.now() / 1000;
            if (data.type === "opened") {
                ask({ type: "run", run: ++run, gop: 0, tokens: data.info.tokens });
            } else if (data.type === "frames") {
                counts.push([now, data.frames.length]);
                ask({ type: "shown", frames: data.frames.length });
            } else if (data.type === "end") {
                // What comes with the first message was decoded before it.
                const frames = counts.slice(1).reduce((all, [, count]) => all + count, 0);
                resolve(frames / (counts.at(-1)[0] - counts[0][0]));
            } else if (data.type === "failed") {
                resolve(data.message);
            }
        };
    });
})()"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--models", nargs="+", default=["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = [(model, threads) for model in arguments.models for threads in arguments.threads]
    rows = [[model, threads, measured(model, threads)] for model, threads in cases]
    print_table(["model", "threads", "frames/s"], rows)
    write_json(arguments.json, {"rows": rows})


def measured(model: str, threads: int) -> object:
    """Return frames per second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--model", model, "--tokens", "2", "--filter", "crop=256:256", "--quiet"]
        encode = [sys.executable, "-m", "vtok_codec", "encode", str(_CLIP), str(folder / "bench.vtk"), *options]
        subprocess.run(encode, check=True)
        with served(folder, isolated=threads > 1) as url, Browser(folder) as browser:
            browser.open(url + "page.css")
            return browser.value(_RUN)


@contextmanager
def served(folder: Path, isolated: bool) -> Iterator[str]:
    """Serve the built player, and bench.vtk of a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(folder / "bench.vtk") if path == "/bench.vtk" else super().translate_path(path)

        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(ROOT / "player" / "dist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


if __name__ == "__main__":
    main()
