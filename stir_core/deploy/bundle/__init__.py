"""The bundle: the folder in which a library is exported, its records, and reading untrusted ones."""
