"""Names, and messages as bytes on the wire."""
