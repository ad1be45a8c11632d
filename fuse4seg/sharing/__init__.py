"""Models as archives: exported by one, installed by another who need not trust them."""
