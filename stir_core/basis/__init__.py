"""Stage II: a sparse, diverse control basis, and the geometry of the keys. No model, no torch."""
