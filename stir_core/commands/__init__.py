"""The commands of ``stir`` that have more than a few lines, and what they print."""
