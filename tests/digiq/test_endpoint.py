"""Models behind HTTP: what is sent, what comes back, and what happens when the server misbehaves. A local double serves."""

from __future__ import annotations

import json
import math
import threading

import pytest

from digiq import endpoint as endpoints
from digiq.config import to_dict
from digiq.endpoint import BudgetError, Endpoint, EndpointConfig, EndpointError, Message
from digiq.errors import ConfigError
from tests.digiq.data.formats import png
from tests.digiq.served import Served, drip, hang

HELLO = [Message("system", ["be brief"]), Message("user", [png("a", 0), "hello"])]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoints, "_PAUSE_S", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def config(served: Served, **settings) -> EndpointConfig:
    return EndpointConfig(**{"url": served.url, "cache": None, "timeout_s": 2.0, **settings})


def test_what_is_sent_and_what_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with Served(lambda payload: "hi").running() as served:
        endpoint = Endpoint(config(served, key_env="MY_KEY", log_probs=True, model="m", cache=tmp_path))
        answer = endpoint.ask(HELLO, seed=3)
    assert (answer.text, answer.log_prob, answer.cached) == ("hi", -0.75, False)
    ((path, headers, payload),) = served.asked
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sk-secret"
    assert payload["messages"][0] == {"role": "system", "content": "be brief"}
    image, text = payload["messages"][1]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,") and text["text"] == "hello"
    assert (payload["model"], payload["seed"], payload["logprobs"]) == ("m", 3, True)
    assert dict(endpoint.used) == {"calls": 1, "prompt_tokens": 100, "answer_tokens": 10}
    stored = [file.read_text() for file in tmp_path.rglob("*.json")]
    assert len(stored) == 1 and "sk-secret" not in stored[0] + json.dumps(
        to_dict(endpoint.config), default=str
    )


def test_gemini_is_asked_in_its_own_form(monkeypatch):
    monkeypatch.setenv("GEMINI_KEY", "g-secret")
    body = {
        "candidates": [{"content": {"parts": [{"text": "h"}, {"text": "i"}]}}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2},
    }
    with Served(lambda payload: (200, json.dumps(body).encode())).running() as served:
        endpoint = Endpoint(config(served, api="gemini", model="gemini-x", key_env="GEMINI_KEY"))
        assert endpoint.ask(HELLO).text == "hi"
    ((path, headers, payload),) = served.asked
    assert path == "/v1/models/gemini-x:generateContent"
    assert {k.lower(): v for k, v in headers.items()}["x-goog-api-key"] == "g-secret"
    assert payload["systemInstruction"] == {"parts": [{"text": "be brief"}]}
    assert payload["contents"][0]["parts"][0]["inline_data"]["mime_type"] == "image/png"
    assert endpoint.used["prompt_tokens"] == 7


def test_the_same_question_is_asked_once(tmp_path):
    with Served(lambda payload: f"seed {payload['seed']}").running() as served:
        first = Endpoint(config(served, cache=tmp_path))
        assert [first.ask(HELLO, seed=s).text for s in (1, 2, 1)] == ["seed 1", "seed 2", "seed 1"]
        again = Endpoint(config(served, cache=tmp_path))
        answer = again.ask(HELLO, seed=2)
        assert (answer.text, answer.cached, again.used["calls"]) == ("seed 2", True, 0)
        assert math.isclose(answer.log_prob, -0.75)
        other = Endpoint(config(served, cache=tmp_path, model="other"))
        assert other.ask(HELLO, seed=2).cached is False
        for file in tmp_path.rglob("*.json"):
            file.write_text("{")  # damaged: asked again
        assert again.ask(HELLO, seed=2).cached is False
    assert len(served.asked) == 4


def failing(times: int, *what):
    left = [times]

    def answer(payload):
        left[0] -= 1
        return what[0] if left[0] >= 0 else "fine"

    return answer


@pytest.mark.parametrize(
    "fault",
    [
        (503, b"busy"),
        (429, b"slow down", {"Retry-After": "0.01"}),
        (200, b"junk"),
        (200, b'{"choices": []}'),
        (200, b'{"choices": [{"message": 3}]}'),
        (200, b"[" * 5000),
        hang,
        drip,
    ],
)
def test_what_passes_is_tried_again(fault):
    with Served(failing(2, fault)).running() as served:
        endpoint = Endpoint(config(served, timeout_s=0.3))
        assert endpoint.ask(HELLO).text == "fine"
        assert (endpoint.used["calls"], endpoint.used["retried"]) == (3, 2)


