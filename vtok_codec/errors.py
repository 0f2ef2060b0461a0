"""The errors that vtok raises on purpose, each with the exit code that the command line returns for it, and a warning.

`docs/reference/exit-codes.md` has a table of them. An error message is one line that says what is wrong and what to do
about it. Where a setting has a name of its own on the command line, that stands in brackets, since users of the Python
API see the message too.
"""

from __future__ import annotations


class VtokError(Exception):
    """The base class of all errors that vtok raises on purpose."""

    exit_code = 1
    """The exit code of the command line for this error."""


class VtokWarning(UserWarning):
    """Something that a call leaves out, such as clips that are too short. The command line prints it as one line."""


class SettingError(VtokError):
    """A setting is out of range, or names something that does not exist."""

    exit_code = 2


class InputError(VtokError):
    """The input cannot be read as a video, or does not contain what was asked for."""

    exit_code = 3


class FormatError(VtokError):
    """The input is not a `.vtk` file, or is one that this version cannot read."""

    exit_code = 4


class DamageError(FormatError):
    """A `.vtk` file is damaged or cut short."""

    exit_code = 5


class ModelError(VtokError):
    """A model or its weights are missing, unreadable, or not the ones that made the file."""

    exit_code = 6


class PackageError(VtokError):
    """A package that not everyone needs is not installed."""

    exit_code = 6


class OutputError(VtokError):
    """The output cannot be written: it already exists, is also the input, or its destination rejects it."""

    exit_code = 7


class TrainingError(VtokError):
    """A training run cannot start or cannot continue."""

    exit_code = 8


class CorpusError(VtokError):
    """A corpus is done but has more bad clips than admitted, is not whole, or cannot be made."""

    exit_code = 9
