"""What the process holds in memory: decides, never waits."""
