"""The stages of a run, one file each. ``pipeline`` makes them in the order of ``config.STAGES``."""
