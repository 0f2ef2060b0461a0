"""Writes reference pages from help texts and docstrings in the code.

    .venv/bin/python bench/reference.py

The pages are `command-line.md`, `python.md` and `training.md` in `docs/reference`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import typer.main
from common import ROOT

import vtok_codec
from vtok_codec import api, clip
from vtok_codec.cli.app import app
from vtok_codec.codec.drawing import Sampling, TokenDrawer
from vtok_codec.codec.generation import TokenGenerator
from vtok_codec.codec.latent_generation import LatentGenerator
from vtok_codec.corpus.joined_windows import JoinedWindows
from vtok_codec.corpus.sampler import SampledWindows, WindowSampler
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.media.types import Frame
from vtok_codec.stream.verifying import FileSummary
from vtok_codec.training.recipe import Augmentation, Phase, Recipe
from vtok_codec.training.stages import STAGES, Stage

_COLUMNS = 100
_FOLDER = ROOT / "docs" / "reference"
_COMMAND_LINE_HEAD = """# Command line

This page lists each command with its arguments and options, as `vtok COMMAND --help` prints them.
After an error, the [exit code](exit-codes.md) tells its kind. `bench/reference.py` writes this page.

To code several inputs at once, name a folder for the outputs with `-o DIR`. The name `-` stands for
standard input or standard output. An output file appears under its name only when it is complete.
On standard output, a decoded video is raw RGB in a NUT container.

`encode` keeps the size, frame count, frame times (also at variable rates), sample aspect ratio,
colour tags, rotation and audio packets; `decode` writes them as far as the output's container can
hold them. vtok reports what it leaves out: bit depths above 8, transparency, subtitles and chapters.

`decode` encodes the pictures with H.264 at CRF 14 (MP4, MOV, MKV), VP9 at CRF 20 (WebM) or MPEG-4 (AVI), or
writes them as they are (NUT, Y4M, PNG); `--codec` and `--crf` choose another encoder of FFmpeg.

Three options name a model. `--model` is the one that encodes, or that is measured; `--weights` is the one that made a
file, if the file's own name does not find it; `--codec` of `train` and `generate` is the codec on whose tokens another
network works. Each takes a shipped name, a weights file or the folder of a training run.

| environment variable | what it names |
|---|---|
| `VTOK_WEIGHTS` | The folder for fetched weights; by default `vtok/weights` in `XDG_CACHE_HOME` or `~/.cache`. |
| `VTOK_WEIGHTS_SOURCE` | Where `vtok models fetch` gets weights, unless `--from` says so. |
| `VTOK_PRIORS` | Folders with further priors, separated as in `PATH`. |
| `VTOK_DEBUG` | 1 prints the traceback of an internal error. |
"""
_PYTHON_HEAD = """# Python

    import vtok_codec

Errors are subclasses of `vtok_codec.errors.VtokError`; see [exit codes](exit-codes.md). If a call
leaves something out, it issues a `vtok_codec.errors.VtokWarning`. The classes `Codec`, `Clip`,
`TokenGenerator` and `LatentGenerator`, which `load`, `open` and `load_generator` return, can be
imported from `vtok_codec` too.

`bench/reference.py` writes this page from the docstrings.
"""
_TRAINING_HEAD = """# Settings of training stages

`vtok train --set NAME=VALUE` changes a setting of a stage ([how to train](../howto/train.md)). This
page lists what each setting means, with its default, and then the stages, with the settings whose
defaults differ.
`bench/reference.py` writes it from the code.

