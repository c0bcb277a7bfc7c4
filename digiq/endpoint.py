"""Models behind HTTP: OpenAI-compatible servers and Gemini, with retries, a rate limit, a budget and a cache.

Keys come from the environment and go only into a header: no config, manifest, cache or message holds one. Redirects are
not followed, because they could carry the key elsewhere.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import hashlib
import http.client
import json
import math
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from digiq.config import configclass
from digiq.errors import DigiQError

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MOST_BYTES = 16 * 2**20
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class EndpointError(DigiQError):
    """An endpoint refused, or did not answer despite retries; earlier answers are in the cache."""


class BudgetError(EndpointError):
    """No further call is allowed."""


def _plain_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an endpoint's url must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "a url must not hold a key; put the key into an environment variable and name that in key_env"
        )
    return url.rstrip("/")


@configclass
class EndpointConfig:
    """A model behind HTTP, and how it may be asked."""

    api: Literal["openai", "gemini"] = "openai"
    """``openai``: chat completions (vLLM, SGLang, llama.cpp, and services). ``gemini``: generateContent."""
    url: Annotated[str, AfterValidator(_plain_url)] = "http://127.0.0.1:8000/v1"
    """Base URL of the API, such as ``http://127.0.0.1:8000/v1``."""
    model: str = "default"
    """The server's name for the model."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; if it is not set, no key is sent."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Most tokens in an answer."""
    log_probs: bool = False
    """Ask for log-probabilities, which not every server has; that of an answer is the sum over its tokens."""
    several: bool = False
    """Ask for all candidates of a screen in one call (``n``); servers that support it read the prompt only once.
    Otherwise each candidate takes its own call."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest duration of a call in seconds, from its start to the last byte of its answer."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Retries of a call that timed out, broke off, was told to wait, or got an unreadable answer."""
    calls_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Most calls started per minute; none sets no limit."""
    concurrency: Annotated[int, Field(ge=1)] = 4
    """Number of simultaneous calls."""
    most_calls: Annotated[int, Field(ge=1)] | None = None
    """Budget of calls, including retries; answers from the cache are free."""
    most_tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget of tokens in prompts and answers, as the server counts them."""
    cache: Path | None = Path("runs/endpoint_cache")
    """Folder of answers, by the content of the question; none turns the cache off."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A message to the model; ``bytes`` are images (PNG, JPEG or WebP)."""

    role: Literal["system", "user", "assistant"]
    parts: Sequence[str | bytes]


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer of the model."""

    text: str
    log_prob: float = math.nan
    """Natural logarithm of the probability; NaN if the server does not return it."""
    cached: bool = False


class Endpoint:
    """Client of an endpoint; threads may share one.

    ``used`` counts ``calls``, ``cached``, ``retried``, ``failed``, ``prompt_tokens`` and ``answer_tokens``.
    """

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.used: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._next = 0.0
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, messages: Sequence[Message], *, seed: int = 0) -> Answer:
        """One answer; the same question with the same seed is asked only once.

        Raises:
          BudgetError: the budget of calls or tokens is used up.
          EndpointError: the endpoint refused, or did not answer.
        """
        return self.ask_several(messages, 1, seed=seed)[0]

    def ask_several(self, messages: Sequence[Message], n: int, *, seed: int = 0) -> list[Answer]:
        """``n`` answers from one call; raises the errors of :meth:`ask`."""
        path, payload = self._request(messages, seed, n)
        file = self._file(path, payload)
        if file is not None and (found := _read(file)) is not None:
            self._count(cached=1)
            return [dataclasses.replace(answer, cached=True) for answer in found]
        answers = self._ask(path, payload)
        if file is not None:
            _write(file, answers)
        return answers

    def ask_all(self, questions: Sequence[tuple[Sequence[Message], int]]) -> list[Answer | EndpointError]:
        """:meth:`ask` for many (messages, seed) at once, in order; a question that fails yields its error as the value.

        Raises:
          BudgetError: the budget of calls or tokens is used up; answers until then are in the cache.
        """
        rows = self.ask_all_several([(messages, 1, seed) for messages, seed in questions])
        return [row if isinstance(row, EndpointError) else row[0] for row in rows]

    def ask_all_several(
        self, questions: Sequence[tuple[Sequence[Message], int, int]]
    ) -> list[list[Answer] | EndpointError]:
        """:meth:`ask_several` for many (messages, n, seed) at once, like :meth:`ask_all`."""

        def one(question: tuple[Sequence[Message], int, int]) -> list[Answer] | EndpointError:
            messages, n, seed = question
            try:
                return self.ask_several(messages, n, seed=seed)
            except BudgetError:
                raise
            except EndpointError as error:
                return error

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            return list(pool.map(one, questions))

    def _ask(self, path: str, payload: dict[str, Any]) -> list[Answer]:
        problem = ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                self._count(retried=1)
            self._wait_for_turn()
            pause = min(_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
            try:
                return self._answer(self._call(path, payload))
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in _PASSING:
                    self._count(failed=1)
                    raise EndpointError(
                        f"{self.config.url}: refused ({problem}){self._mend(error.code)}."
                    ) from None
                told = error.headers.get("Retry-After", "")
                pause = min(float(told), _LONGEST_PAUSE_S) if told.replace(".", "", 1).isdigit() else pause
            except _Junk as error:
                problem = str(error)
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < self.config.retries:
                time.sleep(pause)
        self._count(failed=1)
        raise EndpointError(
            f"{self.config.url}: no answer after {self.config.retries + 1} calls ({problem}); check that it runs, then "
            "run the same command again: earlier answers are kept."
        )

    def _mend(self, code: int) -> str:
        if code in (401, 403):
            has = "is set" if os.environ.get(self.config.key_env) else "is not set"
            return f"; the environment variable {self.config.key_env} {has}"
        return "; check url and model" if code in (400, 404, 422) else ""

    def _call(self, path: str, payload: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.config.key_env, "") if self.config.key_env else "":
            name, value = (
                ("x-goog-api-key", key) if self.config.api == "gemini" else ("Authorization", f"Bearer {key}")
            )
            headers[name] = value
        request = urllib.request.Request(
            f"{self.config.url}{path}", json.dumps(payload).encode(), headers, method="POST"
        )
        deadline = time.monotonic() + self.config.timeout_s
        with self._opener.open(request, timeout=self.config.timeout_s) as response:
            # A server that sends its answer byte by byte never lets a read time out, so the clock is checked as well.
            data = b""
            while chunk := response.read1(2**16):
                data += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError("the answer does not end")
                if len(data) > _MOST_BYTES:
                    raise _Junk("the answer is too long")
            return data

    def _wait_for_turn(self) -> None:
        """Counts a call against the budget, and waits as long as the rate limit demands."""
        config = self.config
        with self._lock:
            if config.most_calls is not None and self.used["calls"] >= config.most_calls:
                raise BudgetError(
                    f"{config.url}: the budget of {config.most_calls} calls is used up; raise most_calls to go on: "
                    "earlier answers are kept."
                )
            tokens = self.used["prompt_tokens"] + self.used["answer_tokens"]
            if config.most_tokens is not None and tokens >= config.most_tokens:
                raise BudgetError(
                    f"{config.url}: the budget of {config.most_tokens} tokens is used up ({tokens}); raise most_tokens "
                    "to go on: earlier answers are kept."
                )
            self.used["calls"] += 1
            if config.calls_per_minute is None:
                return
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / config.calls_per_minute
        time.sleep(start - now)

    def _count(self, **more: int) -> None:
        with self._lock:
            self.used.update(more)

    def _request(self, messages: Sequence[Message], seed: int, n: int) -> tuple[str, dict[str, Any]]:
        config = self.config
        if config.api == "gemini":
            contents = [
                {"role": "model" if m.role == "assistant" else "user", "parts": [_gemini(p) for p in m.parts]}
                for m in messages
                if m.role != "system"
            ]
            payload: dict[str, Any] = {
                "contents": contents,
                "generationConfig": {
                    "temperature": config.temperature,
                    "maxOutputTokens": config.max_tokens,
                    "seed": seed,
                },
            }
            if n > 1:
                payload["generationConfig"]["candidateCount"] = n
            if told := [_gemini(p) for m in messages if m.role == "system" for p in m.parts]:
                payload["systemInstruction"] = {"parts": told}
            return f"/models/{urllib.parse.quote(config.model, safe='')}:generateContent", payload
        said = [{"role": m.role, "content": [_openai(p) for p in m.parts]} for m in messages]
        for message in said:  # not every server accepts a list where the content is only text
            content = message["content"]
            if len(content) == 1 and isinstance(content[0], dict) and content[0]["type"] == "text":
                message["content"] = content[0]["text"]  # type: ignore[assignment]
        payload = {
            "model": config.model,
            "messages": said,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "seed": seed,
        }
        payload |= {"n": n} if n > 1 else {}
        return "/chat/completions", payload | ({"logprobs": True} if config.log_probs else {})

    def _answer(self, data: bytes) -> list[Answer]:
        try:
            found = json.loads(data)
            if self.config.api == "gemini":
                said, usage = found["candidates"], found.get("usageMetadata", {})
                answers = [
                    Answer("".join(part.get("text", "") for part in one["content"]["parts"])) for one in said
                ]
                counts = usage.get("promptTokenCount", 0), usage.get("candidatesTokenCount", 0)
            else:
                said, usage = found["choices"], found.get("usage") or {}
                answers = [Answer(_text(one["message"]), _log_prob(one.get("logprobs"))) for one in said]
                counts = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
            prompt, told = int(counts[0] or 0), int(counts[1] or 0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Junk(f"the answer cannot be read: {data[:60]!r}") from error
        if not answers:
            raise _Junk("the answer has no choices")
        self._count(prompt_tokens=prompt, answer_tokens=told)
        return answers

    def _file(self, path: str, payload: dict[str, Any]) -> Path | None:
        if self.config.cache is None:
            return None
        asked = json.dumps([self.config.api, self.config.url, path, payload], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        return self.config.cache / key[:2] / f"{key}.json"


class _Junk(Exception):
    """An answer that cannot be read."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _image_kind(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if data[8:12] == b"WEBP" else "image/png"


