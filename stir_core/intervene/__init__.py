"""Stage III: retrieve near actions, preview them, commit the best or none."""
