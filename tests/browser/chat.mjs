// The checks of tests/browser/run, which prepares what is in the environment here.

import { spawn } from "node:child_process";
import { once } from "node:events";
import readline from "node:readline";
import { chromium } from "playwright-core";
import WebSocket from "ws";

const { CHAT, CHROMIUM, PYTHON, PROFILE, LIMIT } = process.env;
const PATIENCE = 15_000; // ms for one condition
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
// Names that neither a page nor a URL may take for its own language.
const NODE = "<b>Nód</b> & 🦀/?#%", PYTHON_NAME = "Пи́тон";

let passed = 0, failed = 0;
const children = new Set();

/** One line of the report; a check that fails does not stop the others. */
async function check(what, condition) {
  try {
    await condition();
    passed++;
    console.log(`ok      ${what}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${what}\n        ${String(error.message ?? error).split("\n").join("\n        ")}`);
  }
}

function start(program, ...args) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
  children.add(child);
  child.gone = once(child, "exit").finally(() => children.delete(child));
  return child;
}

/** A server on this address, port 0 for any; resolves when it listens. */
async function serve(at) {
  const server = start(CHAT, at);
  const [line] = await once(readline.createInterface({ input: server.stdout }), "line");
  server.address = line.replace(/^listening on /, "");
  return server;
}

async function stop(server) {
  server.kill("SIGINT");
  const [code] = await server.gone;
  if (code !== 0) throw new Error(`the server ended with ${code}`);
}

/** What arrived for a plain client, to be taken in order. */
class Inbox {
  #messages = [];
  #arrival = () => {};

  put(message) {
    this.#messages.push(message);
    this.#arrival();
  }

  get length() {
    return this.#messages.length;
  }

  async expect(pattern) {
    if (!this.length) {
      let timer;
      await new Promise((resolve, reject) => {
        this.#arrival = resolve;
        timer = setTimeout(() => reject(new Error(`expected ${pattern}\n     got nothing`)), PATIENCE);
      });
      clearTimeout(timer);
    }
    const message = this.#messages.shift();
    const found = typeof pattern === "string" ? message === pattern : pattern.exec(message);
    if (!found) throw new Error(`expected ${pattern}\n     got ${message}`);
    return found;
  }
}

const path = (name) => `/ws/${encodeURIComponent(name)}`;

async function nodeClient(address) {
  const socket = new WebSocket(`ws://${address}${path(NODE)}`);
  const inbox = new Inbox();
  socket.on("message", (data, isBinary) => inbox.put(isBinary ? data : data.toString()));
  await once(socket, "open");
  return { inbox, send: (text) => socket.send(text), leave: async () => { socket.close(); await once(socket, "close"); } };
}

function pythonClient(address) {
  const child = start(PYTHON, new URL("client.py", import.meta.url).pathname, `ws://${address}${path(PYTHON_NAME)}`);
  const inbox = new Inbox();
  readline.createInterface({ input: child.stdout }).on("line", (line) => inbox.put(JSON.parse(line)));
  return { inbox, send: (text) => child.stdin.write(`${JSON.stringify(text)}\n`), leave: async () => { child.stdin.end(); await child.gone; } };
}

/** A tab with somebody in the room. */
async function tab(context, address, name) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => {
    // That a server cannot be reached is said on the console too, and is part of the test.
    if (message.type() === "error" && !message.text().startsWith("WebSocket connection to")) page.complaints.push(message.text());
  });
  await page.goto(`http://${address}/`);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join" }).click();
  await connected(page, name);
  return page;
}

const exactly = (text) => new RegExp(`^${text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}( \\(you\\))?$`, "u");
const connected = (page, name) => page.getByRole("status").getByText(`Connected as ${name}`).waitFor();
const person = (page, name) => page.getByRole("navigation").locator(".label", { hasText: exactly(name) });
const note = (page, text) => page.getByRole("log").locator(".note", { hasText: text }).last().waitFor();

/** Waits for a message as a tab shows it: who, to whom, what. */
const shown = (page, from, words, alone) =>
  page.getByRole("article").filter({ has: page.locator(".person:first-child", { hasText: exactly(from) }) })
    .filter({ [alone ? "has" : "hasNot"]: page.getByText("alone", { exact: false }) })
    .filter({ has: page.locator(".words", { hasText: words }) }).waitFor();

/** Writes to somebody, or to everybody, with mouse and keyboard as a person would. */
async function write(page, to, words) {
  await person(page, to || "Everybody").click();
  await page.getByLabel(to ? `To ${to} alone` : "To everybody", { exact: true }).fill(words);
  await page.keyboard.press("Enter");
}

const message = (from, to, data) => JSON.stringify({ from, to, event: "", data });
const welcome = (name) => new RegExp(`^Hello user: ${name.replace(/[?/]/g, "\\$&")} with UUID: ([0-9a-f-]{36})$`, "u");
const newcomer = (name, uuid) => `New user connected: ${name} and UUID: ${uuid}`;
const anybody = (name) => new RegExp(`^New user connected: ${name} and UUID: [0-9a-f-]{36}$`, "u");

