"""Why a request is refused, as the HTTP status and the message of its answer."""

from __future__ import annotations


class Refused(Exception):
    """A request that is not answered as it was meant.

    Attributes:
        status: The HTTP status, 4xx or 503.
        message: What is wrong, what is allowed and what to do.
        headers: Of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}
