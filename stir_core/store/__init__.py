"""Run folders, manifests, safetensors and JSON lines: the only code that knows paths and formats. No pickle anywhere."""
