"""Judges: a response in, a score and its reason out. Nothing here imports from the rest of the project."""
