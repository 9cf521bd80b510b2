"""Evaluation: paired comparisons of ways to answer, causal studies, sweeps, and their statistics."""
