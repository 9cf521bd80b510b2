"""The error family: every refusal names the value that was wrong and the remedy, in one line.

They are caught in two places only: the command line (one line, exit code 2) and a workbench page (``st.error``). So are the faults of disks
and folders (``OSError``), with the remedy that :func:`line_of` adds. Any other exception is a bug and keeps its traceback.
"""

import errno


def escaped(text: str) -> str:
    """Text in one line: line breaks, control characters and lone surrogates are written as escapes, e.g. ``\\n`` and ``\\x1b``."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def line_of(error: BaseException) -> str:
    """The one line in which the command line and the pages show an error; of an ``OSError``, with the file's name and the remedy."""
    if not isinstance(error, OSError) or error.strerror is None:
        return escaped(str(error)) if isinstance(error, StirError) else first_line(error)
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None) or "a file"
    return escaped(f"{files} cannot be read or written ({error.strerror}): {_REMEDIES.get(error.errno or 0, 'check that place')}")


_KEPT = "then give the same command again; finished results are kept"
_REMEDIES = {
    errno.ENOSPC: f"free space on that disk, {_KEPT}",
    errno.EDQUOT: f"free space in your quota, {_KEPT}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {_KEPT}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {_KEPT}",
    errno.EROFS: "that disk is read-only, so name a folder on another one",
    errno.EACCES: "allow reading and writing there, or name another place",
    errno.EPERM: "allow reading and writing there, or name another place",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EISDIR: "that is a folder, so name a file",
    errno.ENOTDIR: "a part of that path is a file, so name another place",
    errno.ENOENT: "check that the folder is still there",
    errno.EIO: "the disk reports a fault, so copy what can be read to another one",
}
"""What to do about an ``OSError``, by its number."""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of another library's error, cut to ``most`` characters, to be quoted in a refusal."""
    return escaped(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:most])


class StirError(Exception):
    """Base of all refusals. ``str(error)`` is one line that a user can act on."""

    def __init__(self, message: object = ""):
        super().__init__(escaped(str(message)))


class ConfigError(StirError):
    """A configuration key or value is not usable."""


class ModelError(StirError):
    """A model cannot be found, loaded or used as asked."""


class DataError(StirError):
    """A task, data file or problem is missing or malformed."""


class StoreError(StirError):
    """A run folder, manifest or tensor file is missing, truncated or malformed."""


class MismatchError(StoreError):
    """An artefact was made with another model, hook or processing than the present one."""


class PromptError(StirError):
    """A prompt is empty, or too long for the model's context."""


class LongPromptError(PromptError):
    """A prompt leaves too little of the model's context for an answer."""


class SteeringError(StirError):
    """An intervention failed (never fired, unknown hook, wrong shape), or its strength is out of range."""


class SelectionError(StirError):
    """A control basis cannot be selected from the given keys and qualities."""


class CurationError(StirError):
    """An edit of a library cannot be made, or its history cannot be read."""


class DeployError(StirError):
    """A library cannot be exported, imported, served or certified as asked."""


class BudgetSpent(KeyboardInterrupt):
    """A call has used up its time or tokens: it ends as at Ctrl-C, with every finished result kept. Not a fault."""


FAULTS = (StirError, OSError)
"""What the borders and the lists of runs catch: refusals, and faults of disks and folders."""
