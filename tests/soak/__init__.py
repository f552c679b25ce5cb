"""``make soak``: a site over a cluster whose nodes are killed and restarted at random."""
