"""Organisms: small models in which latent modes are planted, so that what an instrument says can be compared with the truth.

They are calibration objects: what is seen on them says whether an instrument works, and never that the method helps a real model.
"""
