"""Two processes on one machine: what they exchange, and that together they train as one does."""

# ruff: noqa: F811 (fixtures that come from another file)

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from parity import EXACT, in_float64
from test_train_encoder import RECIPES, RESNET_READERS, frozen_recipe, toy  # noqa: F401, the fixture
from voicestyle.train.distributed import World, connect
from voicestyle.train.encoder import start
from voicestyle.train.encoder.job import train_encoder
from voicestyle.train.encoder.settings import EncoderRecipe
from voicestyle.train.recipe import dump_recipe, load_recipe, read_recipe

SOURCE = Path(__file__).resolve().parents[1] / "src"
TESTS = Path(__file__).resolve().parent
PATIENCE = 900  # seconds; a busy machine may take minutes to start two processes


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1", **more}


def torchrun(*arguments: object) -> subprocess.CompletedProcess:
    """What torchrun with two processes says; sockets on localhost are the subprocess' own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *arguments]
    command = [str(c) for c in command]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=PATIENCE)


def two_processes(*arguments: object, **more: str) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of two processes that nobody watches over."""
    find = "import socket; s = socket.socket(); s.bind(('localhost', 0)); print(s.getsockname()[1])"
    port = subprocess.run([sys.executable, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, *map(str, arguments)]
    world = environment(WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port, **more)
    processes = [
        subprocess.Popen(
            command, env={**world, "RANK": rank, "LOCAL_RANK": rank}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def assert_close(a, b, **tolerance) -> None:
    """Nested states are alike; -0.0 and 0.0 too."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_close(a[key], b[key], **tolerance)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_close(x, y, **tolerance)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, **tolerance)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=tolerance.get("rtol", 1e-6))
    else:
        assert a == b


def test_one_process_starts_nothing():
    with connect("cpu") as world:
        assert world == World(torch.device("cpu")) and world.is_main
        assert not torch.distributed.is_initialized()
    x = torch.ones(3, requires_grad=True)
    assert world.gather(x) is x and world.agree(2.5) == 2.5 and world.share(6) == slice(0, 6)
    net = torch.nn.BatchNorm2d(2)
    assert world.synchronize_norms(net) is net


def test_shares_make_up_the_whole():
    shares = [World(rank=rank, world_size=3).share(12) for rank in range(3)]
    assert [i for share in shares for i in range(12)[share]] == [*range(12)]
    with pytest.raises(ValueError, match="batch: got 10 rows for 3 processes"):
        World(world_size=3).share(10)


def test_half_an_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(ValueError, match="'WORLD_SIZE', 'LOCAL_RANK'.* not set, .* start with torchrun"),
        connect("cpu"),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="PyTorch sees no GPU"), connect("cuda"):
        pass


def test_the_first_process_of_a_host_makes_what_the_others_wait_for(tmp_path):
    path, made = tmp_path / "cache", []

    def make():
        made.append(1)
        path.touch()

    World().make_once(path, make)
    World().make_once(path, make)
    World(rank=1, world_size=2, local_rank=1).make_once(path, make)
    assert made == [1]


EXCHANGE = """
    import json
    import torch
    from voicestyle.train.distributed import connect

    with connect("cpu", timeout_s=300) as world:
        weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        unused = torch.nn.Parameter(torch.ones(1))
        x = torch.arange(8.0).view(4, 2)
        own = x[world.share(4)] * weight
        whole = world.gather(own)
        loss = (whole @ whole.T).sin().sum()
        loss.backward()
        world.mean_gradients([weight, unused])
        held = torch.full((2,), float(world.rank))
        world.broadcast(held)
        told = {"whole": whole.tolist(), "loss": loss.item(), "gradient": weight.grad.tolist(), "held": held.tolist(),
                "unused": unused.grad is None, "agreed": world.agree(world.rank + 0.5)}
        print(json.dumps(told))
"""


def test_two_processes_exchange_rows_and_gradients(tmp_path):
    (tmp_path / "exchange.py").write_text(textwrap.dedent(EXCHANGE))
    main, (status, out, error) = two_processes(tmp_path / "exchange.py")
    assert (main[0], status) == (0, 0), main[2] + error
    told = json.loads(out)
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    whole = torch.arange(8.0).view(4, 2) * weight
    loss = (whole @ whole.T).sin().sum()
    loss.backward()
    expected = {
        "whole": whole.tolist(), "loss": loss.item(), "gradient": weight.grad.tolist(), "held": [0.0, 0.0],
        "unused": True, "agreed": 0.5,
    }  # fmt: skip
    assert_close(told, expected)


TRAIN = """
    import os, signal, sys
    from parity import in_float64
    from test_train_encoder import RESNET_READERS
    from voicestyle.cli import main
    from voicestyle.train.encoder import start, trainer

    start.READERS = RESNET_READERS
    whole_step = trainer.Trainer.train_step

    def train_step(self, batch):
        if os.environ.get("KILL_AT") == f"{self.step} {self.world.rank}":
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_step(self, batch)

    trainer.Trainer.train_step = train_step
    with in_float64():
        main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def job(toy, tmp_path_factory):
    """A recipe without dropout (each process draws its own) or batch statistics, and what trains it."""
    folder = tmp_path_factory.mktemp("job")
    settings = frozen_recipe(toy, folder, "schedule.steps=9", "save_every=2", "log_every=1", "schedule.lr=0.01")
    settings["encoder"]["bridge_dropout"] = 0.0
    settings["objective"] |= {"cluster_after": 2, "cluster_every": 3}
    settings["validation"] = {"fraction": 0.4, "every": 2, "patience": 0}
    settings["augment"] = {}
    (folder / "train.py").write_text(textwrap.dedent(TRAIN))
    (folder / "recipe.toml").write_text(dump_recipe(settings))
    with pytest.MonkeyPatch.context() as patch, in_float64():
        patch.setattr(start, "READERS", RESNET_READERS)
        train_encoder(settings, folder / "one", progress=False, device="cpu")
    return folder


def arguments(job: Path, out: str, *more: str) -> list[object]:
    return [job / "train.py", "train", "encoder", job / "recipe.toml", "-o", job / out, "--device", "cpu", *more]


def states(job: Path, *names: str) -> list[dict]:
    return [torch.load(job / name / "state" / "last.pt", weights_only=True) for name in names]


def test_two_processes_train_as_one(job):
    run = torchrun(*arguments(job, "two"))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [str(job / "two")]  # the main process alone speaks
    one, two = states(job, "one", "two")
    assert len(one["objective"]["clusters"]) == 2
    assert_close(one, two, rtol=EXACT, atol=EXACT)
    logs = [(job / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) > 9
    assert_close(*([json.loads(line) for line in lines] for lines in logs))
    assert json.loads((job / "two" / "run.json").read_text())["num_processes"] == 2


def test_two_processes_share_the_statistics_of_batch_normalization(toy, tmp_path):
    places = [f"manifest={toy / 'toy.csv'}", f"cache={tmp_path / 'cache'}"]
    changes = ["schedule.steps=3", "schedule.lr=1e-4", "encoder.bridge_dropout=0", "objective.prototypes=[]"]
    settings = load_recipe(RECIPES / "toy_encoder.toml", EncoderRecipe, [*places, *changes])
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    (tmp_path / "recipe.toml").write_text(dump_recipe(settings))
    with in_float64():
        train_encoder(settings, tmp_path / "one", progress=False, device="cpu")
    run = torchrun(*arguments(tmp_path, "two"))
    assert run.returncode == 0, run.stderr
    one, two = ((tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two"))
    assert_close(*([json.loads(line) for line in lines] for lines in (one, two)))
    one, two = (state["towers"] for state in states(tmp_path, "one", "two"))
    statistics = [
        name for name in one if name.rsplit(".")[-1] in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert_close(*({name: held[name] for name in statistics} for held in (one, two)), rtol=EXACT, atol=EXACT)


def test_a_lost_process_ends_the_job_which_resumes(job, monkeypatch):
    left, lost = two_processes(*arguments(job, "killed"), KILL_AT="5 1")
    assert (left[0], lost[0]) == (1, -9)
    assert "Error: rank 0 of 2: lost contact with another process" in left[2], left[2]
    assert "start the job again with --resume" in left[2]
    (killed,) = states(job, "killed")
    assert killed["step"] == 4
    monkeypatch.setattr(start, "READERS", RESNET_READERS)
    # one process goes on with what two have begun
    with in_float64():
        train_encoder(read_recipe(job / "recipe.toml"), job / "killed", resume=True, progress=False, device="cpu")
    assert_close(*states(job, "one", "killed"), rtol=EXACT, atol=EXACT)


@pytest.mark.slow
def test_two_nodes_train_as_one(job):
    """The commands of docs/scale.md, with both nodes on this machine."""
    find = "import socket; s = socket.socket(); s.bind(('localhost', 0)); print(s.getsockname()[1])"
    port = subprocess.run([sys.executable, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    ask = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    ask += ["--master-addr", "localhost", "--master-port", port]
    nodes = [
        subprocess.Popen(
            [*ask, "--node-rank", rank, *map(str, arguments(job, "nodes"))], env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [node.communicate(timeout=PATIENCE) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert_close(*states(job, "one", "nodes"), rtol=EXACT, atol=EXACT)
    assert json.loads((job / "nodes" / "run.json").read_text())["num_processes"] == 2
