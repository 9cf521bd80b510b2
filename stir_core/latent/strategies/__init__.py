"""Latent strategies, one file each: ``<name>.py`` defines a subclass of ``Reasoner`` with that name, and it can be trained by its name."""
