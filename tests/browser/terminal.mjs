// The story of terminals: the page of terminal.html, a shell of a real sshd behind the server, and what people do in one.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { open, shoot, story, that, TIMEOUT_MS } from "./checks.mjs";
import { OpenSsh } from "./openssh.mjs";
import { address, Server } from "./server.mjs";
import { Static } from "./static.mjs";

const SSH_PORT = 2200;
/** After Ctrl-C, whatever is under way. */
const PROMPT_MS = 10_000;
const TEXT = "Grüße aus Köln, 世界您好, 🎉🚀";
/** Without emoji: how wide they are, vim and the page's terminal see differently. */
const NOTE = "Grüße aus Köln, 世界您好";

/** One page with a terminal, as its user sees it. */
class Terminal {
  constructor(page, ssh) {
    Object.assign(this, { page, ssh });
  }

  /** Opens the page. Who has logged in in another one of the same browser is logged in here. */
  async visit(from, server, host) {
    const query = new URLSearchParams({ server: server.url.replace("http", "ws"), host: host.id, port: SSH_PORT });
    await this.page.goto(`${from.origin}/?${query}`);
    await this.page.locator(".xterm-screen").waitFor();
  }

  async logIn(password) {
    const form = this.page.locator("#login");
    await form.getByLabel("User name").fill("admin");
    await form.getByLabel("Password").fill(password);
    await form.getByRole("button", { name: "Log in" }).click();
    await this.until(() => document.getElementById("user").textContent !== "");
    return this.page.locator("#user").innerText();
  }

  async fill(password = this.ssh.password) {
    await this.page.getByLabel("SSH user").fill(this.ssh.user);
    await this.page.getByLabel("SSH password").fill(password);
  }

  async connect(password) {
    await this.fill(password);
    await this.page.getByRole("button", { name: "Connect", exact: true }).click();
  }

  /** Connects, and waits for the shell. */
  async shell() {
    await this.connect();
    await this.state("connected");
    await this.prompt();
  }

  /** Types by keys, with Enter behind. */
  async type(line) {
    await this.page.keyboard.type(line);
    await this.page.keyboard.press("Enter");
  }

  /** Pastes from the clipboard, as a person does. */
  async paste(text) {
    await this.page.evaluate((text) => navigator.clipboard.writeText(text), text);
    await this.page.keyboard.press("Shift+Insert");
  }

  until(there, argument, timeout = TIMEOUT_MS) {
    return this.page.waitForFunction(there, argument, { timeout });
  }

  state(wanted) {
    return this.until((wanted) => document.getElementById("state").textContent === wanted, wanted);
  }

  /** The cursor behind a prompt with nothing typed yet. */
  prompt(timeout) {
    return this.until(() => {
      const { active } = window.seen.term.buffer;
      return active.getLine(active.baseY + active.cursorY).translateToString(true, 0, active.cursorX) === "$ ";
    }, null, timeout);
  }

  /** Waits for a line that is this and nothing else. */
  line(wanted) {
    return this.until((wanted) => {
      const buffer = window.seen.term.buffer.active;
      for (let row = buffer.length; row--; ) if (buffer.getLine(row).translateToString(true) === wanted) return true;
      return false;
    }, wanted);
  }

  /** What is on the screen now, line by line. */
  screen() {
    return this.page.evaluate(() => {
      const { rows, buffer: { active } } = window.seen.term;
      return Array.from({ length: rows }, (_, row) => active.getLine(active.baseY + row).translateToString(true));
    });
  }

  /** Waits until a line of the screen, counted from the top or from behind, starts with this. */
  row(row, wanted) {
    return this.until(([row, wanted]) => {
      const { rows, buffer: { active } } = window.seen.term;
      return active.getLine(active.baseY + (row < 0 ? rows + row : row)).translateToString(true).startsWith(wanted);
    }, [row, wanted]);
  }

  /** `normal`, or `alternate`. */
  buffer(wanted) {
    return this.until((wanted) => window.seen.term.buffer.active.type === wanted, wanted);
  }

  size() {
    return this.page.evaluate(() => `${window.seen.term.rows} ${window.seen.term.cols}`);
  }

