// The server that the pages are of, its hosts, and agents for them.
import { execFileSync, spawn } from "node:child_process";
import { createRequire } from "node:module";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const target = process.env.CARGO_TARGET_DIR ?? new URL("../../target", import.meta.url).pathname;
const { WebSocket } = createRequire(path.join(target, "browser/"))("ws");

/** An address of its own, the same one again after a restart. */
export function address() {
  const pid = process.pid;
  return `127.${64 + (pid >> 14) % 32}.${(pid >> 7) & 127}.${1 + (pid & 127)}`;
}

export class Server {
  /** `settings`: more of its environment. */
  constructor(binary, folder, timeoutMs, settings = {}) {
    this.binary = binary;
    this.timeoutMs = timeoutMs;
    this.password = "0123456789 browser";
    this.url = `http://${address()}:3001`;
    this.internal = `http://${address()}:3002`;
    this.folder = folder;
    this.lines = [];
    const foreign = /^(PATCHBAY_|DATABASE_URL|OTEL_)/;
    this.environment = {
      ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name))),
      PATCHBAY_DATA_DIR: path.join(folder, "data"),
      PATCHBAY_LISTEN: `${address()}:3001`,
      PATCHBAY_INTERNAL_LISTEN: `${address()}:3002`,
      PATCHBAY_ADMIN_PASSWORD: this.password,
      RUST_LOG: "info",
      ...settings,
    };
  }

  async start() {
    this.process = spawn(this.binary, [], { env: this.environment, stdio: ["ignore", "ignore", "pipe"] });
    this.ended = new Promise((resolve) => this.process.on("exit", (code, signal) => resolve(signal ?? code)));
    this.process.stderr.on("data", (data) => this.lines.push(...`${data}`.trim().split("\n")));
    await this.until("is ready", async () => (await fetch(this.internal + "/readyz")).ok);
    await this.login();
  }

  async until(what, there) {
    const deadline = Date.now() + this.timeoutMs;
    while (!(await there().catch(() => false))) {
      if (Date.now() > deadline || this.process.exitCode !== null) throw new Error(`the server never ${what}`);
      await pause(50);
    }
  }

  async login() {
    const answer = await this.call("POST", "/auth/login", { username: "admin", password: this.password });
    this.token = answer.token;
  }

  async call(method, at, body) {
    const headers = { "Content-Type": "application/json" };
    if (this.token && !at.startsWith("/auth/")) headers.Authorization = `Bearer ${this.token}`;
    const answer = await fetch(this.url + "/api/v1" + at, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${at} was answered ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  async addHosts(count) {
    const names = Array.from({ length: count }, (_, n) => `web-${n + 1}`);
    return (await this.call("POST", "/hosts", { names })).items;
  }

  /** What a host says of itself. */
  async report(host, facts) {
    const headers = { "Content-Type": "application/json", "X-Api-Id": host.api_id, "X-Api-Key": host.api_key };
    const about = { packages: [], repositories: [], osType: "debian", osVersion: "12", architecture: "amd64", ...facts };
    const answer = await fetch(this.url + "/api/v1/hosts/update", { method: "POST", headers, body: JSON.stringify(about) });
    if (!answer.ok) throw new Error(`the report was answered ${answer.status} ${await answer.text()}`);
  }

  command(kind, hosts) {
    return this.call("POST", "/commands", { kind, ...(hosts ? { host_ids: hosts } : { all: true }) });
  }

  /** One that reads what it is sent and does nothing about it. */
  async agent(host) {
    const headers = { "X-Api-Id": host.api_id, "X-Api-Key": host.api_key };
    const socket = new WebSocket(this.url.replace("http", "ws") + "/api/v1/agents/ws", { headers });
    await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
    socket.removeAllListeners("error").on("error", () => {});
    return socket;
  }

  /** A simulated fleet in the middle of long scans, so that there is something to look at. */
  async crowd() {
    const options = ["--server", this.url, "--agents", "60", "--scan-secs", "300", "--hosts", path.join(this.folder, "hosts.jsonl")];
    const env = { ...this.environment, PATCHBAY_ADMIN_PASSWORD: this.password };
    this.fleet = spawn(path.join(path.dirname(this.binary), "fleet"), options, { env, stdio: "ignore" });
    await this.until("has its fleet", async () => (await this.call("GET", "/ws/status/summary")).connected >= 60);
    await this.command("compliance_scan");
    const running = async () => (await this.call("GET", "/automation/stats")).data.compliance.active >= 60;
    await this.until("runs the scans", running);
  }

  newPassword() {
    const told = execFileSync(this.binary, ["user", "passwd", "admin", "--json"], { env: this.environment });
    this.password = JSON.parse(told).password;
    return this.login();
  }

  tail() {
    return this.lines.slice(-20);
  }

  /** SIGTERM, and its end: the status, or the signal that it took. */
  async stop() {
    this.process.kill();
    const late = setTimeout(() => this.process.kill("SIGKILL"), this.timeoutMs);
    const status = await this.ended;
    clearTimeout(late);
    return status;
  }

  leave() {
    this.fleet?.kill();
  }
}
