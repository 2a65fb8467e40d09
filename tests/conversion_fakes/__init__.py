"""Tiny fake downloads in the published layout of each dataset: one module a converter module, of the same name.

Each has `make(folder, name)`, which writes the download of the converter `name` below `folder` and returns a `Fake`:
what a right conversion must hold, in world coordinates.
"""