  /** Asks the host for the size until it is the window's: the one behind the last change may still be on its way. */
  async fits() {
    const size = await this.size();
    await this.type("clear; stty size");
    await this.line(size);
    await this.prompt();
    return size;
  }

  said() {
    return this.page.locator("#said").innerText();
  }

  /** Every message since the last time, output as one; and the codes of the sockets that were closed. */
  take() {
    return this.page.evaluate(() => {
      const { messages, output, codes } = window.seen;
      const types = messages.splice(0).map(({ type }) => type).join(" ");
      return { types, output: output.splice(0).join(""), codes: codes.splice(0) };
    });
  }

  closed() {
    return this.until(() => window.seen.codes.length > 0);
  }
}

/** What is no message of the protocol would be seen here. */
const isShell = (types) => types === "connected data";

async function shells(terminal, server) {
  const user = await terminal.logIn(server.password);
  that("the login of the terminal's page goes through", user === "admin", user);
  await terminal.shell();
  const { types } = await terminal.take();
  that("a ticket opens a terminal, and its prompt is drawn", isShell(types), types);

  await terminal.type(`echo '${TEXT}' typed`);
  await terminal.line(`${TEXT} typed`);
  that("what keys typed is shown: umlauts, CJK, emoji", true);
  await terminal.paste(`echo '${TEXT}' pasted`);
  await terminal.page.keyboard.press("Enter");
  await terminal.line(`${TEXT} pasted`);
  that("what was pasted is shown, too", true);

  that("the host knows the terminal's size", true, await terminal.fits());
  await terminal.page.evaluate(() => window.seen.term.resize(97, 31));
  const resized = await terminal.fits();
  that("and its new one when it is resized", resized === "31 97", resized);
  await terminal.page.setViewportSize({ width: 1100, height: 700 });
  await terminal.until(() => window.seen.term.cols !== 97);
  that("and when the window is", (await terminal.fits()) !== resized);
}

async function programs(terminal) {
  const { page } = terminal;
  await terminal.type("vim note.txt");
  await terminal.buffer("alternate");
  await terminal.row(-1, '"note.txt" [New]');
  await page.keyboard.type("i");
  await terminal.row(-1, "-- INSERT --");
  await page.keyboard.type(`${NOTE}\nsecond line`);
  await terminal.row(1, "second line");
  await page.keyboard.press("Escape");
  // Nothing but where the cursor is, and that all of the file is shown.
  await terminal.until(() => {
    const { rows, buffer: { active } } = window.seen.term;
    return /^ *2,11 +All *$/.test(active.getLine(active.baseY + rows - 1).translateToString());
  });
  const screen = (await terminal.screen()).map((line) => line.trimEnd());
  const drawn = screen[0] === NOTE && screen[1] === "second line" && screen.slice(2, -1).every((line) => line === "~");
  that("vim draws its screen", drawn, screen);
  await shoot(page, "terminal-vim");
  await terminal.type(":wq");
  await terminal.buffer("normal");
  await terminal.prompt();
  const note = readFileSync(path.join(terminal.ssh.home, "note.txt"), "utf8");
  that("vim writes the file, and leaves the screen as it was", note === `${NOTE}\nsecond line\n`, note);

  await terminal.type("clear; top -d 1");
  await terminal.row(0, "top - ");
  await terminal.row(1, "Tasks:");
  const header = (await terminal.screen())[0];
  await terminal.until((header) => {
    const { active } = window.seen.term.buffer;
    const now = active.getLine(active.baseY).translateToString(true);
    return now.startsWith("top - ") && now !== header;
  }, header);
  const later = await terminal.screen();
  that("top draws its header, and does so again", later[2].startsWith("%Cpu(s):"), later);
  await shoot(page, "terminal-top");
  await page.keyboard.press("q");
  await terminal.prompt();
  that("q leaves top", true);
}

