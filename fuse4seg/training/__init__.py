"""Pre-training, the bi-level step, and the nnU-Net trainer that runs them."""
