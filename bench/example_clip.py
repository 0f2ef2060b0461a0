"""Makes the clip that the page of the browser player shows: ten seconds from the repository's clip, with a sound.

    .venv/bin/python bench/example_clip.py player/example.vtk

The pictures run forwards and backwards; the sound is a quiet chord.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg
from common import ROOT

_CLIP = ROOT / "tests" / "data" / "lanes.mp4"
_SECONDS = 10
_PICTURES = "[0:v]split[a][b];[b]reverse[c];[a][c]concat,loop=-1:122,fps=25[v]"
_SOUND = "0.08*(0.6+0.4*sin(PI*t))*(sin(2*PI*220*t)+sin(2*PI*277.2*t)+sin(2*PI*329.6*t))"


def main() -> None:
    """Make the clip, and encode it as `--quality tiny` with a group of pictures every second."""
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "clip.mkv"
        inputs = ["-i", str(_CLIP), "-f", "lavfi", "-i", f"aevalsrc={_SOUND}:s=48000"]
        coded = ["-c:v", "ffv1", "-pix_fmt", "bgr0", "-c:a", "aac", "-b:a", "48k", "-t", str(_SECONDS)]
        joined = ["-filter_complex", _PICTURES, "-map", "[v]", "-map", "1:a", *coded]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs, *joined, str(clip)], check=True)
        encode = [sys.executable, "-m", "vtok_codec", "encode", str(clip), str(out), "-f"]
        subprocess.run([*encode, "--quality", "tiny", "--gop", "1"], check=True)


if __name__ == "__main__":
    main()