Numbers and names are given as they are, lists with commas: `token_weights=0.5,0.5,0,0`. `phases`
are the crops, `BATCHxFRAMESxPIXELS`; a later phase ends with `@` and the fraction of the stage at
which it begins: `phases=12x16x64,6x16x96@0.45`.
"""


def command_line() -> str:
    """Return the page of the command line."""
    group: Any = typer.main.get_command(app)
    parts = [_COMMAND_LINE_HEAD]
    for name, command in _commands(group):
        parts.append("\n".join(_command(name, command)))
    return "\n".join(parts)


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command below a group, with its whole name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{before}{name}", command
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## vtok {name}\n"
    yield f"{_markdown(command.help)}\n"
    if command.epilog:
        yield f"{command.epilog}\n"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    for argument in arguments:
        yield f"- `{argument.name.upper()}`: {_markdown(argument.help or '')}"
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    if arguments:
        yield ""
    yield "| option | default | meaning |"
    yield "|---|---|---|"
    for option in options:
        none = option.default is None or option.default is False or option.default in ((), "")
        default = "" if none else f"`{option.default}`"
        names = "`, `".join([*option.opts, *option.secondary_opts])
        yield f"| `{names}` | {default} | {_markdown(option.help or '')} |"
    yield ""


def python() -> str:
    """Return the page of the Python API."""
    parts = [_PYTHON_HEAD, *_function("vtok_codec.load", api.load), *_class("vtok_codec.open", clip.Clip)]
    for each in (api.Codec, Frame, FileSummary):
        parts += _class(each.__name__, each)
    parts += _function("vtok_codec.load_generator", vtok_codec.load_generator)
    for drawer in (TokenDrawer, TokenGenerator, LatentGenerator):
        parts += _class(drawer.__name__, drawer)
    parts += _class("vtok_codec.Sampling", Sampling)
    for name, windows in {"TokenWindows": TokenWindows, "JoinedWindows": JoinedWindows}.items():
        parts += _class(f"vtok_codec.{name}", windows)
    parts += _class("vtok_codec.WindowSampler", WindowSampler)
    parts.append(f"Version of this page: {vtok_codec.__version__.rpartition('.')[0]}\n")
    return "\n".join(parts)


def training() -> str:
    """Return the page of the settings of training stages."""
    kinds = dict.fromkeys(kind for stage in STAGES.values() for kind in reversed(type(stage.recipe).__mro__))
    own = [kind for kind in kinds if issubclass(kind, Recipe) and kind is not Recipe]
    parts = [_TRAINING_HEAD, "## All stages\n", *_meanings(Recipe), *_meanings(Augmentation, "augmentation."), ""]
    for kind in own:
        names = [f"`{name}`" for name, stage in STAGES.items() if isinstance(stage.recipe, kind)]
        parts += [f"## {', '.join(names)}\n", *_remarks(kind), *_meanings(kind), ""]
        if without := sorted(vars(kind).get("unused", ())):
            they = "They do" if len(names) > 1 else "It does"
            parts.append(f"{they} not use {', '.join(f'`{name}`' for name in without)}.\n")
    parts += ["## Defaults of each stage\n", *map(_stage, STAGES.values())]
    return "\n".join(parts)


def _remarks(kind: type) -> Iterator[str]:
    """Yield what the docstring of a recipe says behind its first paragraph."""
    _, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    if rest and "__doc__" in vars(kind):
        yield f"{rest}\n"


def _meanings(kind: type, before: str = "") -> Iterator[str]:
    """Yield what each setting of a recipe means, with its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, text in _field_docs(kind):
        if name in defaults and name != "augmentation":
            value = defaults[name]
            default = "" if value in (dataclasses.MISSING, (), "") else f" ({_value(value)})"
            yield f"- `{before}{name}`{default}: {text}"


def _stage(stage: Stage) -> str:
    """Return a paragraph on a stage and the settings that differ from the defaults."""
    summary = stage.summary[0].upper() + stage.summary[1:]
    if stage.starts_from == "klt":
        start = "starts from the KLT of the data"
    elif STAGES[stage.starts_from].kind == stage.kind:
        start = f"usually starts from `{stage.starts_from}`"
    else:
        start = f"usually follows `{stage.starts_from}`"
    settings = "\n".join(f"    --set {name}={value}" for name, value in _changed(stage.recipe))
    return f"### {stage.name}\n\n{summary}. It {start}.\n\n{settings}\n"


