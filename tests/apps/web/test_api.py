"""The app as programs see it, over HTTP."""

import base64
import io
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

import gensift
from gensift.randomness import candidate_seeds
from samplers.policy.rollout import PolicyRollout

GENERATE = "/generate_picture"
POLICY = "/compare_policy"
FEW = {"steps": 6}


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def runs(options):
    return sorted(path.name for path in Path(options.output).iterdir() if path.name[0] != ".")


def test_a_picture_is_the_one_that_the_search_finds_unwatched(client):
    found = client.predict("two blue squares", "ttsnap", 4, 3, FEW, api_name=GENERATE)
    pipe = gensift.load_pipeline("shapes-flux", device="cpu")
    sampler = gensift.TTSnap(gensift.load_reward("shapes-clip"), num_candidates=4)
    seeds = [candidate_seeds(3, 0, 4)]
    expected = sampler(pipe, "two blue squares", seeds=seeds, num_inference_steps=6)
    assert found["status"] == "done"
    assert int(found["seed"]) == expected.seeds[0]
    assert found["reward"] == pytest.approx(expected.rewards[0], abs=1e-6)
    np.testing.assert_array_equal(pixels(found["picture"]), np.asarray(expected.images[0]))
    assert found["cost"]["nfe"] == expected.cost.nfe


def test_the_code_that_comes_with_a_winner_draws_it(client, tmp_path, monkeypatch):
    found = client.predict("a green cross", "ttsnap", 2, 1, FEW, api_name=GENERATE)
    monkeypatch.chdir(tmp_path)
    exec(found["code"], {})
    with Image.open(tmp_path / "winner.png") as picture:
        difference = np.abs(np.asarray(picture, int) - pixels(found["picture"]).astype(int))
    assert difference.max() <= 1


def test_clients_at_the_same_time_each_get_their_own(address, options):
    before = set(runs(options))
    asked = ["two red circles", "three red circles", "two blue circles", "a blue circle"]
    found = {}

    def ask(prompt):
        found[prompt] = Client(address, verbose=False).predict(
            prompt, "best-of-n", 2, 0, {"steps": 2}, api_name=GENERATE
        )

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {prompt: result["prompt"] for prompt, result in found.items()} == {p: p for p in asked}
    assert len({result["run"] for result in found.values()}) == len(asked)
    assert set(runs(options)) - before == {result["run"] for result in found.values()}


def test_a_search_cut_short_leaves_the_model_as_it_was(address, options):
    client = Client(address, verbose=False)
    fresh = client.predict("a red cross", "ttsnap", 3, 5, FEW, api_name=GENERATE)
    before = runs(options)
    long = client.submit("a red cross", "ttsnap", 16, 9, {"steps": 50}, api_name=GENERATE)
    for update in long:
        if update.get("done"):
            client.predict(api_name="/cancel")
            break
    assert long.result(timeout=60) == {"status": "stopped"}
    assert 0 < update["done"] < update["total"]
    assert runs(options) == before
    again = client.predict("a red cross", "ttsnap", 3, 5, FEW, api_name=GENERATE)
    assert again["picture"] == fresh["picture"] and again["reward"] == fresh["reward"]


def test_another_client_cannot_cancel_the_work(address):
    mine, other = Client(address, verbose=False), Client(address, verbose=False)
    job = mine.submit("a red cross", "best-of-n", 4, 5, FEW, api_name=GENERATE)
    assert other.predict(api_name="/cancel") == 0
    assert job.result(timeout=60)["status"] == "done"


@pytest.mark.parametrize(
    ("endpoint", "arguments", "part"),
    [
        (GENERATE, ("x" * 10_000,), "10000 characters"),
        (GENERATE, ("a", "../../ttsnap"), "not a registered sampler"),
        (GENERATE, ("a", "ttsnap", 10**9), "at most 16"),
        (GENERATE, ("a", "ttsnap", "many"), "num_candidates"),
        (GENERATE, ("a", "ttsnap", 2, 0, {"model": "../.."}), "not offered"),
        (GENERATE, ("a", "ttsnap", 2, 0, {"model": "/etc"}), "not offered"),
        (GENERATE, ("a", "ttsnap", 2, 0, {"width": 10**6}), "width"),
        (GENERATE, ("a", "ttsnap", 2, 0, {"model": "countdown-llada"}), "writes texts"),
        (GENERATE, ("a", "odd", 2, 0, {}), "pictures"),
        ("/generate_texts", ("use 3 7 15 to make 36", "ttsnap", 2), "texts"),
        ("/generate_texts", ("no problem", "odd", 2), "Countdown"),
        ("/compare_cache", ("a", "/etc/passwd"), "no run"),
        ("/compare_cache", ("a", "ertacache", "../.."), "not offered"),
        ("/compare_cache", ("a", "ertacache", "shapes-flux", 0, {"steps": 10**6}), "at most 50"),
        (POLICY, ("fly",), "not a task"),
        (POLICY, ("push", "ertacache", 1, 0, {"steps": 2}), "No profile of ertacache"),
        (POLICY, ("push", "/etc/passwd"), "not offered"),
        (POLICY, ("push", None), "give the sampler policy and a cache"),
        (POLICY, ("push", "bac", 10**6), "at most 16"),
        (POLICY, ("push", "bac", 1, 0, {"model": "shapes-flux"}), "plans no actions"),
        (POLICY, ("push", "bac", 1, 0, {"sampler": "ttsnap"}), "sampler policy"),
        (POLICY, ("push", "bac", 1, 0, {"guidance_scale": 2}), "guidance_scale"),
        (POLICY, ("push", "bac", 16), "80000 denoiser rows"),
        (POLICY, ("push", "bac", 1, 0, {"options": {"frames": 500}}), "frames"),
        (POLICY, ("push", "bac", 1, 0, {"options": {"max_steps": 10**6}}), "max_steps"),
        ("/read_run", ("../..",), "no run"),
        ("/read_run", ("/etc",), "no run"),
    ],
)
def test_hostile_input_is_refused_in_one_line_and_leaves_nothing(
    client, options, endpoint, arguments, part
):
    before = runs(options)
    with pytest.raises(Exception) as caught:
        client.predict(*arguments, api_name=endpoint)
    message = str(caught.value)
    assert part in message and "\n" not in message and "Traceback" not in message
    assert len(message) < 1000
    assert runs(options) == before


