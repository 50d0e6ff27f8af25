#!/usr/bin/env python3
"""Checks the documents against the programs.

    tests/docs.py              everything
    tests/docs.py --no-run     links, flags, variables and settings alone
    tests/docs.py FILE...      of these documents
    tests/docs.py --write      writes the snippets anew from the programs, and checks nothing

- Every relative link, anchor and path in backticks exists, also those that code comments name.
- Every flag exists in the `--help` of its program, and every variable in a `--help` or a script.
- A fenced block with `from=FILE#NAME` equals that part of a tested program: the lines between the comments
  `snippet: NAME` and `end`.
- docs/configuration.md has every setting of kv-node and kv-controller, with its default.
- Every fenced `sh` block runs, with small numbers in place of large ones, unless its first line says
  `by=FILE` (that script or test runs these steps) or `by-hand="REASON"`. Blocks marked `with=cluster`
  run beside tests/local-cluster.sh, those of one document in order.

PROGRAMS names the directory of the built programs (default: target/debug). Needs curl and the ports
8000-8005. Exit code 1 with one line for each fault.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = (ROOT / os.environ.get("PROGRAMS", "target/debug")).resolve()
SETTINGS = {"kv-node": [], "kv-controller": ["run"]}
BLOCK_TIMEOUT_S = 180

faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\n") if (ROOT / name).is_file()]


# --- reading a document


class Block:
    """A fenced block: its language, its marks and its lines."""

    def __init__(self, name, number, info):
        words = shlex.split(info)
        self.where = f"{name}:{number}"
        self.language = words[0] if words else ""
        self.marks = dict(word.partition("=")[::2] for word in words[1:])
        self.lines = []

    def commands(self):
        """Its commands, with continued lines joined."""
        text = "\n".join(self.lines).replace("\\\n", " ")
        return [line for line in text.split("\n") if line.strip()]


def read(name):
    """The fenced blocks of a document, and its prose as (line number, text)."""
    blocks, prose, open_block = [], [], None
    for number, line in enumerate((ROOT / name).read_text().split("\n"), 1):
        if line.startswith("```"):
            if open_block is None:
                open_block = Block(name, number, line[3:])
            else:
                blocks.append(open_block)
                open_block = None
        elif open_block is not None:
            open_block.lines.append(line)
        else:
            prose.append((number, line))
    if open_block is not None:
        fault(open_block.where, "the block has no end")
    return blocks, prose


def slug(heading):
    """The anchor that a forge makes of a heading."""
    text = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading.strip("# \n")).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


# --- links and paths

LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
PATH = re.compile(r"^(?:\./)?(?:docs|tests|node|bench|controller|api|kvctl|deploy|charts|\.ci|\.github)/[\w./-]+$")


def check_links(name, prose):
    for number, line in prose:
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            if not file.exists():
                fault(f"{name}:{number}", f"{target} does not exist")
            elif anchor and file.suffix == ".md":
                headings = [text for _, text in read(os.path.relpath(file, ROOT))[1] if text.startswith("#")]
                if anchor not in map(slug, headings):
                    fault(f"{name}:{number}", f"{target}: no such heading")
        for span in SPAN.findall(line):
            if PATH.match(span) and not (ROOT / span).exists():
                fault(f"{name}:{number}", f"`{span}` does not exist")


def check_references():
    """Documents that code and scripts name."""
    for name in tracked("*.rs", "*.sh", "*.yaml", "*.yml", "*.toml", ".ci/*", "deploy/Dockerfile"):
        for number, line in enumerate((ROOT / name).read_text(errors="replace").split("\n"), 1):
            for target in re.findall(r"(?<![\w./-])docs/[\w-]+\.(?:md|png|svg)", line):
                if not (ROOT / target).exists():
                    fault(f"{name}:{number}", f"{target} does not exist")


# --- snippets


def snippet(mark):
    """The part of a program that a mark FILE#NAME names, as lines; None if there is no such part."""
    path, _, name = mark.partition("#")
    if not (ROOT / path).is_file():
        return None
    lines = (ROOT / path).read_text().split("\n")
    comments = [line.strip().lstrip("/# ") for line in lines]
    if f"snippet: {name}" not in comments:
        return None
    begin = comments.index(f"snippet: {name}") + 1
    return textwrap.dedent("\n".join(lines[begin : comments.index("end", begin)])).strip("\n").split("\n")


