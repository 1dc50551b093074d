"""Ray: its token, a cluster's address and version, the ports it needs on this machine, and what a dead one left behind.

Joins a cluster only where it is told to, and then in a child process, for a Ray that cannot be reached waits for minutes.
No token is ever shown, only where it comes from.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from magdi_ray.doctor.check import Finding, failed, ok, warning
from magdi_ray.doctor.child import Outcome, run_child
from magdi_ray.doctor.packages import installed_version

PORTS = {
    6379: "a head node (ray start --head)",
    8265: "Ray's dashboard and job submission",
    10001: "Ray Client (ray://)",
    52365: "the dashboard's agent, which job submission needs",
    8404: "HAProxy's statistics, in front of Ray Serve",
    9101: "HAProxy's metrics, in front of Ray Serve",
}
"""The defaults; a Ray that `magdi run` starts for itself takes free ones."""
REFUSED = ("Unauthenticated", "InvalidAuthToken", "Invalid or missing authentication token")
"""What Ray's C++ side, and Ray Client, write again and again while they are turned away. The error at the end, after 20 or 30 s,
says nothing of it."""
MODES = ("token", "disabled", "k8s")
ADDRESS = re.compile(r"(?P<scheme>[a-z]+)://(?P<rest>[^/]+)")
CONNECT_S = 3.0
OURS = "the same token as on the head node: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, and RAY_AUTH_MODE=token"


class Token(NamedTuple):
    """The token a Ray started or joined from here would use."""

    source: str
    """The variable, or the file."""
    value: str
    file: Path | None = None


class Place(NamedTuple):
    """Where a cluster answers."""

    scheme: str
    """"" is Ray's own protocol, for nodes of the cluster; "ray" the client's, "http" and "https" the dashboard's."""
    host: str
    port: int


def find_token(environment: Mapping[str, str]) -> Token | Finding | None:
    """The token, looked for in Ray's order; what is wrong with it; None where there is none."""
    if value := environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token("RAY_AUTH_TOKEN", value)
    named = environment.get("RAY_AUTH_TOKEN_PATH", "")
    file = Path(named or Path(environment.get("HOME") or "~").expanduser() / ".ray" / "auth_token")
    where = f"RAY_AUTH_TOKEN_PATH ({file})" if named else str(file)
    try:
        value = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if not named:
            return None
        return failed("Ray's token", f"{where}: there is no such file", "Write the token there, or unset RAY_AUTH_TOKEN_PATH.")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        return failed("Ray's token", f"{where} cannot be read: {why}", "Make it readable for the user who starts Ray.")
    if not value:
        return failed("Ray's token", f"{where} is empty", "Make a new one: ray get-auth-token --generate")
    return Token(where, value, file)


def check_token(environment: Mapping[str, str], *, cluster: bool) -> Iterator[Finding]:
    """A token is at hand where one will be asked for. `cluster`: an existing cluster is joined, rather than one started."""
    name, mode = "Ray's token", environment.get("RAY_AUTH_MODE")
    if mode is not None and mode.lower() not in MODES:
        yield failed(name, f"RAY_AUTH_MODE is {mode!r}, which Ray does not know", "Set it to token, or unset it.")
        return
    if mode is not None and mode.lower() == "disabled":
        todo = "Anybody who reaches Ray's ports can run code: unset RAY_AUTH_MODE, or keep this to a private network."
        yield warning(name, "RAY_AUTH_MODE=disabled: none is asked for", todo)
        return
    if mode is not None and mode.lower() == "k8s":
        yield ok(name, "RAY_AUTH_MODE=k8s: Kubernetes decides who is let in")
        return
    token = find_token(environment)
    if isinstance(token, Finding):
        yield token
    elif token is None and cluster:
        amiss = failed if mode else warning
        yield amiss(name, "none found; a cluster that asks for one will turn this machine away", f"Set {OURS}.")
    elif token is None:
        yield ok(name, "none yet; Ray makes one when it starts, in ~/.ray/auth_token")
    elif token.file is not None and _others_read(token.file):
        yield warning(name, f"from {token.source}, which every user of this machine can read", f"chmod 600 {token.file}")
    else:
        yield ok(name, f"from {token.source}")


def _others_read(file: Path) -> bool:
    """Whether every user of the machine can read a file, through the directories above it."""
    return bool(file.stat().st_mode & stat.S_IROTH) and all(one.stat().st_mode & stat.S_IXOTH for one in file.absolute().parents)


