"""Figures: a table in, a plotly or Altair figure out. Imports neither streamlit nor torch; every axis has a title with its unit."""