def test_files_outside_the_runs_are_not_served(address, options):
    secret = Path(options.output).parent / "secret.txt"
    secret.write_text("hidden words")
    for path in (secret, "/etc/passwd", f"{options.output}/../secret.txt", "pyproject.toml"):
        for route in ("/gradio_api/file=", "/file="):
            answer = httpx.get(f"{address.rstrip('/')}{route}{path}")
            assert answer.status_code in (400, 403, 404), (route, path)
            assert "hidden words" not in answer.text


def test_uploads_stay_small_and_inside_the_runs(address, options):
    url = f"{address.rstrip('/')}/gradio_api/upload"
    large = httpx.post(url, files={"files": ("../../x.txt", b"x" * 100_000)})
    assert large.status_code >= 400
    small = httpx.post(url, files={"files": ("../../x.txt", b"x")})
    if small.status_code == 200:
        (path,) = small.json()
        assert Path(path).resolve().is_relative_to(Path(options.output).resolve())


def test_runs_can_be_listed_and_read(client):
    found = client.predict("a blue cross", "best-of-n", 1, 0, {"steps": 2}, api_name=GENERATE)
    assert found["run"] in client.predict(api_name="/list_runs")
    run = client.predict(found["run"], api_name="/read_run")
    assert run["results"][0]["prompt"] == "a blue cross"
    assert {"run.json", "results.jsonl", "trace.json"} <= set(run["files"])


def test_texts_come_with_their_marks(client):
    found = client.predict("use 4 8 18 to make 14", "odd", 4, 0, {}, api_name="/generate_texts")
    assert len(found["texts"]) == len(found["rewards"]) == 4
    from gensift.zoo.countdown.checker import is_right
    from gensift.zoo.countdown.problems import parse_problem

    problem = parse_problem("use 4 8 18 to make 14")
    assert found["rewards"] == [float(is_right(problem, text)) for text in found["texts"]]


def test_a_robot_acts_as_it_does_unwatched(client):
    pytest.importorskip("metaworld")
    asked = {"steps": 10, "options": {"max_steps": 24, "frames": 0, "num_outputs": 1}}
    found = client.predict("reach", "bac", 3, 4, asked, api_name=POLICY)
    pipe = gensift.load_pipeline("metaworld-policy", device="cpu")
    sampler = PolicyRollout(num_candidates=3, max_steps=24, frames=0)
    seeds = [candidate_seeds(4, 0, 3)]

    def act():
        samples = sampler(pipe, "reach", seeds=seeds, num_inference_steps=10).samples
        return [one.steps for one in sorted(samples, key=lambda one: one.goal)]

    assert found["uncached"]["steps"] == act()
    assert found["uncached"]["goals"] == found["cached"]["goals"] == [0, 1, 2]
    with pytest.warns(UserWarning, match="steps"):
        gensift.enable_cache(pipe, "bac")
        assert found["cached"]["steps"] == act()
    assert 0 < found["action_error"] < 1 and found["speedup"] > 0
    assert {len(times) for times in found["plan_seconds"].values()} == {8}
    run = client.predict(found["cached"]["run"], api_name="/read_run")
    assert run["summary"]["config"]["cache"]["name"] == "bac"
    assert len(run["results"][0]["samples"]) == 3


def test_every_endpoint_is_documented(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {
        GENERATE,
        "/generate_texts",
        "/compare_cache",
        POLICY,
        "/list_runs",
        "/read_run",
        "/cancel",
    }
    assert all(endpoint["description"] for endpoint in named.values())
