"""One room, whose visitors hear what pages and tasks say."""
