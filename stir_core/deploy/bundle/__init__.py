"""The bundle: the one folder that a library is shipped in, what it says of itself, and reading one that somebody else wrote."""
