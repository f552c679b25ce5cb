"""What developers of this project run: private servers for tests, demo, benchmarks. Not shipped."""