async function floods(terminal) {
  const lines = 250_000;
  await terminal.take();
  await terminal.type(`clear; seq -w ${lines}; echo all`);
  await terminal.line("all");
  await terminal.prompt();
  const { output } = await terminal.take();
  const numbers = Array.from({ length: lines }, (_, n) => `${n + 1}`.padStart(6, "0") + "\r\n").join("");
  that("2 MB of output are complete, and drawn to the last line", output.includes(numbers), [output.length, numbers.length]);
  that("nothing of it was left out", !output.includes("left out"));

  await terminal.type("yes");
  await terminal.until(() => window.seen.output.reduce((sum, { length }) => sum + length, 0) > 1_000_000);
  await terminal.page.keyboard.press("Control+C");
  await terminal.prompt(PROMPT_MS);
  const { types } = await terminal.take();
  that("Ctrl-C ends a flood, and the prompt is back", types === "data", types);

  const paste = Array.from({ length: 400 }, (_, n) => `${n}: ${"ä".repeat(20)} ${"x".repeat(22)}`).join("\n") + "\n";
  const bytes = Buffer.byteLength(paste);
  const file = path.join(terminal.ssh.home, "paste.txt");
  await terminal.type("clear; cat > paste.txt");
  // From here on it is cat that reads, and no editor of lines.
  while (!existsSync(file)) await pause(20);
  await terminal.paste(paste);
  await terminal.line(paste.trimEnd().split("\n").at(-1));
  await terminal.page.keyboard.press("Control+D");
  await terminal.prompt();
  const came = readFileSync(file, "utf8");
  that("a paste of 20 KB arrives whole", bytes > 20_000 && came === paste, [bytes, came.length, paste.length]);
}

async function endings(terminal, server) {
  const { page } = terminal;
  await terminal.take();
  await terminal.type("exit");
  await terminal.until(() => window.seen.messages.at(-1)?.type === "closed");
  await terminal.state("disconnected");
  const { codes } = await terminal.take();
  const end = await terminal.said();
  that("the shell's end is shown, and the socket stays", end === "SSH connection closed" && !codes.length, [end, codes]);
  await terminal.shell();
  const { types, codes: still } = await terminal.take();
  that("the same socket opens another shell", isShell(types) && !still.length, [types, still]);

  await terminal.type("sleep 1000");
  await page.getByRole("button", { name: "Disconnect" }).click();
  await terminal.closed();
  const left = await terminal.take();
  that("disconnecting ends in order", left.codes.join() === "1000", left);
  await until(() => terminal.ssh.running() === 0);
  that("and leaves nothing on the host", true);

  await terminal.connect("not the password");
  await terminal.state("disconnected");
  await terminal.until(() => window.seen.messages.length > 0);
  const wrong = await terminal.take();
  const said = await terminal.said();
  that("a wrong password is said to be wrong", wrong.types === "error" && /password|authenti/i.test(said), [wrong, said]);
  await terminal.shell();
  const right = await terminal.take();
  that("the same socket takes the right one", isShell(right.types) && !right.codes.length, right);
}

async function refusals(browser, allowed, foreign, server, host, ssh) {
  const { page, close } = await open(browser);
  const terminal = new Terminal(page, ssh);
  await terminal.visit(allowed, server, host);
  await terminal.logIn(server.password);
  await terminal.fill();
  const ticket = await page.evaluate(() => window.seen.ticket());
  const enter = (ticket) => page.evaluate((ticket) => window.seen.enter(ticket), ticket);
  await enter(ticket);
  await terminal.state("connected");
  await terminal.prompt();
  await page.getByRole("button", { name: "Disconnect" }).click();
  await terminal.closed();
  await terminal.take();
  await enter(ticket);
  await terminal.closed();
  const again = await terminal.take();
  const said = await terminal.said();
  that("a ticket is good for one socket", again.codes.join() === "1006" && said === "Session may have expired", [again, said]);

  const fresh = await page.evaluate(() => window.seen.ticket());
  await terminal.visit(foreign, server, host);
  await terminal.fill();
  await enter(fresh);
  await terminal.closed();
  const { types, codes } = await terminal.take();
  that("a page of others opens none, whatever its ticket", codes.join() === "1006" && types === "", [types, codes]);
  const denied = JSON.stringify(await server.call("GET", "/audit"));
  that("which the audit log tells", denied.includes("the request comes from another page"), denied.slice(0, 400));
  await close();
}

