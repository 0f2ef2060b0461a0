"""Every command and every Python block of the README, the tutorial and the how-to pages for Python runs as printed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers import DATA, LANES
from typer.testing import CliRunner

from vtok_codec.cli.app import app

ROOT = DATA.parent.parent
PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/howto/python.md",
    "docs/howto/training-loop.md",
    "docs/howto/corpus.md",
    "docs/howto/token-model.md",
)


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page that can run: their language and their text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(console|python)\n(.*?)^```", text, flags=re.M | re.S)


NUMBER = r"\d+(?:\.\d+)?"


def without_speed(text: str) -> str:
    """What stays the same from run to run."""
    return re.sub(rf"(?:(?<= in )\d+ s|{NUMBER} frames/s)$", "N", text, flags=re.M)


def assert_alike(printed: str, expected: str, command: str) -> None:
    """Compare what a command prints with the page, all but the speed.

    Numbers may differ by one percent, since a processor with bf16 chooses a few other tokens than one without.
    """
    printed, expected = without_speed(printed), without_speed(expected)
    assert re.sub(NUMBER, "0", printed) == re.sub(NUMBER, "0", expected), command
    numbers = (list(map(float, re.findall(NUMBER, text))) for text in (printed, expected))
    assert next(numbers) == pytest.approx(next(numbers), rel=0.01), f"{command}: {printed}"


def run_console(block: str, folder: Path) -> None:
    """Run the commands of a block in this process and compare what they print with what stands below each."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        program, *arguments = shlex.split(command)
        assert program == "vtok"
        with contextlib.chdir(folder):
            result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert_alike(result.output, expected, command)


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoded clip of the repository, which the how-to pages begin with."""
    folder = tmp_path_factory.mktemp("lanes")
    (folder / "lanes.mp4").symlink_to(LANES)
    run_console("$ vtok encode -q lanes.mp4 lanes.vtk\n", folder)
    return folder / "lanes.vtk"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(
    page: str, lanes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lanes.mp4").symlink_to(LANES)
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(page)
    assert blocks
    if page.startswith("docs/howto"):
        shutil.copy(lanes, tmp_path)
    if page.endswith(("corpus.md", "token-model.md")):
        (tmp_path / "clips").mkdir()
        for name in ("a", "b", "c"):
            (tmp_path / "clips" / f"{name}.mp4").symlink_to(LANES)
    if page.endswith("token-model.md"):
        run_console("$ vtok corpus encode clips -o corpus --filter fps=10,scale=-2:128 -q\n", tmp_path)
    names: dict[str, object] = {}
    for language, block in blocks:
        if language == "console":
            run_console(block, tmp_path)
        else:
            exec(compile(block, page, "exec"), names)


def test_the_readme_installs_with_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n    bin/vtok encode tests/data/lanes.mp4 lanes.vtk && bin/vtok decode lanes.vtk lanes-back.mp4\n" in text
    assert "\n    bin/test\n" in text
    assert len(text.splitlines()) <= 80


OTHERS = {".venv", "node_modules"}
"""Folders whose pages are not ours."""


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT) for path in sorted(ROOT.glob("**/*.md")) if not OTHERS & {*path.parts}]
)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading of its page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    # A verdict becomes a part of the page of all ablations.
    own = ROOT / page if page.name != "verdict.md" else ROOT / "docs" / "notebook" / "ablations.md"
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" not in target:
            place = ROOT / page.parent / target if target else own
            assert place.exists(), target
            assert not anchor or anchor in anchors_of(place), f"{target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", prose, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {f"{name}-{plain[:place].count(name)}".removesuffix("-0") for place, name in enumerate(plain)}


def test_the_front_matter_of_model_cards_has_one_key_per_line() -> None:
    """A list item that swallowed the next key still looks like text to most readers of Markdown."""
    for card in (ROOT / "weights").glob("*.md"):
        _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        keys = [line.split(":")[0] for line in front.splitlines() if not line.startswith("  - ")]
        assert "license" in keys and "tags" in keys, card.name
        assert not [line for line in front.splitlines() if line.startswith("  - ") and ":" in line], card.name


def test_prose_is_wrapped() -> None:
    """At 100 columns, tables, links that cannot be broken, and code apart."""
    wide = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "weights").glob("*.md")]:
        fenced = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            fenced ^= line.startswith("```")
            if len(line) > 100 and not fenced and not line.startswith(("|", "    ", "#", "![")) and " " in line.strip():
                wide.append(f"{path.relative_to(ROOT)}:{number}")
    assert not wide


def test_the_reference_pages_are_current() -> None:
    from reference import pages

    for name, text in pages():
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == text, "run bench/reference.py"


def test_nothing_names_this_machine() -> None:
    home = os.path.expanduser("~")
    for path in ROOT.glob("docs/**/*.md"):
        assert f"{home}/" not in path.read_text(encoding="utf-8")
