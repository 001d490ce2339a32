"""What a user says must have an effect: on the command line, and in a line of a manifest. Imports nothing heavy."""

from __future__ import annotations

from .methods import FIELD, SAVING, TUNABLE
from .names import OWNERS
from .options import Restore


def check_used(given: Restore, options: Restore) -> None:
    """Raise ValueError, in one sentence, for a field of ``given`` that the resolved ``options`` make no use of.
    ``given``: what the flags alone, or a line, say; a file may say more than its task needs, since it may be one for
    several."""
    if options.preset not in (None, options.steps):
        raise ValueError(
            f"preset {options.preset} is settings for {options.preset} steps, but steps is {options.steps} (flags, "
            "--config, a manifest's line); leave one of them out."
        )
    by = f", as {options.config} says" if options.config and given.task != options.task else ""
    is_task = f"the task is {options.task}{by}"
    needs = {
        "interacting": ("method hybrid", options.method == "hybrid", f"the method is {options.method}"),
        "downsample": ("the tasks sr2 ... sr16", not options.task or options.task.startswith("sr"), is_task),
        "keep_known": ("the inpaint tasks", not options.task or options.task.startswith("inpaint"), is_task),
        **{
            name: (f"the task {' and '.join(tasks)}", options.task in tasks or not options.task, is_task)
            for name, tasks in OWNERS.items()
        },
    }
    entry, but = FIELD[options.method], f"the method is {options.method}"
    for name in TUNABLE if entry.made else SAVING:
        knowing = ", ".join(method for method, one in FIELD.items() if name in one.uses)
        needs[name] = (f"the methods {knowing}", name in entry.uses, but)
    if "lr_x" in entry.uses and options.x_step == "exact":
        needs["lr_x"] = ("--x-step adam", False, f"the {'preset' if options.preset else 'setting'} has the exact one")
    for name, (what, used, but) in needs.items():
        if not used and getattr(given, name) != Restore.__dataclass_fields__[name].default:
            raise ValueError(f"--{name.rstrip('_').replace('_', '-')} goes with {what}, but {but}; change one of them.")
