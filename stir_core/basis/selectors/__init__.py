"""Selectors added to the built-in ones, one file each: ``<name>.py`` defines ``select`` and makes ``basis.selector = "<name>"`` valid."""
