"""From ``CONFIG`` to checked options, or ImproperlyConfigured."""
