"""One schedule executed call by call in threads, to examine a finding and to check the search against the real flow."""

from __future__ import annotations

from tests.proof.actors import Actor
from tests.proof.schedules import Scene, is_call


def run_schedule(scene: Scene, schedule: str) -> str | None:
    """Execute the schedule on the scene's own stores. Return the first violation. Invariants are checked after each call."""
    actors = {name: Actor(run, lambda call: not is_call(call)) for name, run in scene.executors.items()}
    try:
        for word in schedule.split():
            name, _, count = word.rstrip("!").partition("*")
            if word.endswith("!"):
                actors[name].crash()
                continue
            for _ in range(int(count or 1)):
                actors[name].step()
                if fault := _fault(scene, name, actors[name]):
                    return fault
        return None if any(actor.call for actor in actors.values()) else next(scene.faults_at_end(scene.stores), None)
    finally:
        for actor in actors.values():
            if actor.call is not None:
                actor.crash()


def _fault(scene: Scene, name: str, actor: Actor) -> str | None:
    if actor.failure is not None and not isinstance(actor.failure, scene.may_fail):
        return f"{name} failed: {type(actor.failure).__name__}: {actor.failure}"
    return next(scene.faults(scene.stores), None)