def test_what_does_not_pass_is_an_error_that_says_so():
    with Served(lambda payload: (503, b"busy")).running() as served:
        endpoint = Endpoint(config(served, retries=2))
        with pytest.raises(EndpointError, match=r"no answer after 3 calls \(HTTP 503 .*kept"):
            endpoint.ask(HELLO)
        assert (endpoint.used["calls"], endpoint.used["failed"]) == (3, 1)
    with pytest.raises(EndpointError, match="no answer after 1 calls"):  # nobody listens there any more
        Endpoint(config(served, retries=0)).ask(HELLO)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_tried_again_and_holds_no_key(status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with Served(lambda payload: (status, b"no")).running() as served:
        with pytest.raises(EndpointError, match=f"refused \\(HTTP {status}") as error:
            Endpoint(config(served, key_env="MY_KEY")).ask(HELLO)
        assert "sk-secret" not in str(error.value) and len(served.asked) == 1
        assert status != 401 or "MY_KEY is set" in str(error.value)


def test_a_redirect_does_not_carry_the_key_elsewhere(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with Served(lambda payload: "stolen").running() as other:
        away = (302, b"", {"Location": f"{other.url}/chat/completions"})
        with (
            Served(lambda payload: away).running() as served,
            pytest.raises(EndpointError, match="refused \\(HTTP 302"),
        ):
            Endpoint(config(served, key_env="MY_KEY")).ask(HELLO)
        assert other.asked == []


def test_budgets_end_the_asking_and_keep_what_was_answered(tmp_path):
    with Served(lambda payload: "x").running() as served:
        calls = Endpoint(config(served, most_calls=2, cache=tmp_path, concurrency=1))
        with pytest.raises(BudgetError, match="budget of 2 calls"):
            calls.ask_all([(HELLO, seed) for seed in range(4)])
        assert calls.ask(HELLO, seed=1).cached
        tokens = Endpoint(config(served, most_tokens=150))
        tokens.ask(HELLO, seed=1)
        tokens.ask(HELLO, seed=2)
        with pytest.raises(BudgetError, match="budget of 150 tokens"):
            tokens.ask(HELLO, seed=3)


def test_so_many_calls_are_under_way_at_once_and_answers_keep_their_order():
    gate = threading.Barrier(3, timeout=5)

    def answer(payload):
        gate.wait()
        return str(payload["seed"])

    with Served(answer).running() as served:
        answers = Endpoint(config(served, concurrency=3, timeout_s=10)).ask_all(
            [(HELLO, s) for s in range(9)]
        )
    assert [a.text for a in answers] == [str(s) for s in range(9)] and served.most_at_once == 3


def test_one_question_that_fails_does_not_cost_the_others():
    with Served(lambda payload: (400, b"") if payload["seed"] == 1 else "x").running() as served:
        answers = Endpoint(config(served)).ask_all([(HELLO, s) for s in range(3)])
    assert [isinstance(a, EndpointError) for a in answers] == [False, True, False]


def test_calls_begin_at_the_rate_that_is_set(monkeypatch):
    slept = []
    monkeypatch.setattr(endpoints.time, "sleep", slept.append)
    with Served(lambda payload: "x").running() as served:
        endpoint = Endpoint(config(served, calls_per_minute=60.0))
        for seed in range(3):
            endpoint.ask(HELLO, seed=seed)
    # The clock hardly moves, so the second call waits for a second and the third for two.
    assert [round(s) for s in slept if s] == [0, 1, 2] or [round(s) for s in slept if s > 0.5] == [1, 2]


def test_several_answers_are_one_call_and_one_file(tmp_path):
    def answer(payload):
        choices = [{"message": {"content": f"{payload['seed']}/{k}"}} for k in range(payload["n"])]
        return 200, json.dumps({"choices": choices}).encode()

    with Served(answer).running() as served:
        endpoint = Endpoint(config(served, cache=tmp_path))
        assert [a.text for a in endpoint.ask_several(HELLO, 3, seed=7)] == ["7/0", "7/1", "7/2"]
        assert all(a.cached for a in endpoint.ask_several(HELLO, 3, seed=7)) and len(served.asked) == 1
        (found,) = endpoint.ask_all_several([(HELLO, 2, 8)])
        assert [a.text for a in found] == ["8/0", "8/1"]


def test_tool_calls_are_texts():
    call = {"function": {"name": "mobile_use", "arguments": '{"action": "wait"}'}}
    body = json.dumps({"choices": [{"message": {"content": None, "tool_calls": [call]}}]}).encode()
    with Served(lambda payload: (200, body)).running() as served:
        text = Endpoint(config(served)).ask(HELLO).text
    from digiq.dialects.mobile_use import MobileUse

    assert MobileUse().parse(text, (10, 10)).type.name == "WAIT"


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://user:pw@x/v1", "http://x/v1?key=sk", "v1"])
def test_a_url_that_holds_a_key_or_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="url"):
        EndpointConfig(url=url)