def _openai(part: str | bytes) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{_image_kind(part)};base64,{base64.b64encode(part).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _gemini(part: str | bytes) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    return {"inline_data": {"mime_type": _image_kind(part), "data": base64.b64encode(part).decode()}}


def _text(message: dict[str, Any]) -> str:
    """The text of a message; a tool call is turned into the text in which such models write it."""
    text = message.get("content") or ""
    if not isinstance(text, str):
        text = "".join(part.get("text", "") for part in text)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        said = json.dumps({"name": function["name"], "arguments": function["arguments"]})
        text += f"\n<tool_call>\n{said}\n</tool_call>"
    return text


def _log_prob(told: Any) -> float:
    tokens = told.get("content") if isinstance(told, dict) else None
    return float(sum(token["logprob"] for token in tokens)) if tokens else math.nan


def _read(file: Path) -> list[Answer] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["answers"]
        return [Answer(str(text), math.nan if p is None else float(p)) for text, p in found] or None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # absent or damaged, so the question is asked again


def _write(file: Path, answers: Sequence[Answer]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
    rows = [(a.text, None if math.isnan(a.log_prob) else a.log_prob) for a in answers]
    temporary.write_text(json.dumps({"answers": rows}), encoding="utf-8")
    temporary.replace(file)


__all__ = ["Answer", "BudgetError", "Endpoint", "EndpointConfig", "EndpointError", "Message"]
