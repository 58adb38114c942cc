"""An endpoint over real HTTP: what is asked, what is counted, and one sentence for every way in which it may fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Answer, as_json, serving

from astarpo.backends.openai import EndpointPlayer, Pieces
from astarpo.backends.wire import Wire
from astarpo.cli import main
from astarpo.environments.rewards import score
from astarpo.errors import BackendError, SettingsError
from astarpo.evaluate import evaluate
from astarpo.generation import EndpointSettings
from astarpo.rollout import Play, collect
from astarpo.run import EvaluationSettings, RolloutSettings
from astarpo.types import Ended
from small import riddles, small_run, talk


def said(text: str | None, reason: str = "stop", read: int = 7, tokens: int = 3) -> Any:
    """An answer as an endpoint gives it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": read, "completion_tokens": tokens}}


def knows(_path: str, body: Any) -> Answer:
    """Adds one."""
    number = int(body["messages"][-1]["content"].partition("+")[0])
    return as_json(said(str(number + 1)))


def player(url: str, rules: bool = False, **settings: Any) -> EndpointPlayer:
    """Who plays through it."""
    own = EndpointSettings.parse({"base_url": url, "retries": 1, "timeout": 30.0, **settings})
    return EndpointPlayer("some-model", own, rules=rules)


def riddled(who: EndpointPlayer, tasks: int = 6, samples: int = 0) -> Any:
    """An evaluation on sums."""
    return evaluate(
        who,
        riddles(),
        settings=EvaluationSettings.parse({"tasks": tasks, "samples": samples}),
        rollout=RolloutSettings(),
    )


@given(st.text(), st.lists(st.text(), max_size=3))
def test_text_comes_back_from_its_pieces_and_messages_from_a_conversation(first: str, later: Sequence[str]) -> None:
    chat = Pieces.plain()
    ids = chat.first(first)
    for text in later:
        ids += [*chat.encode("yes"), *chat.next(text)]
    told = chat.messages(ids)
    assert [message["content"] for message in told[::2]] == [
        t.encode("utf-8", "replace").decode() for t in (first, *later)
    ]
    assert [message["content"] for message in told[1::2]] == ["yes"] * len(later)
    assert [message["role"] for message in told] == ["user", "assistant"] * len(later) + ["user"]


def test_an_endpoint_plays_and_its_tokens_and_their_price_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(path: str, body: Any) -> Answer:
        asked.append((path, body))
        return knows(path, body)

    monkeypatch.setenv("SOME_KEY", "sesame")
    with serving(answer) as url:
        who = player(f"{url}/v1/", price_read=2.0, price_said=10.0, key_variable="SOME_KEY")
        found = riddled(who, samples=2)
        who.close()
    # Sum 203 accepts no answer; six tasks from 200 on, greedily once and sampled twice.
    assert (found.n, found.success, found.sampled.success) == (6, pytest.approx(5 / 6), pytest.approx(5 / 6))
    report = who.report()
    assert report["requests"] == 18
    assert report["cost"] == pytest.approx(18 * (7 * 2.0 + 3 * 10.0) / 1e6)
    paths, bodies = zip(*asked, strict=True)
    assert set(paths) == {"/v1/chat/completions"}
    assert {body["key"] for body in bodies} == {"Bearer sesame"}
    assert {body["temperature"] for body in bodies} == {0.0, 1.0}
    assert len({body["seed"] for body in bodies if body["temperature"]}) == 12
    assert "sesame" not in repr(report)


def test_later_turns_send_the_whole_conversation_and_a_cut_reply_ends_the_episode() -> None:
    seen: list[list[dict[str, str]]] = []

    def answer(_path: str, body: Any) -> Answer:
        seen.append(body["messages"])
        return as_json(said("yes", "length" if len(body["messages"]) == 5 else "stop"))

    with serving(answer) as url:
        who = player(url)
        found = evaluate(
            who,
            talk(max_turns=5),
            settings=EvaluationSettings.parse({"tasks": 4, "samples": 0}),
            rollout=RolloutSettings(),
        )
        who.close()
    longest = max(seen, key=len)
    assert [message["role"] for message in longest] == ["user", "assistant", "user", "assistant", "user"]
    assert longest[2]["content"] == "you said 3 letters"
    assert found.ended[Ended.TOKEN_LIMIT] == 2


