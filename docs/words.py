"""The words of the generated pages: English as the code has it, Japanese from docs/words.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("words.yaml")
CANNOT_TRANSLATE = "docs/words.yaml has no Japanese under `texts` for:"


class Words:
    """Looks up texts in one language; keeps what it did not find, and says what is no longer used."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._all: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        self.missing: list[str] = []
        self.used: set[str] = set()

    def __call__(self, english: str) -> str:
        """A text of the code; itself where there is no translation, which is then in ``missing``."""
        if self.language == "en":
            return english
        self.used.add(english)
        if english not in self._all["texts"]:
            self.missing.append(english)
            return english
        return str(self._all["texts"][english])

    def __getitem__(self, title: str) -> str:
        """A page's or a section's heading, at level one."""
        return f"# {self(title)}"

    def intro(self, page: str) -> str:
        """The paragraph under a page's heading."""
        return str(self._all["intros"][page][self.language]).strip()

    def meaning(self, field: str) -> str:
        """What a field of a metrics file means.

        Raises:
            KeyError: nobody has said it yet.
        """
        return str(self._all["fields"][field][self.language])

    def metric(self, name: str) -> str:
        """What the exporter's metric means.

        Raises:
            KeyError: nobody has said it yet.
        """
        return str(self._all["metrics"][name][self.language])

    @property
    def metrics(self) -> list[str]:
        """The exporter's metrics, in the order in which it gives them."""
        return list(self._all["metrics"])

    def refusal(self, rule: str) -> str:
        """What holds where a rule that refuses has passed.

        Raises:
            KeyError: nobody has said it yet.
        """
        return str(self._all["refusals"][rule][self.language])

    @property
    def refusals(self) -> set[str]:
        """Every rule of which that is said."""
        return set(self._all["refusals"])

    @property
    def unused(self) -> set[str]:
        """Translations of texts that no page has."""
        return set(self._all["texts"]) - self.used
