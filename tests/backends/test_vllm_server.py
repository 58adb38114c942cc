"""Training through a server: a small policy behind real HTTP answers as vLLM does, and fails in every way it may."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from servers import Answer, as_json, serving

from astarpo.backends import probe
from astarpo.backends.base import open_backend
from astarpo.backends.tokens import Said, seed_of
from astarpo.checkpoint import Checkpoints
from astarpo.compare.arms import Arm
from astarpo.compare.snr import measure
from astarpo.errors import BackendError, SettingsError
from astarpo.footprint import footprint, shape_of_policy
from astarpo.journal import read_episodes, read_metrics
from astarpo.plan import plan
from astarpo.policy.base import Sessions
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.run import PolicySettings, Run
from astarpo.trainer import resume, train
from small import small_run


def slow(*values: Any) -> Any:
    """Values of a test that is left out by default."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Pretender:
    """Answers as a vLLM server: samples from weights of its own, which it reloads when told.

    Attributes:
        fault: what goes wrong next, by name; empty for nothing.
        after: replies before it does.
    """

    def __init__(self, policy: HuggingFacePolicy) -> None:
        self.policy = policy
        self.fault, self.after, self.replies, self.cleared = "", 0, 0, 0
        self.loaded: list[Path] = []
        self.let_go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, path: str, body: Any) -> Answer:
        with self._lock:
            return self._answer(path, body)

    def _answer(self, path: str, body: Any) -> Answer:
        if path == "/v1/models":
            return as_json({"data": [{"id": "small"}]})
        if path == "/collective_rpc":
            folder = Path(body["kwargs"]["weights_path"])
            self.loaded.append(folder)
            if self.fault == "takes no weights":
                return as_json({"error": {"message": "no"}}, 400)
            if self.fault != "stale":
                weights = load_file(folder / "model.safetensors")
                # Tied ones under each of their names: vLLM for processors reads its head from nowhere else.
                assert set(weights) == set(self.policy.model.state_dict())
                if self.fault == "half":
                    weights = {name: value for name, value in weights.items() if "layers.1." not in name}
                self.policy.model.load_state_dict(weights, strict=False)
            return as_json({"results": [None]})
        if path == "/reset_prefix_cache":
            self.cleared += 1
            return as_json({"success": self.fault != "kept keys"})
        assert path == "/v1/completions", path
        self.replies += 1
        if self.replies > self.after:
            if self.fault == "dies":
                return 0, {}, b""
            if self.fault == "hangs":
                self.let_go.wait(60)
            if self.fault == "nonsense":
                return as_json({"choices": [{"text": "hello"}]})
            if self.fault == "refuses":
                return as_json({"error": {"message": "too long"}}, 400)
        return as_json({"choices": [self._say(body)]})

    def _say(self, body: Any) -> dict[str, Any]:
        conversations = self.policy.open([(body["seed"],)])
        conversations.extend([0], [body["prompt"]])
        said = conversations.reply([0], body["max_tokens"], body["temperature"])[0]
        return {"token_ids": list(said.ids), "logprobs": {"token_logprobs": list(said.log_probs)}}


def run_through(url: str, model: Path, **over: Any) -> Run:
    """A run of three updates whose replies come from a server."""
    rollout = {"backend": "vllm", "vllm": {"url": url, "timeout": 30, "requests": 8}, **over.pop("rollout", {})}
    return small_run(model, rollout=rollout, **over)


@pytest.fixture
def server(small_model: Path) -> Iterator[tuple[Pretender, str]]:
    """A server that was started with the model of `small_model`."""
    pretender = Pretender(load_policy(PolicySettings(model=str(small_model)), "arithmetic"))
    with serving(pretender) as url:
        yield pretender, url


def test_a_run_through_a_server_trains_on_what_the_server_sampled(
    server: tuple[Pretender, str], small_model: Path, tmp_path: Path
) -> None:
    pretender, url = server
    result = train(run_through(url, small_model), tmp_path / "run")
    assert result.updates == 3
    lines = [line for line in read_metrics(tmp_path / "run") if "evaluation" not in line]
    assert all(line["mismatch/max"] < 1e-4 for line in lines)
    # Before training, and after each update.
    assert len(pretender.loaded) == pretender.cleared == 4
    assert not any(folder.exists() for folder in pretender.loaded)
    assert pretender.replies > 30


