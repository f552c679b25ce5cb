"""One event loop's channel layer, and which loop that is."""
