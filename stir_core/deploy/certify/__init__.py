"""Certificates: the workbench and a deployed bundle on the same prompts, and their differences."""
