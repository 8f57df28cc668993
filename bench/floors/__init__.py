"""What the servers are measured against: the same work with nothing of ours around it."""