def test_no_more_requests_are_under_way_than_allowed() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def answer(path: str, body: Any) -> Answer:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.03)
        with lock:
            now -= 1
        return knows(path, body)

    with serving(answer) as url:
        who = player(url, concurrency=3)
        riddled(who, tasks=12)
        who.close()
    assert most == 3


def test_an_episode_goes_on_while_the_replies_of_all_others_are_awaited() -> None:
    second_turn, seen, lock = threading.Event(), list[int](), threading.Lock()

    def answer(_path: str, body: Any) -> Answer:
        with lock:
            seen.append(len(body["messages"]))
            number = len(seen)
        if len(body["messages"]) > 1:
            second_turn.set()
        if number > 1:
            assert second_turn.wait(10)
        return as_json(said("yes"))

    with serving(answer) as url:
        who = player(url)
        plays = [Play(f"chatty/1/{i}", 0, (7,)) for i in range(5)]
        limits = RolloutSettings()
        found = collect(who, talk(max_turns=2), plays, rollout=limits, temperature=1.0, reward=score)
        who.close()
    assert second_turn.is_set()
    assert [len(episode.turns) for episode in found] == [2] * 5


def test_a_busy_endpoint_is_asked_again_after_the_time_it_names() -> None:
    asked: list[float] = []

    def answer(path: str, body: Any) -> Answer:
        asked.append(time.monotonic())
        if len(asked) == 1:
            return as_json({"error": {"message": "slow down"}}, 429, **{"Retry-After": "0.2"})
        if len(asked) == 2:
            return as_json({"error": "later"}, 503)
        return knows(path, body)

    with serving(answer) as url:
        who = player(url, retries=2)
        assert riddled(who, tasks=1).success == 1.0
        who.close()
    assert asked[1] - asked[0] >= 0.2
    assert who.report()["retries"] == 2


def hang(_path: str, _body: Any) -> Answer:
    """Later than anyone waits."""
    time.sleep(0.6)
    return as_json(said("1"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            lambda *_: as_json({"error": {"message": "slow down"}}, 429, **{"Retry-After": "0"}),
            r"answered 429 \(slow do",
        ),
        (
            lambda *_: as_json({"error": {"message": "boom"}}, 500, **{"Retry-After": "0"}),
            r"500 \(boom\) after 2 tries",
        ),
        (
            lambda *_: as_json({"error": {"message": "who are you"}}, 401),
            r"refused with 401 \(who .* NO_KEY is not set",
        ),
        (lambda *_: (200, {}, b"<html>hello"), "answered what is no JSON .'<html>hello'"),
        (lambda *_: as_json({"choices": []}), "answered something else than was asked for"),
        (lambda *_: as_json(said(7)), "answered something else than was asked for"),  # type: ignore[arg-type]
        (lambda *_: (0, {}, b""), "broke off"),
        (lambda *_: (307, {"Location": "https://elsewhere/"}, b""), "answered 307 and points to 'https://elsewhere/'"),
        (hang, "did not answer within 0.3 seconds after 2 tries"),
    ],
)
def test_an_endpoint_that_fails_says_so_in_one_sentence(answer: Any, told: str) -> None:
    with serving(answer) as url:
        patience = 0.3 if answer is hang else 30.0
        who = player(url, timeout=patience, longest_wait=0.01, key_variable="NO_KEY")
        with pytest.raises(BackendError, match=told) as caught:
            riddled(who, tasks=3)
        who.close()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"the endpoint {url} ")


def test_an_endpoint_that_is_not_there_and_one_that_cannot_be() -> None:
    with serving(knows) as url:
        pass
    with pytest.raises(BackendError, match="cannot be reached at"):
        riddled(player(url, longest_wait=0.01))
    with pytest.raises(BackendError, match=r"cannot be (reached|read)|broke off"):
        riddled(player("nowhere", longest_wait=0.01))


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:8000/v1", "localhost:8000/v1", "ftp://somewhere", "http://"])
def test_an_address_that_cannot_be_is_told_before_anything_is_asked(address: str) -> None:
    with pytest.raises(BackendError, match=r"has an address that cannot be read, .*: write http://HOST:PORT\."):
        player(address)


