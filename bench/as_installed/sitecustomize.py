"""MLServer as its own requirements install it: uvicorn parses with h11; httptools is an extra of ours."""

import sys

sys.modules["httptools"] = None  # type: ignore[assignment]
