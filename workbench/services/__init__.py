"""Read models: run folders in, plain tables out. Imports neither streamlit nor torch, so that every number can be tested alone."""