def test_a_key_that_cannot_be_sent_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("s\u00e9same", "sesame\nsesame"):
        monkeypatch.setenv("SOME_KEY", key)
        with pytest.raises(SettingsError, match="the key in the environment variable SOME_KEY has characters") as told:
            player("http://127.0.0.1:1", key_variable="SOME_KEY")
        assert "same\u00e9" not in str(told.value)
        assert key not in str(told.value)


def test_whoever_hangs_up_does_not_wait_for_a_busy_endpoint() -> None:
    told: list[BackendError] = []
    with serving(lambda *_: as_json({}, 503, **{"Retry-After": "60"})) as url:
        wire = Wire(url, name="it", timeout=5.0, retries=9, advice="wait.")

        def ask() -> None:
            try:
                wire.ask("/x", {})
            except BackendError as error:
                told.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        while not wire.retried:
            time.sleep(0.01)
        wire.close()
        asking.join(10)
    assert not asking.is_alive()
    assert "was not asked again" in str(told[0])


def test_what_one_endpoint_answered_is_no_answer_of_another(tmp_path: Path) -> None:
    kept, asked = str(tmp_path / "answers.jsonl"), list[str]()

    def answer(path: str, body: Any) -> Answer:
        asked.append(path)
        return knows(path, body)

    with serving(answer) as url:
        for base in (f"{url}/one", f"{url}/two", f"{url}/one/"):
            who = player(base, answers=kept)
            riddled(who, tasks=1)
            who.close()
    assert asked == ["/one/chat/completions", "/two/chat/completions"]


def test_an_evaluation_that_was_stopped_goes_on_with_the_answers_it_has(tmp_path: Path) -> None:
    kept = tmp_path / "deep" / "answers.jsonl"
    asked = 0

    def breaks(path: str, body: Any) -> Answer:
        nonlocal asked
        asked += 1
        return knows(path, body) if asked <= 4 else as_json({"error": "no money"}, 402)

    with serving(breaks) as url:
        who = player(url, answers=str(kept), concurrency=1)
        with pytest.raises(BackendError, match=r"402 \(no money\).*answers.jsonl, so the same command goes on"):
            riddled(who)
        who.close()
        with kept.open("a") as file:
            file.write('{"question": "cut sho')
        asked = 0
        who = player(url, answers=str(kept))
        assert riddled(who).n == 6
        who.close()
    assert (asked, who.report()["answers_kept"]) == (2, 4)
    kept.write_text("what\n")
    with pytest.raises(BackendError, match=r"answers\.jsonl, the kept answers of an endpoint, cannot be read"):
        player(url, answers=str(kept))


def test_the_command_evaluates_an_endpoint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["astarpo", "evaluate", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    few = ("small.Riddles", "--evaluation.tasks=4", "--evaluation.samples=0")
    with serving(knows) as url:
        address = f"--rollout.openai.base_url={url}"
        code, out, _ = run("openai:some-model", *few, address, "--rollout.openai.price_said=1", "--json")
        assert code == 0
        told = json.loads(out)
        assert (told["success"], told["policy"]) == (0.75, "openai:some-model")
        assert told["endpoint"]["cost"] == pytest.approx(12e-6)
        code, out, _ = run("openai:some-model", *few, address)
        assert (code, "requests 4" in out) == (0, True)
        code, _, err = run("openai:some-model", *few, address, "--policy.device=cpu")
        assert (code, "--policy.device says how a model runs here" in err) == (2, True)
        code, _, err = run("openai:some-model", *few, address, "--rollout.backend=vllm")
        assert (code, "--rollout.backend says how a model runs here" in err) == (2, True)
    code, _, err = run("openai:", *few)
    assert (code, "names no model" in err) == (2, True)
    code, _, err = run("openai:some-model", *few, address, "--rollout.openai.retries=0")
    assert (code, "cannot be reached at" in err.strip().splitlines()[-1], "Traceback" in err) == (2, True, False)


def test_training_through_an_endpoint_is_refused(small_model: Path, tmp_path: Path) -> None:
    from astarpo.trainer import train

    with pytest.raises(SettingsError, match="nothing here can be trained"):
        train(small_run(small_model, rollout={"backend": "openai"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
