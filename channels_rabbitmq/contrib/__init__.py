"""What binds the package to other software; nothing of it is imported unless it is used."""
