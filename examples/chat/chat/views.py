"""Three pages: the lobby, where one chooses a room, the room, and what the layer is doing."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.text import slugify

from . import jobs

SUGGESTIONS = ("tea-break", "engineering", "rabbits")


def lobby(request: HttpRequest) -> HttpResponse:
    """Ask for a room; go there once the form has been sent."""
    wanted = request.GET.get("room")
    if wanted is None:
        return render(request, "chat/lobby.html", {"suggestions": SUGGESTIONS})
    room = slugify(wanted)[:50].strip("-")
    if not room:
        context = {"suggestions": SUGGESTIONS, "refused": wanted}
        return render(request, "chat/lobby.html", context, status=400)
    return redirect("room", room=room)


def room(request: HttpRequest, room: str) -> HttpResponse:
    """Show one room; its script opens the websocket."""
    sizes = [(size, f"{size:,}") for size in jobs.SIZES]
    return render(request, "chat/room.html", {"room": room, "sizes": sizes})


def status(request: HttpRequest) -> HttpResponse:
    """Show the numbers of the server process; its script opens the websocket."""
    return render(request, "chat/status.html")
