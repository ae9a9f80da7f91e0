#!/usr/bin/env python3
"""known.py [--services 1000] [--endpoints 10]: what our sidecar holds resident when it knows that many.

The counterpart of the last part of `bench.py --scenario mem`, which hands a peer its endpoints in a file: a sidecar of ours
learns a service when its application first calls it. So a client in pb-a calls each service once, by its virtual address;
what it is answered does not matter. Then the sidecar is started again, and finds what it knows in its snapshot.
Prints one line of JSON: resident and anonymous MiB. Needs `mesh.py up` to have been run once, for the programs.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import time

import mesh

PORT = 15014
LAYER = "known"
RANGE = "10.112.0.0/12"
CALL = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def call(ip):
    with socket.create_connection((ip, 8080), 10) as s:
        s.sendall(b"GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
        s.settimeout(10)
        try:
            while s.recv(4096):
                pass
        except OSError:
            pass

with ThreadPoolExecutor(64) as pool:    # no pod is there, and each call learns that by waiting
    list(pool.map(call, sys.stdin.read().split()))
"""


def address(n):
    return f"10.112.{n // 250}.{1 + n % 250}"


def manifests(services, endpoints):
    objects = mesh.cluster("west") + [mesh.obj("v1", "ServiceAccount", "server", "bench")]
    for n in range(services):
        objects.append(mesh.obj("v1", "Service", f"s{n}", "bench", spec={
            "clusterIP": address(n), "selector": {"app": f"s{n}"},
            "ports": [{"name": "http", "port": 8080, "targetPort": 8080, "appProtocol": "http"}]}))
        objects += [mesh.pod(f"s{n}-{p}", "bench", "server", f"10.77.0.{3 + p}", app=f"s{n}") for p in range(endpoints)]
    return {"west": objects, "east": mesh.cluster("east")}


def start(me):
    log = open(me + ".log", "w")
    return subprocess.Popen(["ip", "netns", "exec", "pb-a", "setpriv", f"--reuid={mesh.UID}", f"--regid={mesh.UID}", "--clear-groups",
                             f"{mesh.DIR}/bin/isthmus-proxy", "--config", me + ".json"], stdout=log, stderr=log, start_new_session=True)


def known():
    """How many endpoints and services the sidecar knows."""
    with open(f"{mesh.DIR}/{LAYER}/direct-A.state/admin-token") as f:
        shown = f"authorization: Bearer {f.read().strip()}"
    page = subprocess.run(["ip", "netns", "exec", "pb-a", "curl", "-s", "-H", shown, "http://127.0.0.1:15000/config"], capture_output=True, text=True)
    services = json.loads(page.stdout)["services"] if page.stdout else []
    return sum(len(s["endpoints"] or []) for s in services), sum(1 for s in services if s["endpoints"])


def resident(p):
    with open(f"/proc/{p.pid}/smaps_rollup") as f:
        text = f.read()
    kib = lambda name: int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])
    return [round(kib("Rss") / 1024, 1), round(kib("Anonymous") / 1024, 1)]


def settled(wanted, limit=120):
    end = time.time() + limit
    while known() != wanted:
        if time.time() > end:
            raise SystemExit(f"the sidecar knows {known()}, and {wanted} is awaited")
        time.sleep(0.2)


def end(p):
    os.killpg(p.pid, signal.SIGTERM)
    p.wait()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--services", type=int, default=1000)
    ap.add_argument("--endpoints", type=int, default=10)
    a = ap.parse_args()
    wanted = (a.services * a.endpoints, a.services)
    mesh.PORTS[LAYER], mesh.manifests = {8080: "http"}, lambda *_: manifests(a.services, a.endpoints)
    subprocess.run(["rm", "-rf", f"{mesh.DIR}/{LAYER}"], check=True)
    mesh.control_plane(LAYER, PORT, a.endpoints, 0)
    rule = ["ip", "netns", "exec", "pb-a", "iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", RANGE, "-j", "REDIRECT", "--to-ports", "15001"]
    subprocess.run(["ip", "-n", "pb-a", "route", "replace", RANGE, "via", mesh.SERVER], check=True)
    subprocess.run(rule, check=True)
    me = f"{mesh.DIR}/{LAYER}/direct-A"
    p = start(me)
    try:
        mesh.wait(me + ".state/snapshot.bin", p)
        idle = resident(p)
        vips = "\n".join(address(n) for n in range(a.services))
        subprocess.run(["ip", "netns", "exec", "pb-a", "python3", "-c", CALL], input=vips, text=True, check=True)
        settled(wanted)
        learned = resident(p)
        time.sleep(3)   # the snapshot is written a second later at the latest
        end(p)
        p = start(me)
        settled(wanted)
        print(json.dumps({"endpoints": wanted[0], "services": wanted[1], "idle": idle, "learned": learned, "restarted": resident(p)}))
    finally:
        end(p)
        subprocess.run([word if word != "-A" else "-D" for word in rule], check=False)
        subprocess.run(["ip", "-n", "pb-a", "route", "del", RANGE], check=False)
        with open(f"{mesh.DIR}/{LAYER}/control-plane.pid") as f:
            os.killpg(int(f.read()), signal.SIGTERM)


if __name__ == "__main__":
    main()
