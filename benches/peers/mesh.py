#!/usr/bin/env python3
"""mesh.py up [--endpoints 100] [--far 1] | down: our mesh for the harness, with everything on.

`up` starts two control planes in pb-b, beside nothing that is measured: one whose services speak
HTTP (`l7`, 15012), one whose services speak TCP (`l4`, 15013). Each knows two clusters:

    west   client, server-0 ... (all at 10.77.0.2: one address, many endpoints), gateway 10.77.1.3
    east   client, on another network: it reaches `far`, exported by west, through the gateway

In both the application dials 10.77.0.2: in west that is the address of the service `server`, in
east that of the imported `far`. A policy of west allows the two clients' identities and no other.
Then `bench.py --proxy exec:isthmus.json` starts the proxies (start.sh), as uid 1337. They find a
certificate and a snapshot in their state folders, as after a restart.
  ISTHMUS_BIN  folder with isthmus, isthmus-proxy and isthmus-control-plane (default target/release)
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
DIR = os.environ.get("PEERS_DIR", "/tmp/mesh-peers") + "/isthmus"
BIN = os.environ.get("ISTHMUS_BIN", REPO + "/target/release")
PROGRAMS = ("isthmus", "isthmus-proxy", "isthmus-control-plane")
UID = 1337
CORE = os.environ.get("LOAD_CORE", "0")
CLIENT, SERVER, GATEWAY = "10.77.0.1", "10.77.0.2", "10.77.1.3"
PORTS = {"l7": {8080: "http", 8081: "kubernetes.io/h2c", 5201: "tcp"}, "l4": {8080: "tcp", 8081: "tcp", 5201: "tcp"}}
LAYERS = {"l7": 15012, "l4": 15013}     # layer: port of its control plane
# role of the harness: case, cluster, namespace, account, pod, its address
PROXIES = [("A", "direct", "west", "bench", "client", "client", CLIENT),
           ("B", "direct", "west", "bench", "server", "server-0", SERVER),
           ("A", "gateway", "east", "bench", "client", "client", CLIENT),
           ("B", "gateway", "west", "bench", "server", "server-0", SERVER),
           ("G", "gateway", "west", "isthmus-system", "gateway", "gateway-0", GATEWAY)]


def obj(api, kind, name, namespace=None, **more):
    meta = {"name": name, **({"namespace": namespace} if namespace else {}), **more.pop("metadata", {})}
    return {"apiVersion": api, "kind": kind, "metadata": meta, **more}


def pod(name, namespace, account, ip, **labels):
    return obj("v1", "Pod", name, namespace, metadata={"labels": labels}, spec={"serviceAccountName": account, "containers": []},
               status={"phase": "Running", "podIP": ip})


def service(name, layer, ip, **selector):
    ports = [{"name": f"p{p}", "port": p, "targetPort": p, "appProtocol": a} for p, a in PORTS[layer].items()]
    return obj("v1", "Service", name, "bench", spec={"clusterIP": ip, "selector": selector, "ports": ports})


def cluster(name):
    return [obj("isthmus.dev/v1alpha1", "MeshCluster", name, spec={"network": name + "-net", "region": "r", "zone": name}),
            obj("v1", "Namespace", "bench"), obj("v1", "Namespace", "isthmus-system"),
            obj("v1", "ServiceAccount", "client", "bench"), pod("client", "bench", "client", CLIENT, app="client")]


def manifests(layer, endpoints, far):
    clients = [f"spiffe://{c}.mesh.internal/ns/bench/sa/client" for c in ("east", "west")]
    allowed = {"methods": ["GET", "POST"], "paths": [{"prefix": "/"}]} if layer == "l7" else {"ports": [*PORTS[layer]]}
    rules = [{"from": [{"identities": clients}], "to": [allowed]}]
    if layer == "l7":   # iperf's port, for the gateway's bulk scenario
        rules.append({"from": [{"identities": clients}], "to": [{"ports": [5201]}]})
    west = cluster("west") + [
        obj("v1", "ServiceAccount", "server", "bench"), obj("v1", "ServiceAccount", "gateway", "isthmus-system"),
        service("server", layer, SERVER, app="server"), service("far", layer, "10.96.0.10", far="yes"),
        obj("multicluster.x-k8s.io/v1beta1", "ServiceExport", "far", "bench"),
        pod("gateway-0", "isthmus-system", "gateway", GATEWAY, app="gateway"),
        obj("gateway.networking.k8s.io/v1", "Gateway", "gateway", "isthmus-system",
            spec={"gatewayClassName": "isthmus-east-west", "listeners": [{"name": "mesh", "port": 15443, "protocol": "TLS"}],
                  "addresses": [{"type": "IPAddress", "value": GATEWAY}]}),
        obj("isthmus.dev/v1alpha1", "AccessPolicy", "server", "bench", spec={"action": "Allow", "rules": rules})]
    west += [pod(f"server-{n}", "bench", "server", SERVER, app="server", **({"far": "yes"} if n < far else {}))
             for n in range(endpoints)]
    east = cluster("east") + [
        obj("multicluster.x-k8s.io/v1beta1", "ServiceImport", "far", "bench", spec={"type": "ClusterSetIP", "ips": [SERVER]})]
    return {"west": west, "east": east}


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text if isinstance(text, str) else json.dumps(text, indent=1))
    return path


def control_plane(layer, port, endpoints, far):
    """Writes its clusters, starts it, and gives each of its proxies a token and a configuration."""
    at = f"{DIR}/{layer}"
    for name, objects in manifests(layer, endpoints, far).items():
        # JSON is YAML; a file has 10,000 documents at most.
        for begin in range(0, len(objects), 5000):
            some = objects[begin:begin + 5000]
            write(f"{at}/clusters/{name}/{begin}.yaml", "\n---\n".join(json.dumps(o) for o in some) + "\n")
    state = at + "/control-plane"
    conf = write(f"{at}/control-plane.json", {
        "state_dir": state, "listen": {"discovery": f"0.0.0.0:{port}", "admin": f"127.0.0.1:{port + 100}"},
        "clusters": [{"name": c, "files": f"{at}/clusters/{c}"} for c in ("west", "east")]})
    log = open(f"{at}/control-plane.log", "w")
    p = subprocess.Popen(["ip", "netns", "exec", "pb-b", "taskset", "-c", CORE, f"{DIR}/bin/isthmus-control-plane", "--config", conf],
                         stdout=log, stderr=log, start_new_session=True)
    write(f"{at}/control-plane.pid", str(p.pid))
    wait(f"{state}/listeners.json", p)
    shutil.copy(f"{state}/roots.pem", f"{at}/roots.pem")
    os.chmod(f"{at}/roots.pem", 0o644)
    for role, case, where, ns, account, name, ip in PROXIES:
        me = f"{at}/{case}-{role}"
        # The gateway has a way of its own to where the control plane runs.
        peer = "10.77.2.2" if role == "G" else SERVER
        listen = {"A": {"outbound": "0.0.0.0:15001"}, "B": {"inbound": "0.0.0.0:15006", "mesh": "0.0.0.0:15008"},
                  "G": {"gateway": "0.0.0.0:15443"}}[role]
        mint = [f"{DIR}/bin/isthmus", "token", "--state-dir", state, "--cluster", where, "--namespace", ns,
                "--service-account", account, "--pod", name]
        write(me + ".token", subprocess.run(mint, check=True, stdout=subprocess.PIPE, text=True).stdout)
        write(me + ".json", {
            "role": "gateway" if role == "G" else "sidecar", "cluster": where, "network": where + "-net", "namespace": ns, "pod": name,
            "service_account": account, "addresses": [ip], "token_file": me + ".token", "state_dir": me + ".state", "workers": 1,
            "control_plane": {"address": f"{peer}:{port}", "roots_file": f"{at}/roots.pem"},
            "listen": {**listen, "admin": "127.0.0.1:15000", "ready": "0.0.0.0:15020"}})
        os.makedirs(me + ".state", exist_ok=True)
        for path in (me + ".state", me + ".token"):
            os.chown(path, UID, UID)


def wait(path, p, limit=30):
    end = time.time() + limit
    while not os.path.exists(path):
        if p.poll() is not None or time.time() > end:
            raise SystemExit(f"{path} does not come (exit status {p.poll()}): see the log beside it")
        time.sleep(0.05)


def warm(layer, role, case):
    """Runs a proxy until it has a certificate and its snapshot is on disk."""
    me = f"{DIR}/{layer}/{case}-{role}"
    log = open(me + ".log", "w")
    p = subprocess.Popen(["ip", "netns", "exec", f"pb-{role.lower()}", "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                          f"{DIR}/bin/isthmus-proxy", "--config", me + ".json"], stdout=log, stderr=log, start_new_session=True)
    try:
        wait(me + ".state/snapshot.bin", p)
    finally:
        os.killpg(p.pid, signal.SIGTERM)
        p.wait()


def up(endpoints, far):
    subprocess.run([f"{HERE}/net.sh", "up"], check=True)
    # The gateway reaches the pods' addresses by its own link.
    subprocess.run(["ip", "-n", "pb-g", "route", "replace", SERVER + "/32", "via", "10.77.2.2"], check=True)
    os.makedirs(DIR + "/bin", exist_ok=True)
    for program in PROGRAMS:
        shutil.copy(f"{BIN}/{program}", f"{DIR}/bin/{program}")
    shutil.copy(f"{HERE}/start.sh", f"{DIR}/start.sh")
    for layer, port in LAYERS.items():
        shutil.rmtree(f"{DIR}/{layer}", ignore_errors=True)
        control_plane(layer, port, endpoints, far)
        for role, case, *_ in PROXIES:
            warm(layer, role, case)
    print(f"two control planes, {endpoints} endpoints, {far} behind the gateway, in {DIR}")


def down():
    for layer in LAYERS:
        try:
            with open(f"{DIR}/{layer}/control-plane.pid") as f:
                os.killpg(int(f.read()), signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            pass


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=("up", "down"))
    ap.add_argument("--endpoints", type=int, default=100)
    ap.add_argument("--far", type=int, default=1, help="how many of them are behind the gateway too")
    a = ap.parse_args()
    down()
    if a.what == "up":
        up(a.endpoints, a.far)
    sys.exit(0)
