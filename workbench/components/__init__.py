"""Pieces of pages: they draw what the services computed and hold no numbers of their own."""
