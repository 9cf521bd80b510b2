"""What the figures in README.md and RESULTS.md come from. Run as ``python -m benchmarks.NAME``; nothing here is imported by the product."""