@pytest.mark.slow
def test_a_lagging_sampler_pushes_as_seldom_as_it_is_synchronised(
    server: tuple[Pretender, str], small_model: Path, tmp_path: Path
) -> None:
    _, url = server
    run = run_through(url, small_model, rollout={"sync_every": 3}, algorithm={"name": "oapl"})
    train(run, tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run") if "evaluation" not in line]
    assert [line.get("lag/max", 0.0) > 1e-4 for line in lines] == [False, True, True]
    assert [line.get("mismatch/max", 1.0) < 1e-4 for line in lines] == [True, False, False]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("dies", r"broke off \(RemoteProtocolError\) after 3 tries"),
        ("stale", "does not hold the policy's weights: log-probs of what it said differ by"),
        slow("hangs", "did not answer within 2 seconds after 3 tries"),
        slow("nonsense", "answered something else than was asked for"),
        slow("refuses", r"refused with 400 \(too long\)"),
        slow("half", "does not hold the policy's weights: log-probs of what it said differ by"),
        slow("kept keys", "kept keys of older weights"),
    ],
)
def test_a_server_that_fails_stops_the_run_in_one_sentence_and_nothing_is_lost(
    server: tuple[Pretender, str],
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    told: str,
) -> None:
    pretender, url = server
    monkeypatch.setattr("astarpo.backends.wire._pause", lambda _tries: 0.0)
    folder = tmp_path / "run"
    # The first update goes well, what happens from the second on does not.
    patience = 2 if fault == "hangs" else 30
    train(run_through(url, small_model, updates=1, rollout={"vllm": {"url": url, "timeout": patience}}), folder)
    pretender.fault, pretender.after = fault, pretender.replies + 20
    with pytest.raises(BackendError, match=told) as caught:
        resume(folder, updates=3)
    assert "\n" not in str(caught.value)
    assert f"the vLLM server at {url}" in str(caught.value)
    assert Checkpoints(folder, 3).latest().name == "000001"
    pretender.fault = ""
    pretender.let_go.set()
    assert resume(folder, updates=3).updates == 3
    assert len(read_episodes(folder / "episodes" / "000003.jsonl.gz")) == 12


def test_weights_that_someone_else_changes_between_updates_are_seen(
    server: tuple[Pretender, str], small_model: Path
) -> None:
    pretender, url = server
    backend = open_backend(run_through(url, small_model))
    policy = load_policy(PolicySettings(model=str(small_model)), "arithmetic")
    player = backend.player(policy)
    player.open([(1,)])
    pushed = len(pretender.loaded)
    player.open([(2,)])
    assert len(pretender.loaded) == pushed
    with torch.no_grad():
        pretender.policy.model.model.norm.weight.mul_(1.1)
    with pytest.raises(BackendError, match="does not hold the policy's weights"):
        player.open([(3,)])
    # A push mends it.
    player.open([(4,)])
    assert len(pretender.loaded) == pushed + 1
    backend.close()


