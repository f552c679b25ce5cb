"""A site as users have them: views, a websocket, a Celery worker, and tests."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
