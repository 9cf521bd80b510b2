"""From workbench to deployment: the bundle, its targets, the plain-transformers runtime and the server."""
