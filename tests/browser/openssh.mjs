// Debian's sshd with a user of its own. It needs root, for the user and for sshd itself.
//
// The watcher of the other suites ends it, and removes the user and the folder, as soon as this process is gone, however
// that came. Names of users carry the process that made them: what a watcher could not remove, the next start does.
import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync } from "node:fs";
import { statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const PREFIX = "patchbay-test-";
const WATCHER = fileURLToPath(new URL("../src/services/openssh/watcher.sh", import.meta.url));

const quietly = { stdio: ["pipe", "ignore", "pipe"] };

/** Changes the users, again while somebody else does. */
async function change(program, options, input = "", deadline = Date.now() + 60_000) {
  try {
    execFileSync(`/usr/sbin/${program}`, options, { ...quietly, input });
  } catch (error) {
    if (!`${error.stderr}`.includes("lock") || Date.now() > deadline) throw error;
    await pause(50);
    await change(program, options, input, deadline);
  }
}

const users = () => readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":"));

/** What runs as a user, by number. */
function processes(user) {
  const own = (id) => {
    try {
      return statSync(`/proc/${id}`).uid === user;
    } catch {
      return false;
    }
  };
  return readdirSync("/proc").filter((id) => /^\d+$/.test(id) && own(id)).map(Number);
}

/** Users whose suite was killed, with its watcher. */
async function removeLeftovers() {
  for (const [name, , id] of users()) {
    const owner = name.startsWith(PREFIX) && name.slice(PREFIX.length).split("-")[0];
    if (!owner || existsSync(`/proc/${owner}`)) continue;
    for (const process of processes(Number(id))) kill(process);
    await change("userdel", ["--force", name]);
  }
}

function kill(id) {
  try {
    process.kill(id, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}

export class OpenSsh {
  /** `address`: an IP of the loopback network. */
  constructor(address, port, timeoutMs) {
    Object.assign(this, { address, port, timeoutMs });
    this.user = `${PREFIX}${process.pid}-0`;
    this.password = randomBytes(16).toString("hex");
  }

  async start() {
    if (!existsSync("/usr/sbin/sshd")) throw new Error("there is no sshd: run `scripts/setup browser`");
    if (process.getuid() !== 0) throw new Error("sshd and its user need root: run these tests as root");
    // sshd shuts its children up in here, and the system makes it only at boot.
    mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
    await removeLeftovers();
    this.folder = mkdtempSync(path.join(tmpdir(), "patchbay-sshd-"));
    // Its user has to get to his home.
    chmodSync(this.folder, 0o755);
    this.home = path.join(this.folder, "home");
    mkdirSync(this.home);
    // No colours and no history; the prompt is what the checks wait for.
    writeFileSync(path.join(this.home, ".bash_profile"), "export PS1='$ ' LANG=C.UTF-8\nunset HISTFILE\n");
    const options = ["--no-create-home", "--no-user-group", "--no-log-init", "--shell", "/bin/bash"];
    await change("useradd", [...options, "--home-dir", this.home, this.user]);
    const [, , id, group] = users().find(([name]) => name === this.user);
    this.id = Number(id);
    chownSync(this.home, this.id, Number(group));
    await change("chpasswd", [], `${this.user}:${this.password}\n`);
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", this.file("host_ed25519")], quietly);
    writeFileSync(this.file("sshd_config"), this.config());
    const log = openSync(this.file("sshd.log"), "a");
    // Groups of their own: Ctrl-C in the terminal is for this process, and the watcher follows.
    const apart = { detached: true, stdio: ["ignore", "ignore", log] };
    this.server = spawn("/usr/sbin/sshd", ["-D", "-e", "-f", this.file("sshd_config")], apart);
    const watched = [`${this.server.pid}`, this.user, id, this.folder];
    this.watcher = spawn("sh", [WATCHER, ...watched], { detached: true, stdio: ["pipe", "ignore", "ignore"] });
    await this.ready();
  }

  file(name) {
    return path.join(this.folder, name);
  }

  config() {
    return `ListenAddress ${this.address}:${this.port}
HostKey ${this.file("host_ed25519")}
PidFile none
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin no
AllowUsers ${this.user}
StrictModes no
UseDNS no
PrintMotd no
PrintLastLog no
X11Forwarding no
`;
  }

  async ready() {
    const deadline = Date.now() + this.timeoutMs;
    while (!(await this.greets())) {
      if (Date.now() > deadline || this.server.exitCode !== null) throw new Error(`sshd does not start:\n${this.log()}`);
      await pause(50);
    }
  }

  /** SSH servers speak first. */
  greets() {
    return new Promise((resolve) => {
      const socket = connect(this.port, this.address);
      socket.on("error", () => resolve(false));
      // Said goodbye to properly, it logs no reset.
      socket.on("data", (data) => resolve(`${data}`.startsWith("SSH-2.0-") && socket.end("SSH-2.0-ready\r\n")));
      socket.on("close", () => resolve(false));
    });
  }

  /** How many processes its user has. */
  running() {
    return processes(this.id).length;
  }

  log() {
    return readFileSync(this.file("sshd.log"), "utf8");
  }

  /** Ends it and all sessions; the user and the folder go, too. */
  async stop() {
    const ended = this.watcher && once(this.watcher, "exit");
    this.watcher?.stdin.end();
    await ended;
  }
}
