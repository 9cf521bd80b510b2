"""Stage I: sample rollouts, capture states at their control points, and turn right-minus-wrong differences into latent actions."""
