"""Plays `.vtk` files in a browser: a server on this machine decodes, and a page shows what it sends."""
