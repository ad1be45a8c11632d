"""Raw datasets: the phantom, reading, and the integrity check."""
