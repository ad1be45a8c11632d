"""One step of each stage: what moves leader and follower. Knows nothing of nnU-Net, files or commands."""
