"""The `.vtk` format: headers, records and indexes, read and written without torch."""

from __future__ import annotations

_SUFFIXES = (".vtk", ".vtok")
"""The suffixes of vtok's files. The second is for those to whom the first means the Visualization Toolkit's files."""


def is_vtk_name(name: str) -> bool:
    """Return whether the name of a file says that it is one of vtok's, whatever its case."""
    return name.lower().endswith(_SUFFIXES)
