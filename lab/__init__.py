"""Fairytale Distillery: distil a teacher language model into a small student, stage by stage."""
