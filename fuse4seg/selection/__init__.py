"""Which of the trained configurations, or which ensemble of them, to predict with, and what to do to its segmentations."""
