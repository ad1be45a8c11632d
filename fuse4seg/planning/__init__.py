"""Dataset fingerprint, experiment planning and preprocessing."""
