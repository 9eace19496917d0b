"""The two exceptions that people meet: a problem explained in both languages, and a stop that was asked for."""

from __future__ import annotations


class Problem(Exception):
    """Something went wrong that a person can mend.

    Both texts say what happened, why, and what to do. Korean texts put no particle after an inserted word.
    """

    def __init__(self, en: str, ko: str) -> None:
        super().__init__(en, ko)
        self.en = en
        self.ko = ko

    def __str__(self) -> str:
        return self.en

    def text(self, language: str) -> str:
        """The message in ``ko`` or ``en``."""
        return self.ko if language == "ko" else self.en


class Stopped(Exception):
    """The stage was asked to stop and has saved what it had."""
