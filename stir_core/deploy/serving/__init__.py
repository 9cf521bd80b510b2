"""Answering with a bundle: the runtime on a plain Hugging Face model, and the OpenAI-compatible server."""
