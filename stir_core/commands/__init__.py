"""The commands of ``stir`` that have more than a few lines, and their output."""
