"""Commands for Django's ``manage.py``."""
