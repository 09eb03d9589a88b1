"""Pull requests, comments, commands and who may give them: on GitHub, or in a folder on a laptop."""

from __future__ import annotations

import os
from pathlib import Path

from sekisho.errors import ForgeError
from sekisho.forge.interface import Forge
from sekisho.params import ForgeParams


def open_forge(params: ForgeParams) -> Forge:
    """The forge named by ``SEKISHO_FORGE``: ``local:<folder>`` or ``github:<owner>/<repository>``.

    Raises:
        ForgeError: the variable is missing or names neither; nobody acts (``SEKISHO_ACTOR``); no token.
    """
    kind, _, where = os.environ.get("SEKISHO_FORGE", "").partition(":")
    if kind == "local" and where:
        from sekisho.forge.local import LocalForge

        return LocalForge(Path(where), params, actor=os.environ.get("SEKISHO_ACTOR", ""))
    if kind == "github" and where:
        from sekisho.forge.github import GitHubForge

        return GitHubForge(where, params, token=os.environ.get("GITHUB_TOKEN", ""))
    raise ForgeError(
        "SEKISHO_FORGE does not name a forge",
        remedy="set it to local:<folder> on a laptop or github:<owner>/<repository> in CI",
    )
