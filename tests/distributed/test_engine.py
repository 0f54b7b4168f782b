"""The engines on real processes: DDP and DeepSpeed's stages compute the same, and their state fits
each other and any number of processes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import end_of, start_ranks

from maskrestore.config.run import load_config
from maskrestore.distributed.engine import State, load_moments
from maskrestore.distributed.processes import make_accelerator
from maskrestore.training.setup import make_engine

PROGRAM = Path(__file__).parents[1] / "programs" / "engines.py"
ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3")
CLIP = "training.max_gradient_norm=0.5"
FROM, BREAK, TO, BAD = 0, 2, 4, [1, 1]
"""Steps of an unbroken run and where its state is saved as NAME-first, from which others go on;
rank and step of a loss that is NaN. The runs that recompute save nothing and end in the same bits,
so saving disturbs nothing."""

pytestmark = pytest.mark.slow


def words_of(engine: str) -> list[str]:
    if engine == "ddp":
        return ["distributed.engine=ddp", CLIP]
    return ["distributed.engine=deepspeed", f"distributed.zero_stage={engine[-1]}", CLIP]


def launch(folder: Path, num_processes: int, jobs: list[dict[str, Any]]) -> None:
    """All jobs after one another in one start of so many processes."""
    path = folder / f"jobs-{num_processes}-{jobs[0]['name']}.json"
    path.write_text(json.dumps(jobs))
    compiled = {"TORCH_EXTENSIONS_DIR": str(folder / "compiled")}
    ranks = start_ranks(
        [str(path)], num_processes, program=PROGRAM, environment=compiled, uses_deepspeed=True
    )
    statuses, errors = end_of(ranks)
    assert statuses == [0] * num_processes, [error[-3000:] for error in errors]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all engines computed on two processes, from the beginning and from what was saved."""
    folder = tmp_path_factory.mktemp("engines")
    jobs = []

    def add(name: str, steps: list[int], words: list[str], **more: Any) -> None:
        jobs.append({"name": name, "words": words, "steps": steps, **more})

    for engine in ENGINES:
        words = words_of(engine)
        for precision in ("fp32", "bf16"):
            name, own = f"{engine}-{precision}", [*words, f"distributed.precision={precision}"]
            add(name, [FROM, TO], own, bad=BAD, save_at=BREAK)
            add(f"{name}-resumed", [BREAK, TO], own, load=f"{name}-first")
        add(f"{engine}-parts", [FROM, TO], [*words, "training.accumulation=3"], bad=BAD)
        recomputed = [*words, "distributed.activation_checkpointing=true"]
        add(f"{engine}-recomputed", [FROM, TO], recomputed, bad=BAD)
        if engine in ("zero1", "zero2", "zero3"):
            offload = [*words, "distributed.offload_optimizer=true"]
            add(f"{engine}-offload", [FROM, TO], offload, bad=BAD)
            add(f"{engine}-offload-resumed", [BREAK, TO], offload, load=f"{engine}-fp32-first")
    for engine in ENGINES:  # after all have saved
        for other in {"ddp", "zero2", "zero3"} - {engine}:
            load = f"{other}-fp32-first"
            add(f"{engine}-from-{other}", [BREAK, TO], words_of(engine), load=load)
    launch(folder, 2, jobs)
    return folder


