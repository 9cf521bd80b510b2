"""The error family: every refusal names the value that was wrong and the remedy, in one line.

Raised anywhere, caught at two borders only: the command line (one line, exit code 2) and a workbench page
(``st.error``). An exception that is not a :class:`StirError` is a bug and keeps its traceback.
"""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what another library's error says, cut to ``most`` characters: for a refusal of ours that passes it on."""
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
    """An artefact belongs to another model, hook or processing than the one at hand."""


class PromptError(StirError):
    """A prompt is empty, or longer than the model's context leaves room for."""


class SteeringError(StirError):
    """An intervention did not do what it promised (never fired, unknown hook, wrong shape)."""


class SelectionError(StirError):
    """A control basis cannot be selected from the given keys and qualities."""


class CurationError(StirError):
    """An edit of a library cannot be made, or its history cannot be read."""


class DeployError(StirError):
    """A library cannot be exported, imported, served or certified as asked."""
