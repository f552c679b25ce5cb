"""Commands for Django's ``manage.py``, each in the module of its name."""