/** The page's own time: it says disconnect after 15 minutes without output. */
async function idling(browser, allowed, server, host, ssh) {
  const { page, close } = await open(browser);
  await page.clock.install();
  const terminal = new Terminal(page, ssh);
  await terminal.visit(allowed, server, host);
  await terminal.logIn(server.password);
  await terminal.shell();
  await page.clock.fastForward("14:30");
  that("an idle page is warned", (await terminal.said()).includes("in a minute"), await terminal.said());
  await terminal.type("echo still here");
  await terminal.line("still here");
  await page.clock.fastForward("14:30");
  that("output keeps it open", (await page.locator("#state").innerText()) === "connected");
  await page.clock.fastForward("00:45");
  await terminal.closed();
  const { codes } = await terminal.take();
  that("after 15 minutes it closes", codes.join() === "1000", codes);
  await close();
}

async function revoked(browser, allowed, server, host, ssh) {
  const { page, close } = await open(browser);
  const terminal = new Terminal(page, ssh);
  await terminal.visit(allowed, server, host);
  await terminal.logIn(server.password);
  await terminal.shell();
  await terminal.take();
  const other = await page.context().newPage();
  await new Terminal(other, ssh).visit(allowed, server, host);
  await other.getByRole("button", { name: "Log out" }).click();
  await terminal.closed();
  const { types, codes } = await terminal.take();
  const inOrder = types === "error closed" && codes.join() === "1008";
  that("logging out in another tab ends the terminal, with a close frame", inOrder, [types, codes]);
  const reason = await page.evaluate(() => {
    const buffer = window.seen.term.buffer.active;
    return Array.from({ length: buffer.length }, (_, row) => buffer.getLine(row).translateToString(true)).join("\n");
  });
  that("and it is said why", /session|logged out/i.test(reason) && !reason.includes("may have expired"), reason.trim());
  await shoot(page, "terminal-revoked");
  await close();
}

async function until(there) {
  const deadline = Date.now() + TIMEOUT_MS;
  while (!there()) {
    if (Date.now() > deadline) throw new Error(`it never came that ${there}`);
    await pause(50);
  }
}

/** The whole story, on a server of its own, which is added to `servers`. */
export async function terminals(browser, binary, folder, servers) {
  const allowed = new Static();
  const foreign = new Static();
  await Promise.all([allowed.start(), foreign.start()]);
  const settings = { PATCHBAY_ALLOWED_ORIGINS: allowed.origin, PATCHBAY_SSH_ALLOW: "127.0.0.0/8" };
  const server = new Server(binary, folder, TIMEOUT_MS, settings);
  servers.push(server);
  const ssh = new OpenSsh(address(), SSH_PORT, TIMEOUT_MS);
  allowed.behind = foreign.behind = server.url;
  try {
    await ssh.start();
    await server.start();
    const [host] = await server.addHosts(1);
    await server.report(host, { hostname: "web-1", ip: address() });

    const { page, wrong, close } = await open(browser, { permissions: ["clipboard-read", "clipboard-write"] });
    const terminal = new Terminal(page, ssh);
    await terminal.visit(allowed, server, host);
    await story("shells can be used", () => shells(terminal, server));
    await story("programs can be used", () => programs(terminal));
    await story("much comes and goes through", () => floods(terminal));
    await story("shells end and begin", () => endings(terminal, server));
    await story("who may not is refused", () => refusals(browser, allowed, foreign, server, host, ssh));
    await story("an idle page ends", () => idling(browser, allowed, server, host, ssh));
    await story("a session's end ends terminals", () => revoked(browser, allowed, server, host, ssh));

    await terminal.take();
    const status = await server.stop();
    await terminal.closed();
    const { types, codes } = await terminal.take();
    const inOrder = types === "error closed" && codes.join() === "1001";
    that("a server that stops says so, with a close frame", inOrder, [types, codes]);
    that("a server with terminals stops in order", status === 0, status);
    that("no script of the terminal's page failed", wrong.length === 0, wrong);
    await close();
  } finally {
    if (server.process?.exitCode === null) await server.stop();
    await ssh.stop();
    allowed.stop();
    foreign.stop();
  }
}