def check_snippets(blocks):
    for block in blocks:
        if "from" in block.marks and (part := snippet(block.marks["from"])) != block.lines:
            fault(block.where, f"{block.marks['from']} has no such part" if part is None else f"differs from {block.marks['from']}: tests/docs.py --write")


def write_snippets(name):
    lines, written, within = (ROOT / name).read_text().split("\n"), [], False
    for line in lines:
        if line.startswith("```"):
            part = None if within else Block(name, 0, line[3:]).marks.get("from")
            within = not within
            written.append(line)
            skipping = part is not None
            if skipping:
                written += snippet(part) or [f"{part} does not exist"]
        elif not (within and skipping):
            written.append(line)
    (ROOT / name).write_text("\n".join(written))


# --- flags, variables and settings


def help_of(program, *subcommand):
    run = subprocess.run([PROGRAMS / program, *subcommand, "--help"], capture_output=True, text=True)
    return run.stdout if run.returncode == 0 else None


def program_alone(command):
    """The part of a command that a program of ours reads, without cargo's or docker's."""
    command = re.sub(r"\bdocker run .*--entrypoint (\S+) \S+", r"\1", command)
    if not re.search(r"\bcargo\b", command):
        return command
    run = re.search(r"\bcargo run .*?(?:--bin|-p) (\S+).*? -- (.*)", command)
    return f"{run[1]} {run[2]}" if run else ""


class Programs:
    """The flags of each program and subcommand, by their `--help`."""

    def __init__(self):
        self.helps = {}
        for program in ("kv-node", "kv-bench", "kv-controller", "kvctl", "kubectl-kv"):
            if not (PROGRAMS / program).exists():
                if program == "kubectl-kv":
                    continue # a build without Kubernetes
                if program == "kvctl" and not (ROOT / "kvctl").exists():
                    continue
                sys.exit(f"docs.py: {PROGRAMS / program} is missing: cargo build --workspace")
            self.learn(program)
        self.all = "\n".join(self.helps.values())

    def learn(self, *words):
        text = help_of(*words)
        self.helps[words] = text
        listed = re.search(r"^Commands:\n((?:  .*\n|\n)+)", text, re.M)
        for command in re.findall(r"^  ([a-z][\w-]*)", listed[1], re.M) if listed else []:
            if command != "help" and help_of(*words, command) is not None:
                self.learn(*words, command)

    def has(self, words, flag):
        return re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", self.helps[words]) is not None

    def check(self, where, line):
        """Each use of a program in a line of shell, with the flags behind it."""
        for part in re.split(r"[|;&]+|\s#\s", line):
            part = program_alone(part.replace("kubectl kv ", "kubectl-kv "))
            words = part.replace("'", " ").replace('"', " ").split()
            starts = [n for n, word in enumerate(words) if (Path(word).name,) in self.helps]
            if not starts:
                continue
            known = (Path(words[starts[0]]).name,)
            rest = words[starts[0] + 1 :]
            for number, word in enumerate(rest):
                if known + (word,) in self.helps:
                    known += (word,)
                elif known[0] != "kv-node" and len(known) == 1 and re.match(r"^[a-z][a-z-]+$", word) and number == 0:
                    fault(where, f"{known[0]} has no command {word}")
                    return
                for flag in re.findall(r"^(--[a-z][\w-]*|-[a-z])(?:=|$)", word):
                    if not self.has(known, flag):
                        fault(where, f"{' '.join(known)} has no flag {flag}")