def _changed(fields: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each setting that differs from its default, as `--set` takes them."""
    for field in dataclasses.fields(fields):
        value = getattr(fields, field.name)
        if field.name in getattr(fields, "unused", ()):
            continue
        if isinstance(value, Augmentation):
            yield from _changed(value, "augmentation.")
        elif value != field.default:
            yield before + field.name, _value(value)


def _value(value: Any) -> str:
    """Return the value of a setting as `--set` takes it."""
    if isinstance(value, Phase):
        shape = value.shape
        return f"{shape.batch}x{shape.frames}x{shape.size}" + (f"@{value.start:g}" if value.start else "")
    if isinstance(value, tuple):
        return ",".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _class(title: str, kind: type) -> Iterator[str]:
    yield f"## {title}\n"
    if "Args:" in (kind.__doc__ or ""):
        yield f"```python\n{title.rpartition('.')[2]}{_signature(kind.__init__).removesuffix(' -> None')}\n```\n"  # type: ignore[misc]
    yield f"{_docstring(kind)}\n"
    fields = [*_field_docs(kind), *_attribute_docs(kind)]
    for name, text in fields:
        yield f"- `{name}`: {text}"
    if fields:
        yield ""
    for name, member in _members(kind):
        if name.startswith("_") and name != "__getitem__":
            continue
        if isinstance(member, property):
            yield f"### {name} (property)\n\n{_docstring(member)}\n"
        elif inspect.isfunction(member):
            yield from _function(name, member, "###")


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the members of a class, and those that it inherits from a class that the page does not show."""
    for base in kind.__mro__:
        if base is kind or base is SampledWindows:
            yield from ((name, member) for name, member in vars(base).items() if base is kind or name not in vars(kind))


def _function(title: str, function: Any, level: str = "##") -> Iterator[str]:
    signature = _signature(function)
    yield f"{level} {title}\n\n```python\n{title.rpartition('.')[2]}{signature}\n```\n\n{_docstring(function)}\n"


def _signature(function: Any) -> str:
    """Return the arguments of a function as they are written."""
    signature = str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()")
    # Annotations are strings, so their quotes are removed. Defaults keep theirs.
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)


def _docstring(thing: Any) -> str:
    """Return a docstring as Markdown, with a bold title and a list for each of its sections."""
    lines: list[str] = []
    for line in (inspect.getdoc(thing) or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Example):", line):
            lines += [f"**{line[:-1]}**", ""]
            continue
        entry = re.match(r"    (\w[\w, ]*): (.*)", line)
        if entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif line.startswith(("    >>>", "    ...")):
            lines.append(line)
        elif (line.startswith("    ") and lines and lines[-1].startswith("- ")) or _goes_on(lines, line):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(re.sub(r"^\s{4,}", "", line))
    return "\n".join(lines)


def _goes_on(lines: list[str], line: str) -> bool:
    """Return whether a line goes on with the paragraph before it."""
    begun = lines[-1] if lines else ""
    return bool(begun and line.strip()) and not begun.startswith(("- ", "**", " ", "|")) and line[0] not in "-|"


def _field_docs(kind: type) -> list[tuple[str, str]]:
    """Return the fields of a dataclass, each with the string that follows it in the source."""
    found = re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', inspect.getsource(kind), flags=re.M | re.S)
    return [(name, " ".join(text.split())) for name, text in found]


def _attribute_docs(kind: type) -> list[tuple[str, str]]:
    """Return the attributes that a class sets when it is made, each with the string that follows it in the source."""
    if "__init__" not in vars(kind) or dataclasses.is_dataclass(kind):
        return []
    source = inspect.getsource(kind.__init__)  # type: ignore[misc]
    found = re.findall(r'^ +self\.([a-z]\w*)\b[^\n]* = [^\n]*\n +"""(.*?)"""', source, flags=re.M | re.S)
    return [(name, " ".join(text.split())) for name, text in found]


def _markdown(text: str) -> str:
    """Return a help text in one line, escaped for a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _wrapped(page: str) -> str:
    """Wrap prose and lists at 100 columns, and leave tables, titles and code as they are."""
    lines: list[str] = []
    fenced = False
    for line in page.splitlines():
        fenced ^= line.startswith("```")
        if fenced or len(line) <= _COLUMNS or line.startswith(("|", "#", "    ", "```")):
            lines.append(line)
            continue
        indent = "  " if line.startswith(("- ", "  ")) else ""
        lines += textwrap.wrap(line, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def pages() -> Iterable[tuple[str, str]]:
    """Return the file name and the text of each page."""
    made = {"command-line": command_line(), "python": python(), "training": training()}
    return [(f"{name}.md", _wrapped(text)) for name, text in made.items()]


def main() -> None:
    """Write all pages."""
    for name, text in pages():
        (_FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
