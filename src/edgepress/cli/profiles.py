"""The option ``--profiles``, which export and the commands of ``engine`` share."""

from __future__ import annotations

from typing import Annotated, cast, get_args

import typer

from edgepress.artifact.tensorrt_layout import Profiles
from edgepress.errors import InputError

ProfileChoice = Annotated[
    str | None,
    typer.Option(
        "--profiles",
        help="A decoder's optimization profiles: one for prompts and single tokens, or two, one for each. "
        "Default: what the export says, else two for tensorrt, one for tensorrt_rtx.",
    ),
]


def chosen_profiles(name: str | None) -> Profiles | None:
    """What ``--profiles`` says.

    Raises:
        InputError: neither one nor two.
    """
    for choice in get_args(Profiles):
        if name == choice:
            return cast(Profiles, choice)
    if name is not None:
        raise InputError(f"--profiles {name!r}: an engine has one or two")
    return None
