"""A report that opens in any browser: what went in, what was fused, and what came out."""
