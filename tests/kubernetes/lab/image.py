#!/usr/bin/env python3
"""Makes a container image, as an OCI tarball, out of files: no engine, no registry.

    image.py OUT.tar NAME:TAG [--user UID:GID] [--env K=V]... [--label K=V]... [--libraries] PATH_IN_IMAGE=FILE... -- ENTRYPOINT...

--libraries adds the shared libraries that the files need, as ldd finds them.
"""
import gzip
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile

EPOCH = "1970-01-01T00:00:00Z"


def needed(files):
    """The libraries of these, where the loader looks for them."""
    found = {}
    for file in files:
        with open(file, "rb") as start:
            if start.read(4) != b"\x7fELF":
                continue
        for line in subprocess.run(["ldd", file], capture_output=True, text=True).stdout.splitlines():
            words = line.split()
            path = words[2] if "=>" in words[1:2] and len(words) > 2 else words[0]
            if path.startswith("/"):
                found[path] = path
    return [list(pair) for pair in found.items()]


def main(argv):
    argv, entrypoint = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    out, name, rest = argv[0], argv[1], argv[2:]
    user, env, labels, files, libraries = "65532:65532", ["PATH=/usr/bin:/bin"], {}, [], False
    while rest:
        word = rest.pop(0)
        if word == "--user":
            user = rest.pop(0)
        elif word == "--env":
            env.append(rest.pop(0))
        elif word == "--label":
            key, value = rest.pop(0).split("=", 1)
            labels[key] = value
        elif word == "--libraries":
            libraries = True
        else:
            files.append(word.split("=", 1))
    if libraries:
        files += needed(source for _, source in files)

    # One layer: the folders a file needs, then the files. Times and owners are
    # fixed, so the same inputs give the same digest.
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as layer:
        seen = set()
        for folder, mode in [("tmp", 0o1777)] + [
            ("/".join(path.strip("/").split("/")[:depth]), 0o755)
            for path, _ in files
            for depth in range(1, path.strip("/").count("/") + 1)
        ]:
            if folder not in seen:
                seen.add(folder)
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, mode
                layer.addfile(info)
        for path, source in files:
            with open(source, "rb") as file:
                data = file.read()
            info = tarfile.TarInfo(path.strip("/"))
            info.size, info.mode = len(data), 0o755
            layer.addfile(info, io.BytesIO(data))

    blobs = {}

    def put(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    layer = put(gzip.compress(raw.getvalue(), 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = put(
        json.dumps(
            {
                "created": EPOCH,
                "architecture": arch,
                "os": "linux",
                "config": {"User": user, "Env": env, "Entrypoint": entrypoint, "WorkingDir": "/", "Labels": labels},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": ["sha256:" + hashlib.sha256(raw.getvalue()).hexdigest()],
                },
                "history": [{"created": EPOCH, "created_by": "image.py"}],
            }
        ).encode(),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": [layer],
            }
        ).encode(),
        "application/vnd.oci.image.manifest.v1+json",
    )
    manifest["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[-1],
    }
    with tarfile.open(out, "w") as image:
        def add(path, data):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            image.addfile(info, io.BytesIO(data))

        add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        for digest, data in blobs.items():
            add("blobs/sha256/" + digest, data)


if __name__ == "__main__":
    if len(sys.argv) < 5 or "--" not in sys.argv:
        sys.exit(__doc__)
    main(sys.argv[1:])
