"""The benchmarks of README.md and RESULTS.md: ``python -m benchmarks.NAME``. The product imports nothing from here."""
