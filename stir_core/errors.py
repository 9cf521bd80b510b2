"""The error family: every refusal names the value that was wrong and the remedy, in one line.

They are caught in two places only: the command line (one line, exit code 2) and a workbench page (``st.error``). An exception that is not a
:class:`StirError` is a bug and keeps its traceback.
"""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of another library's error, cut to ``most`` characters, to be quoted in a refusal."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:most]


class StirError(Exception):
    """Base of all refusals. ``str(error)`` is one line that a user can act on."""


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