def parse_address(address: str, current: Path | None = None) -> Place | str:
    """Where an address leads to; a text that says why it leads nowhere. `current`: Ray's file of the address "auto" means."""
    if address in ("local", ""):
        return "'local' names no cluster: it starts a Ray of its own"
    if address == "auto":
        if current is None or not current.is_file():
            return "'auto' is the Ray of this machine, but none was started here"
        address = current.read_text(encoding="utf-8").strip()
    found = ADDRESS.match(address)
    scheme, rest = (found["scheme"], found["rest"]) if found else ("", address)
    if scheme not in ("", "ray", "http", "https"):
        return f"{scheme}:// is no address of Ray: HOST:6379, ray://HOST:10001 or http://HOST:8265"
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    usual = {"ray": 10001, "http": 80, "https": 443}.get(scheme)
    if host is None or (port or usual) is None:
        return f"{address!r} names no host and port: HOST:6379, ray://HOST:10001 or http://HOST:8265"
    return Place(scheme, host, port or usual or 0)


def check_reachable(address: str, current: Path | None = None) -> Iterator[Finding]:
    """Somebody listens where the cluster should be."""
    place = parse_address(address, current)
    if isinstance(place, str):
        yield failed("address", place, "Correct --address or RAY_ADDRESS.")
        return
    where = f"{place.host}:{place.port}"
    if (why := knock(place.host, place.port)) is None:
        yield ok("address", f"{where} takes connections")
    else:
        yield failed("address", f"{where}: {why}", "Is the cluster up, the port right, and open from here (firewall)?")


def knock(host: str, port: int, *, limit_s: float = CONNECT_S) -> str | None:
    """Connect, and say why that fails; None where it does not."""
    try:
        socket.create_connection((host, port), timeout=limit_s).close()
    except socket.gaierror:
        return "there is no host of that name (DNS)"
    except ConnectionRefusedError:
        return "nobody listens there (connection refused)"
    except TimeoutError:
        return f"no answer within {limit_s:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_cluster(
    address: str, environment: Mapping[str, str], current: Path | None = None, *, limit_s: float = 30.0
) -> Iterator[Finding]:
    """A cluster lets this machine in, and runs the same Ray and Python."""
    place = parse_address(address, current)
    if isinstance(place, str) or knock(place.host, place.port) is not None:
        return  # said by `check_reachable`
    if place.scheme.startswith("http"):
        yield from _ask_dashboard(f"{place.scheme}://{place.host}:{place.port}", environment)
        return
    target = f"{f'{place.scheme}://' if place.scheme else ''}{place.host}:{place.port}"
    begun = time.monotonic()
    alone = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    seen = run_child(["cluster", target], limit_s=limit_s, env=alone, until=REFUSED)
    yield from judge_cluster(seen, environment, seconds=time.monotonic() - begun)


def judge_cluster(seen: Outcome, environment: Mapping[str, str], *, seconds: float) -> Iterator[Finding]:
    """What a child that joined, or did not, has found out."""
    if "resources" in seen.facts:
        held = seen.facts["resources"]
        amount = f"{seen.facts['nodes']} nodes, {held.get('CPU', 0):g} CPUs, {held.get('GPU', 0):g} GPUs"
        yield ok("cluster", f"joined in {seconds:.1f} s: {amount}; same Ray and Python as here")
    elif any(word in seen.errors for word in REFUSED) or "AuthenticationError" in seen.errors:
        yield wrong_token(environment)
    elif "Version mismatch" in seen.errors:
        told = seen.errors[seen.errors.rindex("Version mismatch") :]
        yield failed("cluster", " ".join(told.split())[:300], "Install its versions here, or rebuild its image with these.")
    elif seen.code is None:
        yield failed("cluster", f"not joined within {seconds:.0f} s", "Its GCS hangs, or a firewall drops what comes.")
    else:
        yield failed("cluster", f"cannot be joined: {seen.last_error or f'exit code {seen.code}'}", _from_outside())


def _from_outside() -> str:
    return "From a machine that is no node of the cluster, use ray://HOST:10001, or http://HOST:8265 to submit jobs."


def wrong_token(environment: Mapping[str, str]) -> Finding:
    """The cluster turned this machine away."""
    token = find_token(environment)
    if (environment.get("RAY_AUTH_MODE") or "token").lower() == "disabled":
        found = "the cluster asks for a token, but RAY_AUTH_MODE=disabled sends none"
    elif isinstance(token, Token):
        found = f"wrong token: the cluster refuses the one from {token.source}"
    else:
        found = "the cluster asks for a token, and there is none here"
    return failed("cluster", found, f"Set {OURS}.")


