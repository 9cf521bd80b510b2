"""Certificates: the workbench and what a bundle is deployed with, given the same prompts, and whether anything differs."""