def test_weights_that_were_handed_over_or_refused_lie_nowhere(
    server: tuple[Pretender, str], small_model: Path, tmp_path: Path
) -> None:
    pretender, url = server
    run = run_through(url, small_model, rollout={"vllm": {"url": url, "shared": str(tmp_path)}})
    policy = load_policy(PolicySettings(model=str(small_model)), "arithmetic")
    with closing(open_backend(run)) as backend:
        backend.player(policy).open([(1,)])
        assert pretender.loaded[0].parent == tmp_path
        assert list(tmp_path.iterdir()) == []
        pretender.fault, policy.version = "takes no weights", 1
        with pytest.raises(BackendError, match=r"refused with 400 \(no\)"):
            backend.player(policy).open([(1,)])
        assert list(tmp_path.iterdir()) == []
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # As if the disk were full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            with pytest.raises(BackendError, match="cannot write weights for the vLLM server"):
                backend.player(policy).open([(1,)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == []


def test_replies_of_a_rollout_that_was_broken_off_are_not_taken_for_those_of_the_next(
    server: tuple[Pretender, str], small_model: Path
) -> None:
    policy = load_policy(PolicySettings(model=str(small_model)), "arithmetic")
    with closing(open_backend(run_through(server[1], small_model))) as backend:
        player = backend.player(policy)

        def asked(first: int) -> Sessions:
            conversations = player.open([(first + slot,) for slot in range(4)])
            conversations.extend(range(4), [[20 + first + slot] * 5 for slot in range(4)])
            conversations.ask(range(4), 6, 1.0)
            return conversations

        def said(conversations: Sessions) -> dict[int, Any]:
            found: dict[int, Any] = {}
            while len(found) < 4:
                found.update(conversations.step())
            return found

        whole = said(asked(0))
        asked(100)
        assert said(asked(0)) == whole


def test_a_dry_run_and_a_ratio_of_gradients_are_played_through_the_server(
    server: tuple[Pretender, str], small_model: Path
) -> None:
    pretender, url = server
    run = run_through(url, small_model)
    found = plan(run)
    assert f"vLLM in the server at {url} generated these episodes, after a push" in " ".join(found.lines)
    assert pretender.replies > 20
    # A push before every batch, as an update has one.
    assert len(pretender.loaded) >= 2
    pretender.replies = 0
    with_values = run_through(url, small_model, algorithm={"name": "astar_po", "group_size": 2})
    measure([Arm("one", run, ""), Arm("two", with_values, "")], tasks=4, attempts=2, parts=2)
    # 8 episodes of the policy, 8 of the reference, and twice the three replies of the probe.
    assert pretender.replies >= 22


@pytest.mark.parametrize("asked", [plan, footprint, lambda run: measure([Arm("one", run, "")], tasks=4)])
def test_what_would_play_an_endpoint_to_train_it_is_refused(asked: Any, small_model: Path) -> None:
    run = small_run(small_model, rollout={"backend": "openai"})
    with pytest.raises(SettingsError, match="plays a model whose weights are elsewhere, so nothing here can be tra"):
        asked(run) if asked is not footprint else footprint(run, shape_of_policy(run))


def test_no_server_is_one_sentence_and_no_run(small_model: Path, tmp_path: Path) -> None:
    with serving(lambda *_: as_json({})) as url:
        pass
    with pytest.raises(BackendError, match=rf"the vLLM server at {url} cannot be reached"):
        train(run_through(url, small_model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed beside astarpo")
def test_vllm_that_is_not_installed_is_one_sentence_and_no_run(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no vllm is installed here"):
        train(small_run(small_model, rollout={"backend": "vllm"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("vllm", "told"),
    [
        ({"url": "http://x", "eager": True}, "rollout.vllm.eager does nothing unless url is empty"),
        ({"timeout": 3}, "rollout.vllm.timeout does nothing unless url names a server"),
    ],
)
def test_settings_of_the_other_kind_of_vllm_are_refused(vllm: dict[str, Any], told: str, small_model: Path) -> None:
    with pytest.raises(SettingsError, match=told):
        small_run(small_model, rollout={"backend": "vllm", "vllm": vllm})


@pytest.mark.slow
def test_the_probe_sees_every_matrix_of_a_trained_model() -> None:
    policy = load_policy(PolicySettings(), "arithmetic")

    class Other:
        """An engine that holds a policy of its own."""

        def __init__(self, own: HuggingFacePolicy) -> None:
            self.own, self.asked = own, dict[int, Any]()

        def submit(self, number: int, request: Any) -> None:
            self.asked[number] = request

        def finished(self) -> Any:
            told = []
            for number, request in self.asked.items():
                open_ = self.own.open([(request.seed,)])
                open_.extend([0], [request.ids])
                said = open_.reply([0], request.max_tokens, request.temperature)[0]
                told.append((number, Said(said.ids, said.log_probs)))
            self.asked = {}
            return told

    assert probe.check(policy, Other(policy), longest=120, tolerance=1e-3, name="it") < 1e-4
    other, unseen = load_policy(PolicySettings(), "arithmetic"), []
    for name, weight in other.model.named_parameters():
        if weight.dim() < 2:
            continue
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.5)
        try:
            probe.check(policy, Other(other), longest=120, tolerance=1e-3, name="it")
            unseen.append(name)
        except BackendError:
            pass
        with torch.no_grad():
            weight.copy_(kept)
    assert unseen == []
    assert probe.check(policy, Other(other), longest=120, tolerance=1e-3, name="it") < 1e-4


def test_seeds_differ_by_turn_and_key_and_not_by_process() -> None:
    seeds = {seed_of((key, 3), turn) for key in range(40) for turn in range(40)}
    assert len(seeds) == 1600
    assert seed_of((1, 2, 2**33), 4) == 1663626760
    assert all(0 <= seed < 2**31 for seed in seeds)
