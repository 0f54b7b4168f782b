#!/usr/bin/env python3
"""SLURM's commands as far as launch/ uses them, with answers as a real one (22.05) gave them.

Called by the name of the command. FAKE_SLURM is a folder: jobs.json has the queue, calls.log each
call, silent (if it is there) the complaint of a controller that does not answer.
"""

import json
import os
import re
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])
NODES = """gpu*|up|2-00:00:00|4|64|512000|gpu:h100:8(S:0-1)
gpu*|up|2-00:00:00|2|32|256000|gpu:a100:4
cpu|up|infinite|10|128|1024000|(null)
closed|down|1:00:00|1|2|4000|(null)"""


def main(command: str, words: list[str]) -> int:
    with open(STATE / "calls.log", "a") as log:
        log.write(json.dumps([command, *words]) + "\n")
    if (STATE / "silent").exists():
        return complain(f"{command}: error: {(STATE / 'silent').read_text()}")
    return int(globals()[command](words) or 0)


def complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


def read_jobs() -> list[dict]:
    path = STATE / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else []


def write_jobs(jobs: list[dict]) -> None:
    (STATE / "jobs.json").write_text(json.dumps(jobs, indent=1))


def sinfo(words: list[str]) -> None:
    if "--Node" in words:  # nodes.json: name -> state
        nodes = json.loads((STATE / "nodes.json").read_text())
        print("\n".join(f"{name} {state}" for name, state in nodes.items()))
        return
    columns = next(word for word in words if word.startswith("--format="))
    rows = NODES.splitlines()
    print("\n".join(rows if "%G" in columns else [row.split("|")[0] for row in rows]))


def sbatch(words: list[str]) -> int:
    text = Path(words[-1]).read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)='?(.*?)'?$", text, re.MULTILINE))
    refused = "sbatch: error: Batch job submission failed: "
    if options.get("account") == "nobody":
        return complain(refused + "Invalid account or account/partition combination specified")
    if (STATE / "full").exists() and "--test-only" not in words:
        return complain(refused + "Job violates accounting/QOS policy")
    if "--test-only" in words:
        return 0 * complain(
            "sbatch: Job 4 to start at 2026-11-25T09:00:00 using 8 processors on n1"
        )
    jobs = read_jobs()
    number = 1 + max((job["number"] for job in jobs), default=100)
    last = options.get("array", "").partition("%")[0].partition("-")[2]
    for index in range(int(last) + 1) if last else [None]:
        jobs.append(
            {
                "number": number,
                "index": index,
                "name": options["job-name"],
                "state": "PENDING",
                "reason": "Dependency" if "dependency" in options else "Priority",
                "nodes": "",
                "options": options,
            }
        )
    write_jobs(jobs)
    print(f"Submitted batch job {number}")
    return 0


def name_of(job: dict) -> str:
    return str(job["number"]) if job["index"] is None else f"{job['number']}_{job['index']}"


def squeue(words: list[str]) -> None:
    names = next(word for word in words if word.startswith("--name="))[7:].split(",")
    for job in read_jobs():
        if job["name"] in names:
            print(name_of(job), job["name"], job["state"], job["reason"], job["nodes"], sep="|")


def scontrol(words: list[str]) -> int:
    if words[:2] == ["show", "hostnames"]:
        print("\n".join(words[2].split(",")))
    elif "show" in words:  # facts.json: what it tells of the job
        facts = json.loads((STATE / "facts.json").read_text())
        print(*(f"{key}={value}" for key, value in facts.items()))
    elif (STATE / "refused").exists() and words[-1] == (STATE / "refused").read_text():
        return complain("Access/permission denied for job " + words[-1])
    elif words[0] == "release":
        jobs = read_jobs()
        write_jobs([job | {"reason": "None"} if name_of(job) == words[1] else job for job in jobs])
    return 0


def scancel(words: list[str]) -> None:
    write_jobs([job for job in read_jobs() if name_of(job) not in words])


def sacct(words: list[str]) -> int:
    if not (STATE / "accounting.json").exists():  # state and nodes of each attempt, of any job
        return complain("Slurm accounting storage is disabled")
    attempts = json.loads((STATE / "accounting.json").read_text())
    jobs = next(word for word in words if word.startswith("--jobs="))[7:].split(",")
    for job in jobs:
        print("\n".join(f"{job}|{state}|{nodes}" for state, nodes in attempts))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
