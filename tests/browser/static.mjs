// A web server with the terminal's page. The API is passed on, as the web server of PatchMon's pages does; sockets are not.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import path from "node:path";

const TARGET = process.env.CARGO_TARGET_DIR ?? new URL("../../target", import.meta.url).pathname;
const packaged = (file) => path.join(TARGET, "browser/node_modules/@xterm", file);
const FILES = {
  "/": ["text/html", new URL("terminal.html", import.meta.url)],
  "/xterm.mjs": ["text/javascript", packaged("xterm/lib/xterm.mjs")],
  "/addon-fit.mjs": ["text/javascript", packaged("addon-fit/lib/addon-fit.mjs")],
  "/xterm.css": ["text/css", packaged("xterm/css/xterm.css")],
};

export class Static {
  /** On a free port. */
  async start() {
    this.http = createServer((asked, answer) => this.answer(asked, answer));
    this.http.listen(0, "127.0.0.1");
    await once(this.http, "listening");
    this.origin = `http://127.0.0.1:${this.http.address().port}`;
  }

  answer(asked, answer) {
    const { pathname } = new URL(asked.url, this.origin);
    if (pathname.startsWith("/api/")) return this.pass(asked, answer);
    const file = FILES[pathname];
    if (!file) return answer.writeHead(404).end();
    answer.writeHead(200, { "Content-Type": `${file[0]}; charset=utf-8` }).end(readFileSync(file[1]));
  }

  pass(asked, answer) {
    const { host, connection, ...headers } = asked.headers;
    const on = request(this.behind + asked.url, { method: asked.method, headers });
    on.on("response", (came) => came.pipe(answer.writeHead(came.statusCode, came.headers)));
    on.on("error", () => answer.writeHead(502).end());
    asked.pipe(on);
  }

  stop() {
    this.http?.close();
    this.http?.closeAllConnections();
  }
}