VARIABLE = re.compile(r"(?<![\w.$/-])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?![\w(-])")


def check_names(name, blocks, prose, programs, sources):
    for block in blocks:
        if block.language != "sh":
            continue
        for line in block.commands():
            programs.check(block.where, line)
            for variable in re.findall(r"(?:^|\s)([A-Z][A-Z0-9_]{2,})=", line):
                check_variable(block.where, variable, programs, sources)
    for number, line in prose:
        for span in SPAN.findall(line):
            where = f"{name}:{number}"
            programs.check(where, span)
            if re.match(r"^--[a-z][\w-]*$", span) and span not in programs.all + sources:
                fault(where, f"no program has the flag {span}")
            for variable in VARIABLE.findall(span):
                check_variable(where, variable, programs, sources)


def check_variable(where, variable, programs, sources):
    if not re.search(rf"(?<!\w){variable}(?!\w)", programs.all) and not re.search(rf"(?<!\w){variable}(?!\w)", sources):
        fault(where, f"no program and no script knows the variable {variable}")


def check_settings(programs):
    name = "docs/configuration.md"
    rows = [line for _, line in read(name)[1] if line.startswith("|")]
    for program, subcommand in SETTINGS.items():
        text = programs.helps[(program, *subcommand)]
        settings = re.split(r"\n\s*(?=(?:-\w, )?--[a-z])", text)[1:]
        for setting in settings:
            variable = re.search(r"\[env: (\w+)", " ".join(setting.split()))
            if not variable:
                continue
            default = re.search(r"\[default: ([^\]]*)\]", " ".join(setting.split()))
            in_rows = [row for row in rows if f"`{variable[1]}`" in row.split("|")[1]]
            if not in_rows:
                fault(name, f"{variable[1]} of {program} is missing")
            elif default and re.match(r'^[^\s"]+$', default[1]) and not any(default[1] in row for row in in_rows):
                fault(name, f"{variable[1]} of {program}: its default is {default[1]}")


# --- running the blocks

# Stand-ins on the PATH: programs come from PROGRAMS, long runs become short, and curl waits for a node that starts.
SHIM = r'''#!/usr/bin/env python3
import os, sys
name, words, programs = os.path.basename(sys.argv[0]), sys.argv[1:], os.environ["PROGRAMS"]

def run(program, *arguments):
    os.execv(program, [program, *arguments])

def short(flag, value, add=True):
    if flag in words:
        words[words.index(flag) + 1] = value
    elif add:
        words.extend([flag, value])

if name == "cargo":
    if words[0] == "build":
        sys.exit(0)
    if words[0] != "run":
        sys.exit(f"cargo {words[0]} is not run here: mark the block with by= or by-hand=")
    program = next(words[n + 1] for n, word in enumerate(words) if word in ("--bin", "-p"))
    name, words = program, words[words.index("--") + 1 :] if "--" in words else []
if name == "curl" and "-sf" in words:
    run("/usr/bin/curl", *words) # a script that waits by itself
if name == "curl":
    run("/usr/bin/curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "20", "--retry", "20", "--retry-delay", "1",
        "--retry-connrefused", *words)
command = words[0] if words else ""
if name == "kv-bench" and command == "sweep":
    if "--seed-experiment" not in words:
        short("--writes", "60")
    short("--max-deviation-ms", "100", add=False)
elif name == "kv-bench" and command == "staleness":
    short("--writes", "20")
elif name == "kv-bench" and command == "load":
    short("--seconds", "1")
    short("--warmup-seconds", "0")
elif name == "kv-bench" and command == "check":
    short("--rounds", "2") if "--rounds" in words else short("--seconds", "5")
elif name == "kv-bench" and command == "steady":
    short("--seconds", "5")
elif name == "kv-bench" and command == "curves":
    words += ["--by", "connections", "--values", "4", "--seconds", "1", "--warmup-seconds", "0"]
run(os.path.join(programs, name), *words)
'''