def _ask_dashboard(base: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    token = find_token(environment)
    sends = isinstance(token, Token) and (environment.get("RAY_AUTH_MODE") or "token").lower() == "token"
    headers = {"Authorization": f"Bearer {token.value}"} if sends and isinstance(token, Token) else {}
    request = urllib.request.Request(f"{base}/api/version", headers=headers)  # noqa: S310 - http or https, see `check_cluster`
    try:
        with urllib.request.urlopen(request, timeout=8.0) as answer:  # noqa: S310 - the same
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            yield wrong_token(environment)
        else:
            yield failed("cluster", f"{base}/api/version answers {error.code}", "Is this the address of Ray's dashboard?")
        return
    except (OSError, ValueError) as error:
        yield failed("cluster", f"{base} is no dashboard of Ray: {error}", "Name the dashboard's address: http://HOST:8265")
        return
    here, there = installed_version("ray"), str(told.get("ray_version", "unknown"))
    if here == there:
        yield ok("cluster", f"its dashboard answers; the same Ray as here, {there}")
    else:
        yield failed(
            "cluster",
            f"Ray {there} there, {here or 'none'} here",
            f'pip install "ray=={there}", or rebuild the cluster\'s image with {here}.',
        )


def check_ports(ports: Mapping[int, str], holder: Callable[[int], str | None] | None = None) -> Iterator[Finding]:
    """Ports that Ray and Serve would listen at are free on this machine."""
    free = []
    for port, purpose in ports.items():
        why = port_taken(port)
        if why is None:
            free.append(str(port))
            continue
        by = (holder or port_holder)(port)
        todo = "Fine if that is the Ray or the endpoint you mean; else end it, or choose another port."
        yield warning(f"port {port}", f"{why}{f' by {by}' if by else ''}; it is for {purpose}", todo)
    if free:
        yield ok("ports", f"free: {', '.join(free)}")


def port_taken(port: int) -> str | None:
    """Why this machine's port cannot be listened at; None where it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended hold no port
        try:
            probe.bind(("", port))
        except OSError as error:
            return "taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return None


def port_holder(port: int, proc: Path = Path("/proc")) -> str | None:
    """The process that listens at a port, "raylet (process 4121)"; None where that cannot be seen."""
    inodes = set()
    for table in (proc / "net" / "tcp", proc / "net" / "tcp6"):
        for line in table.read_text(encoding="ascii").splitlines()[1:] if table.is_file() else ():
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: it listens
                inodes.add(f"socket:[{fields[9]}]")
    for pid, _ in _processes(proc) if inodes else ():
        try:
            if any(os.readlink(handle) in inodes for handle in (proc / pid / "fd").iterdir()):
                return f"{(proc / pid / 'comm').read_text(encoding='utf-8').strip()} (process {pid})"
        except OSError:  # gone meanwhile, or somebody else's
            continue
    return None


def _processes(proc: Path) -> Iterator[tuple[str, list[str]]]:
    """Process id and command line of all processes that can be seen."""
    for directory in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)) if proc.is_dir() else ():
        try:
            yield directory.name, (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue


def check_leftovers(ray: Path, processes: Sequence[tuple[str, list[str]]] | None = None) -> Iterator[Finding]:
    """No process and no address of a Ray whose head is gone."""
    running = list(_processes(Path("/proc"))) if processes is None else processes
    amiss = False
    current = ray / "ray_current_cluster"
    if current.is_file():
        place = parse_address("auto", current)
        why = place if isinstance(place, str) else knock(place.host, place.port)
        if why is not None:
            amiss = True
            said = current.read_text(encoding="utf-8").strip()
            yield warning("leftovers", f"{current} names {said}, a Ray that is gone: {why}", f"rm {current}")
    orphans: dict[str, list[str]] = {}
    for pid, command in running:
        if Path(command[0]).name == "raylet" and (head := _option(command, "--gcs-address=")):
            orphans.setdefault(head, []).append(pid)
    for head, pids in orphans.items():
        host, _, port = head.rpartition(":")
        if port.isdigit() and (why := knock(host.strip("[]"), int(port), limit_s=1.0)) is not None:
            amiss = True
            found = f"raylet (process {', '.join(pids)}) of a head that is gone, {head}: {why}"
            yield warning("leftovers", found, f"kill {' '.join(pids)}")
    if not amiss:
        alive = sum(map(len, orphans.values()))
        yield ok("leftovers", f"none of a dead Ray; {alive} living nodes on this machine" if alive else "none of a dead Ray")


def _option(command: Sequence[str], name: str) -> str | None:
    return next((part.removeprefix(name) for part in command if part.startswith(name)), None)