def facts(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


def state(folder: Path, name: str) -> State:
    return dict(torch.load(folder / f"{name}.pt", weights_only=True))


def tensors(of: State) -> dict[str, torch.Tensor]:
    moments = of["optimizer"]["moments"]
    return {
        **of["weights"],
        **{f"{name}/{i}": m for name, pair in moments.items() for i, m in enumerate(pair)},
    }


def assert_bitwise(one: State, other: State) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert one["optimizer"]["step"] == other["optimizer"]["step"]


def close(one: list[float], other: list[float], rel: float) -> bool:
    """Equal within rounding, which Adam magnifies from step to step; not a number where it is."""
    return one == pytest.approx(other, rel=rel, nan_ok=True)


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize(("precision", "rel"), [("fp32", 1e-4), ("bf16", 3e-3)])
def test_all_engines_compute_the_same(
    folder: Path, engine: str, precision: str, rel: float
) -> None:
    ours, ddp = facts(folder, f"{engine}-{precision}"), facts(folder, f"ddp-{precision}")
    assert ours["world"] == 2
    assert close(ours["losses"], ddp["losses"], rel)
    assert close(ours["losses"][:2], ddp["losses"][:2], 1e-6 if precision == "fp32" else 1e-5)
    assert close(ours["norms"][:1], ddp["norms"][:1], 1e-5 if precision == "fp32" else 1e-2)
    assert len(set(ours["losses"])) == TO  # it learns: nothing stands still


@pytest.mark.parametrize("engine", ENGINES)
def test_a_nan_on_one_process_leaves_the_step_out_on_all(folder: Path, engine: str) -> None:
    ours = facts(folder, f"{engine}-fp32")
    assert [n for n, norm in enumerate(ours["norms"]) if norm - norm != 0] == [BAD[1]]
    kept = state(folder, f"{engine}-fp32")
    assert kept["optimizer"]["step"] == TO - 1
    assert all(tensor.isfinite().all() for tensor in tensors(kept).values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_engine_goes_on_bit_for_bit(folder: Path, engine: str, precision: str) -> None:
    name = f"{engine}-{precision}"
    assert_bitwise(state(folder, f"{name}-resumed"), state(folder, name))
    assert facts(folder, f"{name}-resumed")["losses"] == facts(folder, name)["losses"][BREAK:]
    assert facts(folder, f"{name}-resumed")["seen"] == facts(folder, name)["seen"]


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_savers_change_nothing(folder: Path, engine: str) -> None:
    plain = facts(folder, f"{engine}-fp32")
    assert_bitwise(state(folder, f"{engine}-recomputed"), state(folder, f"{engine}-fp32"))
    parts = facts(folder, f"{engine}-parts")
    assert close(parts["losses"], plain["losses"], 1e-4)
    assert close(parts["norms"][:1], plain["norms"][:1], 1e-5)
    if engine in ("zero1", "zero2", "zero3"):
        offload = facts(folder, f"{engine}-offload")
        assert close(offload["losses"], plain["losses"], 1e-4)
        resumed = facts(folder, f"{engine}-offload-resumed")
        assert close(resumed["losses"], plain["losses"][BREAK:], 1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_goes_on_from_the_state_of_another(folder: Path, engine: str) -> None:
    for other in {"ddp", "zero2", "zero3"} - {engine}:
        resumed = facts(folder, f"{engine}-from-{other}")
        unbroken = facts(folder, f"{other}-fp32")
        assert close(resumed["losses"], unbroken["losses"][BREAK:], 1e-4)
        assert state(folder, f"{engine}-from-{other}")["optimizer"]["step"] == TO - 1


@pytest.mark.parametrize("num_processes", [1, 3])
def test_other_numbers_of_processes_go_on_from_the_same_state(
    folder: Path, num_processes: int
) -> None:
    """A batch is cut up otherwise, so the losses are equal within rounding."""
    jobs = [
        {
            "name": f"{engine}-on-{num_processes}",
            "words": words_of(engine),
            "steps": [BREAK, TO],
            "load": f"{source}-fp32-first",
        }
        for engine, source in (
            ("ddp", "ddp"),
            ("zero1", "zero1"),
            ("zero2", "zero2"),
            ("zero3", "zero3"),
            ("ddp", "zero3"),
        )
    ]
    jobs[-1]["name"] = f"ddp-from-zero3-on-{num_processes}"
    launch(folder, num_processes, jobs)
    for job in jobs:
        resumed = facts(folder, str(job["name"]))
        source = str(job["load"]).removesuffix("-first")
        assert resumed["world"] == num_processes
        assert close(resumed["losses"], facts(folder, source)["losses"][BREAK:], 1e-4)
        assert (
            tensors(state(folder, str(job["name"]))).keys() == tensors(state(folder, source)).keys()
        )


def test_gradients_are_not_there_twice(folder: Path) -> None:
    """Under DDP they lie in the buckets in which they are exchanged."""
    kept = facts(folder, "ddp-fp32")
    assert kept["storages"] < kept["gradients"] / 4


def test_nothing_is_compiled(folder: Path) -> None:
    """So no compiler is needed, and none decides in which order gradients are added."""
    assert not (folder / "compiled").exists()


def test_batch_statistics_are_taken_back_with_a_step_that_is_left_out() -> None:
    config = load_config(["distributed.device=cpu"])
    accelerator = make_accelerator(config, for_training=True)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 1, 1))
    engine = make_engine(accelerator, config, network, (0.9, 0.999), None, "the test")
    seen = []
    for factor in (1.0, torch.inf, 1.0):
        with engine.part(is_last=True):
            engine.backward(engine.network(torch.rand(2, 3, 4, 4) * factor).mean())
        norm = engine.step(1e-3)
        seen.append((bool(norm.isfinite()), copy.deepcopy(engine.whole().state_dict())))
    assert [finite for finite, _ in seen] == [True, False, True]
    first, second, third = (kept for _, kept in seen)
    statistics = ("0.running_mean", "0.running_var", "0.weight", "1.weight")
    assert all(torch.equal(first[name], second[name]) for name in statistics)
    assert all(third[name].isfinite().all() for name in statistics)
    assert not torch.equal(first["0.running_mean"], third["0.running_mean"])


def test_an_optimizer_of_another_layout_goes_on_from_saved_moments() -> None:
    """As on a GPU (channels_last) from a checkpoint of a CPU: fused Adam goes through memory."""
    torch.manual_seed(0)
    weight, gradient, average, square = torch.rand(4, 2, 3, 4, 5)
    stepped = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = torch.nn.Parameter(weight.clone(memory_format=layout))
        adam = torch.optim.Adam([parameter], lr=0.1, fused=True)
        saved = {"step": 3, "moments": {"weight": [average, square]}}
        load_moments(adam, {"weight": parameter}, saved)
        parameter.grad = gradient.clone(memory_format=layout)
        adam.step()
        stepped.append(parameter.detach())
    assert torch.equal(stepped[0], stepped[1])