def end_group(process):
    """Ends everything that a script started, and waits for it: a leader answers for a moment, and keeps its port."""
    number = signal.SIGTERM
    begun = time.monotonic()
    try:
        while time.monotonic() < begun + 25:
            os.killpg(process.pid, number)
            process.poll()
            number = 0 if time.monotonic() < begun + 20 else signal.SIGKILL
            time.sleep(0.02)
    except ProcessLookupError:
        pass
    process.wait()


def run_script(where, text, command=("bash", "-euo", "pipefail", "-c")):
    """Runs text in a directory of its own, and ends everything that it started."""
    with tempfile.TemporaryDirectory() as scratch:
        shims = Path(scratch) / "shims"
        shims.mkdir()
        for name in ("cargo", "curl", "kv-bench", "kv-controller", "kv-node", "kvctl"):
            (shims / name).write_text(SHIM)
            (shims / name).chmod(0o755)
        # Documents are read from the root: its files, and programs where a build would put them.
        root = Path(scratch) / "root"
        root.mkdir()
        for entry in ("tests", "deploy", "docs"):
            (root / entry).symlink_to(ROOT / entry)
        (root / "target").mkdir()
        for profile in ("debug", "release", "dist"):
            (root / "target" / profile).symlink_to(PROGRAMS)
        environment = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}", "PROGRAMS": str(PROGRAMS), "KV_NODE": str(PROGRAMS / "kv-node")}
        with open(Path(scratch) / "output", "w+") as output:
            process = subprocess.Popen([*command, text], cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code = process.wait(BLOCK_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                code = f"no end within {BLOCK_TIMEOUT_S} s"
            end_group(process)
            output.seek(0)
            said = output.read().strip().split("\n")
    print(f"{'ok  ' if code == 0 else 'FAIL'}  {where}", flush=True)
    if code != 0:
        fault(where, f"ended with {code}:\n      " + "\n      ".join(said[:8] + ["…"] + said[-8:] if len(said) > 16 else said))


def run_blocks(name, blocks):
    beside_cluster = []
    for block in blocks:
        if block.language != "sh":
            continue
        if "by" in block.marks:
            if not (ROOT / block.marks["by"]).exists():
                fault(block.where, f"{block.marks['by']} does not exist")
        elif "by-hand" in block.marks:
            if len(block.marks["by-hand"]) < 5:
                fault(block.where, "by-hand needs a reason")
        elif block.marks.get("with") == "cluster":
            beside_cluster.extend(block.lines)
        elif block.marks:
            fault(block.where, f"unknown mark: {block.marks}")
        else:
            run_script(block.where, "\n".join(block.lines))
    if beside_cluster:
        run_script(f"{name} beside a cluster", "\n".join(beside_cluster), (ROOT / "tests/local-cluster.sh", "bash", "-euo", "pipefail", "-c"))


def main():
    arguments = sys.argv[1:]
    run = "--no-run" not in arguments
    names = [name for name in arguments if not name.startswith("-")] or tracked("*.md")
    if "--write" in arguments:
        for name in names:
            write_snippets(name)
        return
    programs = Programs()
    sources = "\n".join((ROOT / name).read_text(errors="replace") for name in tracked("*.sh", "*.py", "*.rs", "*.yml", "*.yaml", "*.toml", ".ci/*", "justfile"))
    check_references()
    check_settings(programs)
    for name in names:
        blocks, prose = read(name)
        check_links(name, prose)
        check_snippets(blocks)
        check_names(name, blocks, prose, programs, sources)
        if run:
            run_blocks(name, blocks)
    for line in faults:
        print(line, file=sys.stderr)
    print(f"docs: {len(names)} documents, {len(faults)} faults")
    sys.exit(1 if faults else 0)


main()
