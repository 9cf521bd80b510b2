"""Reasoners whose steps are latents: continuous vectors that are fed in place of written steps."""
