"""How git is asked where only the commits themselves may answer."""

from __future__ import annotations

import os

# nothing kept beside the commits may stand in for them: no replace refs, no grafts
WHOLE_HISTORY = {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull}
