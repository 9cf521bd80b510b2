"""Language models: catalogue, loading, steering and the one decode loop. The only importer of transformer_lens."""
