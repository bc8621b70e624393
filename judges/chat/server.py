"""A client for one OpenAI-compatible chat server: its address, one request, and the meaning of its errors."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from judges.chat.rubrics import GarbledReplyError, Message

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

REFUSED = (401, 403, 404)  # the same for every request: wrong key, no permission, no such model or address
NO_KEY = "none"  # the client wants some key even for servers that want none
UNREADABLE = (400, 413, 422)  # this request only: too long, or an option the server does not know


class Reply(NamedTuple):
    """A reply of the server."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    was_cut: bool
    """Whether `max_tokens` cut it off."""


class ServerRefusedError(RuntimeError):
    """No request to this server can succeed until its settings are corrected."""


class RequestRefusedError(RuntimeError):
    """This request cannot succeed, however often it is made."""


class TryAgainError(RuntimeError):
    """The server is busy, gone, slow or its reply is unreadable; `retry_after` is how many seconds it asks to wait, if it does."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class ChatServer:
    """Address of the judge's server, and the form of its requests.

    Raises:
        ValueError: if a number is out of its range.
    """

    model: str
    """The model's name, as the server knows it."""
    base_url: str | None = None
    """E.g. `http://localhost:8000/v1`; None for the default of the openai package."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, which is never stored or logged; None for servers that want none."""
    structured_output: Literal["json_schema", "json_object_schema", "json_object", "none"] = "json_schema"
    """How the server is made to answer in JSON: by a schema, by a schema in the way of llama-cpp-python, by its JSON mode, or by
    the instructions alone."""
    temperature: float | None = 0.0
    """None leaves it to the server, as some models demand."""
    max_tokens: int | None = 512
    """Tokens of a reply; None leaves it to the server."""
    timeout: float = 120.0
    """Seconds for one whole request."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"expected timeout > 0, got {self.timeout}. Give the seconds one request may take.")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"expected a finite temperature >= 0, got {self.temperature}. Use null for the server's own.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"expected max_tokens >= 1, got {self.max_tokens}. Use null for the server's own.")

    def api_key(self) -> str:
        """The key, read from the environment now.

        Raises:
            ValueError: if the variable is not set.
        """
        if self.api_key_env is None:
            return NO_KEY
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ValueError(
                f"expected the API key in the environment variable {self.api_key_env}, got none. "
                "Set it, or name another as api_key_env."
            )
        return key

    def connect(self) -> AsyncOpenAI:
        """A client for use within one event loop; retries are ours, so it makes none."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(api_key=self.api_key(), base_url=self.base_url, max_retries=0, timeout=self.timeout)

    async def ask(self, client: AsyncOpenAI, messages: Sequence[Message], schema: dict[str, object]) -> Reply:
        """Make one request.

        Raises:
            ServerRefusedError: wrong key, address or model.
            RequestRefusedError: this request is not understood.
            TryAgainError: anything that may pass.
            GarbledReplyError: if the reply is no chat completion.
        """
        import openai

        try:
            request = client.chat.completions.create(model=self.model, messages=messages, **self._options(schema))  # type: ignore[arg-type]
            completion = await asyncio.wait_for(request, self.timeout)
        except openai.APIStatusError as error:
            raise self._explain(error) from None
        except (TimeoutError, openai.APITimeoutError):
            raise TryAgainError(f"no reply within {self.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise TryAgainError(self._without_key(f"{error} ({error.__cause__!r})")) from None
        except (openai.APIResponseValidationError, ValueError) as error:
            raise GarbledReplyError(self._without_key(f"the server's reply cannot be read: {error}")) from None
        return read_completion(completion)

    def _options(self, schema: dict[str, object]) -> dict[str, Any]:
        formats: dict[str, object] = {
            "json_schema": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}},
            "json_object_schema": {"type": "json_object", "schema": schema},
            "json_object": {"type": "json_object"},
        }
        options = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "response_format": formats.get(self.structured_output),
        }
        return {name: value for name, value in options.items() if value is not None}

    def _explain(self, error: APIStatusError) -> Exception:
        status, text = error.status_code, self._without_key(str(error))
        if status in REFUSED or "insufficient_quota" in text:
            return ServerRefusedError(
                f"the server refused with status {status}: {text}. Check base_url {self.base_url}, model {self.model!r} "
                f"and the key in {self.api_key_env}."
            )
        if status in UNREADABLE:
            hint = f"If the server knows no {self.structured_output}, set structured_output to another of its values."
            return RequestRefusedError(f"the server could not read the request, status {status}: {text}. {hint}")
        wait = error.response.headers.get("retry-after", "")
        return TryAgainError(f"status {status}: {text}", float(wait) if wait.replace(".", "", 1).isdigit() else None)

    def _without_key(self, text: str) -> str:
        """`text` without the key, which some servers quote in their complaints, and of bounded length."""
        key = self.api_key()
        return (text.replace(key, "***") if key != NO_KEY else text)[:500]


def read_completion(completion: object) -> Reply:
    """Text and token counts of a chat completion.

    Raises:
        GarbledReplyError: if it is none.
    """
    from openai.types.chat import ChatCompletion

    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise GarbledReplyError(f"expected a chat completion, got {str(completion)[:120]!r}")
    choice, usage = completion.choices[0], completion.usage
    counts = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    return Reply(choice.message.content or "", *counts, was_cut=choice.finish_reason == "length")
