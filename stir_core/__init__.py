"""STIR on TransformerLens: harvest latent actions, select a control basis, replay actions under a gate.

Importing this package costs nothing: no torch, no transformer_lens. Import the stage that you need.
"""

__version__ = "0.1.0"
