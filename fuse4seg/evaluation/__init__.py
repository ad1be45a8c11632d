"""Scores of segmentations."""
