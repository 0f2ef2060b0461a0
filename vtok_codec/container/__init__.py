VTK_SUFFIXES = (".vtk", ".vtok")
"""The suffixes of vtok's files. The second is for those to whom the first means the Visualization Toolkit's files."""
