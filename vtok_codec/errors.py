"""Every error that a user can meet, each with the exit code of the command line.

The message is one line: what is wrong, and what to do. Codes follow the table in README.md. It names settings by
what they are, not by how a command line spells them: it is read in notebooks too.
"""

from __future__ import annotations


class VtokError(Exception):
    """Base of all errors raised on purpose by vtok."""

    exit_code = 1


class SettingError(VtokError):
    """What is asked for is out of its range, or has a name that nothing has: wrong usage."""

    exit_code = 2


class InputError(VtokError):
    """The input cannot be read as a video, or lacks what was asked for."""

    exit_code = 3


class FormatError(VtokError):
    """The input is not a `.vtk` file, or one that this version may not read."""

    exit_code = 4


class DamageError(FormatError):
    """A `.vtk` file is cut short or altered."""

    exit_code = 5


class ModelError(VtokError):
    """The model or its weights are missing, unreadable, or not those that the file was made with."""

    exit_code = 6


class OutputError(VtokError):
    """The output cannot be written: it exists, is the input, or its place refuses."""

    exit_code = 7


class TrainingError(VtokError):
    """A training run cannot start, or cannot go on."""

    exit_code = 8