async function checks(context) {
  let server = await serve("127.0.0.1:0");
  const { address } = server;

  const ann = await tab(context, address, "Ann");
  const node = await nodeClient(address);
  await check("Node is welcomed as in the Go example", () => node.inbox.expect(welcome(NODE)));
  const python = pythonClient(address);
  let uuid;
  await check("Python is welcomed as in the Go example", async () => { [, uuid] = await python.inbox.expect(welcome(PYTHON_NAME)); });
  await check("Node is told that Python came", () => node.inbox.expect(newcomer(PYTHON_NAME, uuid)));
  const bob = await tab(context, address, "Bob");
  await check("Node and Python are told that the second tab came", async () => {
    await node.inbox.expect(anybody("Bob"));
    await python.inbox.expect(anybody("Bob"));
  });
  await check("the first tab shows who joined", async () => {
    for (const name of [NODE, PYTHON_NAME, "Bob"]) await note(ann, `${name} joined.`);
  });
  await check("both tabs list everybody", async () => {
    for (const page of [ann, bob]) {
      for (const name of ["Ann", "Bob", NODE, PYTHON_NAME]) await person(page, name).waitFor();
      await page.getByRole("heading", { name: "Here now: 4" }).waitFor();
    }
  });

  await check("tab → tab", async () => {
    await write(ann, "Bob", "from tab to tab");
    await shown(bob, "Ann", "from tab to tab", true);
    await shown(ann, "You", "from tab to tab", true);
  });
  await check("tab → Node", async () => {
    await write(ann, NODE, "<i>from tab to Node</i>");
    await node.inbox.expect(message("Ann", NODE, "<i>from tab to Node</i>"));
  });
  await check("Node → tab, with the true sender", async () => {
    node.send(message("the boss", "Ann", "<img src=x onerror=boom()> from Node"));
    await shown(ann, NODE, "<img src=x onerror=boom()> from Node", true);
  });
  await check("tab → Python", async () => {
    await write(bob, PYTHON_NAME, "from tab to Python");
    await python.inbox.expect(message("Bob", PYTHON_NAME, "from tab to Python"));
  });
  await check("Python → tab", async () => {
    python.send(message(PYTHON_NAME, "Bob", "from Python to tab"));
    await shown(bob, PYTHON_NAME, "from Python to tab", true);
  });
  await check("Node → Python, byte for byte", async () => {
    const words = `{ "from":"Node", "to":"${PYTHON_NAME}",  "event":"CUSTOM_EVENT", "data":"\\u0041" }`;
    node.send(words);
    await python.inbox.expect(words);
  });
  await check("Python → Node, byte for byte", async () => {
    const words = ` {"data":"back", "to":${JSON.stringify(NODE)}}`;
    python.send(words);
    await node.inbox.expect(words);
  });
  await check("a tab → everybody", async () => {
    await write(ann, "", "hello, everybody");
    await shown(bob, "Ann", "hello, everybody", false);
    await shown(ann, "You", "hello, everybody", false);
    await node.inbox.expect(message("Ann", NODE, "hello, everybody"));
    await python.inbox.expect(message("Ann", PYTHON_NAME, "hello, everybody"));
  });

  await check("the tabs show that Node and Python left", async () => {
    await node.leave();
    await python.leave();
    for (const page of [ann, bob]) {
      for (const name of [NODE, PYTHON_NAME]) {
        await note(page, `${name} left.`);
        await person(page, name).waitFor({ state: "detached" });
      }
    }
  });
  await check("nothing else ever came to Node and Python", async () => {
    if (node.inbox.length || python.inbox.length) throw new Error("there is more");
  });
  await check("a name that is used elsewhere is lost to that tab, which says so", async () => {
    const other = await tab(context, address, "Bob");
    await bob.getByRole("status").getByText("Somebody else uses your name now").waitFor();
    await bob.getByRole("button", { name: "Join" }).click();
    await connected(bob, "Bob");
    await other.getByRole("status").getByText("Somebody else uses your name now").waitFor();
    await other.close();
  });

  await check("Ctrl-C ends the server well, and the tabs say that the connection is lost", async () => {
    await stop(server);
    for (const page of [ann, bob]) await page.getByRole("status").getByText("Connection lost.").waitFor();
  });
  await check("the tabs come back by themselves when the server does", async () => {
    server = await serve(address);
    await connected(ann, "Ann");
    await connected(bob, "Bob");
    for (const page of [ann, bob]) await page.getByRole("heading", { name: "Here now: 2" }).waitFor();
    await write(bob, "Ann", "here again");
    await shown(ann, "Bob", "here again", true);
  });
  await check("no script failed and the Content-Security-Policy stopped nothing", async () => {
    const complaints = [...ann.complaints, ...bob.complaints];
    if (complaints.length) throw new Error(complaints.join("\n"));
  });
  await stop(server);
}

const overall = setTimeout(() => {
  console.log(`FAILED  not done after ${LIMIT} s`);
  report(1);
}, LIMIT * 1000);

function report(more) {
  failed += more;
  for (const child of children) child.kill("SIGKILL");
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

let context;
try {
  context = await chromium.launchPersistentContext(PROFILE, { executablePath: CHROMIUM, args: FLAGS });
  await checks(context);
  await context.close();
} catch (error) {
  clearTimeout(overall);
  console.log(`FAILED  ${error.stack}`);
  await context?.close();
  report(1);
}
clearTimeout(overall);
report(0);
