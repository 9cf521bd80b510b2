"""placeholder, filled next."""


def add(command) -> None:
    """Nothing yet."""
