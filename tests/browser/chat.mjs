// The checks of tests/browser/run, which prepares what is in the environment here.

import { spawn } from "node:child_process";
import { X509Certificate, createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import readline from "node:readline";
import { chromium } from "playwright-core";
import WebSocket from "ws";
import { check, assert, isInSight, look, result, show, views, DESKTOP } from "./views.mjs";
import { cluster } from "./cluster.mjs";
import { loops } from "./loops.mjs";
import { reports } from "./report.mjs";

const { CERTIFICATES, EXAMPLES, CHROMIUM, PYTHON, PROFILE, LIMIT } = process.env;
const PATIENCE = 15_000; // ms for one condition
// A certificate and its key, by the authority of the tests.
const pair = (name) => [`${CERTIFICATES}/${name}.pem`, `${CERTIFICATES}/${name}.key`];
/** The hash of a public key, by which Chromium is told to accept its certificate, and no other. */
function keyHash(name) {
  const { publicKey } = new X509Certificate(readFileSync(pair(name)[0]));
  const key = publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(key).digest("base64");
}
const ACCEPTED = ["localhost", "renewed"];
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  `--ignore-certificate-errors-spki-list=${ACCEPTED.map(keyHash)}`,
];
// Names that neither a page nor a URL may take for its own language.
const NODE = "<b>Nód</b> & 🦀/?#%", PYTHON_NAME = "Пи́тон";
const MAX_NAME = 40, MAX_WORDS = 4000; // as in examples/chat/main.rs

const children = new Set();

function start(program, ...args) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
  children.add(child);
  child.gone = once(child, "exit").finally(() => children.delete(child));
  return child;
}

/** A server on this address, port 0 for any; resolves when it listens. With TLS, it has files. */
async function serve(at, ...files) {
  const server = start(`${EXAMPLES}/chat`, at, ...(files.length ? ["--tls", ...files] : []));
  server.lines = readline.createInterface({ input: server.stdout });
  const [line] = await once(server.lines, "line");
  server.address = line.replace(/^listening on /, "");
  const port = server.address.replace(/.*:/, "");
  server.base = files.length ? `https://localhost:${port}` : `http://${server.address}`;
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
        const late = new Error(`expected ${pattern}\n     got nothing`);
        timer = setTimeout(() => reject(late), PATIENCE);
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

async function nodeClient(base, name = NODE, options = {}) {
  const socket = new WebSocket(`${base.replace("http", "ws")}${path(name)}`, options);
  const inbox = new Inbox();
  socket.on("message", (data, isBinary) => inbox.put(isBinary ? data : data.toString()));
  await once(socket, "open");
  const leave = async () => {
    socket.close();
    await once(socket, "close");
  };
  return { inbox, send: (text) => socket.send(text), leave };
}

function pythonClient(base) {
  const program = new URL("client.py", import.meta.url).pathname;
  const child = start(PYTHON, program, `${base.replace("http", "ws")}${path(PYTHON_NAME)}`);
  const inbox = new Inbox();
  const lines = readline.createInterface({ input: child.stdout });
  lines.on("line", (line) => inbox.put(JSON.parse(line)));
  const leave = async () => {
    child.stdin.end();
    await child.gone;
  };
  return { inbox, send: (text) => child.stdin.write(`${JSON.stringify(text)}\n`), leave };
}

/** A tab of a person in the room. */
async function tab(context, base, name) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => {
    // The console also says that a server cannot be reached, which is part of the test.
    const isExpected = message.text().startsWith("WebSocket connection to");
    if (message.type() === "error" && !isExpected) page.complaints.push(message.text());
  });
  await page.goto(`${base}/`);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join" }).click();
  await connected(page, name);
  return page;
}

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
const exactly = (text) => new RegExp(`^${escaped(text)}( \\(you\\))?$`, "u");
const connected = (page, name) =>
  page.getByRole("status").getByText(`Connected as ${name}`).waitFor();
const here = (page, count) => page.getByRole("heading", { name: `Here now: ${count}` }).waitFor();
const person = (page, name) =>
  page.getByRole("navigation").locator(".label", { hasText: exactly(name) });
const note = (page, text) =>
  page.getByRole("log").locator(".note", { hasText: text }).last().waitFor();
const entries = (page) => page.getByRole("log").locator("> *").count();

/** Waits for a message in a tab: its sender, its words, and whether it is for one person alone. */
const shown = (page, from, words, alone) =>
  page.getByRole("article")
    .filter({ has: page.locator(".person:first-child", { hasText: exactly(from) }) })
    .filter({ [alone ? "has" : "hasNot"]: page.getByText("alone", { exact: false }) })
    .filter({ has: page.locator(".words", { hasText: words }) }).waitFor();

/** Writes to one person, or to everybody, with mouse and keyboard as a person would. */
async function write(page, to, words) {
  await person(page, to || "Everybody").click();
  await page.getByLabel(to ? `To ${to} alone` : "To everybody", { exact: true }).fill(words);
  await page.keyboard.press("Enter");
}

/** Waits until the newest message is in sight. */
const atTheEnd = (page) => page.waitForFunction(() => {
  const log = document.getElementById("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 5;
});

/** How a full room looks on a phone and on a desktop, light and dark. */
async function looks(context, base, ann) {
  const NAME = "Maximiliane-Theodora", LONG = "N".repeat(100), CUT = `${"N".repeat(MAX_NAME - 1)}…`;
  const page = await tab(context, base, NAME);
  const guests = [];
  for (let guest = 10; guest < 22; guest++) {
    guests.push(await nodeClient(base, `Guest ${guest}`));
  }
  const [first] = guests;
  await first.inbox.expect(welcome("Guest 10"));

  await check("the fields of the page have the limits of the server", async () => {
    const fields = page.locator("#name, #words");
    const limits = await fields.evaluateAll((all) => all.map((one) => one.maxLength));
    assert(`${limits}` === `${[MAX_NAME, MAX_WORDS]}`, `they are ${limits}`);
  });
  await check("a name that is too long is cut, and its owner learns that", async () => {
    const owner = await nodeClient(base, LONG);
    guests.push(owner);
    await owner.inbox.expect(welcome(CUT));
    await owner.inbox.expect(`Your name was too long, it is now: ${CUT} (${MAX_NAME} characters)`);
    await note(page, `${CUT} joined.`);
    await person(page, CUT).waitFor();
  });
  await check("a message that is too long is cut, and its sender learns that", async () => {
    for (let guest = 11; guest < 22; guest++) {
      await first.inbox.expect(anyUuid(`Guest ${guest}`));
    }
    await first.inbox.expect(anyUuid(CUT));
    first.send(message("Guest 10", NAME, "🦀\n".repeat(MAX_WORDS)));
    await first.inbox.expect(`Your message to ${NAME} was cut: it gets ${MAX_WORDS} characters`);
    const words = page.getByRole("article").last().locator(".words");
    await words.waitFor();
    const text = await words.textContent();
    const length = [...text].length;
    assert(length === MAX_WORDS && text.endsWith("…"), `it has ${length} characters`);
    const fits = await words.evaluate((one) => one.clientHeight < innerHeight);
    assert(fits, "it is taller than the window");
  });
  await write(page, "Ann", "Only for you: https://example.org/" + "long/".repeat(30));
  await write(ann, "", "A message to all, of a usual length, that takes two lines on a phone.");
  await shown(page, "Ann", "A message to all", false);
  await write(page, "", "Thanks!");
  await shown(page, "You", "Thanks!", false);
  await here(page, guests.length + 3);

  for (const view of views) {
    await show(page, view);
    await check(`${view.name}: all is in the window, and texts have contrast`, async () => {
      await atTheEnd(page);
      await look(page, view, "chat");
      for (const button of ["Leave", "Send"]) {
        const found = page.getByRole("button", { name: button });
        assert(await found.evaluate(isInSight, "body"), `${button} is not in the window`);
      }
      const count = page.locator("#people h2");
      assert(await count.evaluate(isInSight, "#people"), "the number is not in the window");
    });
    await check(`${view.name}: the chosen person is scrolled into view`, async () => {
      const last = page.locator("#roster button").last(), all = page.locator("#everybody button");
      const wasInSight = await last.evaluate(isInSight, "#people");
      assert(!wasInSight || view.size === DESKTOP, "the list is too short");
      // A click by the script, as a mouse would have to scroll first.
      await last.evaluate((button) => button.click());
      assert(await last.evaluate(isInSight, "#people"), "the last one is not in sight");
      await look(page, view, "chosen");
      await page.keyboard.press("Escape");
      assert(await all.evaluate(isInSight, "#people"), "Everybody is not in sight");
    });
  }
  await page.getByRole("button", { name: "Leave" }).click();
  for (const view of views) {
    await show(page, view);
    await check(`${view.name}: the form to join looks right`, () => look(page, view, "join"));
  }
  for (const guest of guests) await guest.leave();
  await page.close();
}

/** A talk of three: the picture in the README is the one of a desktop in light colours. */
async function talk(context) {
  const server = await serve("127.0.0.1:0");
  const [ann, bob, carla] = [
    await tab(context, server.base, "Ann"),
    await tab(context, server.base, "Bob"),
    await tab(context, server.base, "Carla"),
  ];
  await here(ann, 3);
  await write(bob, "", "Is the demo at three still on?");
  await shown(ann, "Bob", "Is the demo", false);
  await write(ann, "", "Yes, in the small room on the second floor.");
  await shown(carla, "Ann", "Yes, in the small room", false);
  await write(carla, "Ann", "I will be ten minutes late.");
  await shown(ann, "Carla", "I will be", true);
  await write(ann, "Carla", "No problem, we begin with the figures.");
  await shown(carla, "Ann", "No problem", true);
  await write(bob, "", "See you there!");
  await shown(ann, "Bob", "See you there!", false);
  for (const view of views) {
    await show(ann, view);
    await check(`${view.name}: a talk of three looks right`, () => look(ann, view, "talk"));
  }
  for (const page of [ann, bob, carla]) await page.close();
  await stop(server);
}

const message = (from, to, data) => JSON.stringify({ from, to, event: "", data });
const welcome = (name) =>
  new RegExp(`^Hello user: ${escaped(name)} with UUID: ([0-9a-f-]{36})$`, "u");
const newcomer = (name, uuid) => `New user connected: ${name} and UUID: ${uuid}`;
const anyUuid = (name) =>
  new RegExp(`^New user connected: ${escaped(name)} and UUID: [0-9a-f-]{36}$`, "u");

async function checks(context) {
  let server = await serve("127.0.0.1:0");
  const { address, base } = server;

  const ann = await tab(context, base, "Ann");
  await ann.setViewportSize(DESKTOP);
  const node = await nodeClient(base);
  await check("Node is welcomed as in the Go example", () => node.inbox.expect(welcome(NODE)));
  const python = pythonClient(base);
  let uuid;
  await check("Python is welcomed as in the Go example", async () => {
    [, uuid] = await python.inbox.expect(welcome(PYTHON_NAME));
  });
  await check("Node learns that Python came", () => node.inbox.expect(newcomer(PYTHON_NAME, uuid)));
  const bob = await tab(context, base, "Bob");
  await check("Node and Python learn that the second tab came", async () => {
    await node.inbox.expect(anyUuid("Bob"));
    await python.inbox.expect(anyUuid("Bob"));
  });
  await check("the first tab shows who joined", async () => {
    for (const name of [NODE, PYTHON_NAME, "Bob"]) await note(ann, `${name} joined.`);
  });
  await check("both tabs list everybody", async () => {
    for (const page of [ann, bob]) {
      for (const name of ["Ann", "Bob", NODE, PYTHON_NAME]) await person(page, name).waitFor();
      await here(page, 4);
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
    const to = `"to":"${PYTHON_NAME}"`;
    const words = `{ "from":"Node", ${to},  "event":"CUSTOM_EVENT", "data":"\\u0041" }`;
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
    assert(!node.inbox.length && !python.inbox.length, "there is more");
  });
  await check("a name that is used elsewhere is lost to that tab, which says so", async () => {
    const other = await tab(context, base, "Bob");
    await bob.getByRole("status").getByText("Somebody else uses your name now").waitFor();
    await bob.getByRole("button", { name: "Join" }).click();
    await connected(bob, "Bob");
    await other.getByRole("status").getByText("Somebody else uses your name now").waitFor();
    await other.close();
  });

  await looks(context, base, ann);
  await here(ann, 2);
  await here(bob, 2);

  const before = [await entries(ann), await entries(bob)];
  await ann.locator("#countdown").evaluate((countdown) => {
    window.counted = [];
    const observer = new MutationObserver(() => window.counted.push(countdown.textContent));
    observer.observe(countdown, { childList: true });
  });
  await check("Ctrl-C ends the server well, and the tabs show the lost connection", async () => {
    await stop(server);
    for (const page of [ann, bob]) {
      await page.getByRole("status").getByText("Connection lost.").waitFor();
    }
  });
  await check("the seconds until the next attempt are counted down", async () => {
    const twoOne = "Trying again in 2 s… Trying again in 1 s…";
    await ann.waitForFunction((part) => window.counted.join(" ").includes(part), twoOne);
  });
  for (const view of views) {
    await show(ann, view);
    await check(`${view.name}: a lost connection looks right`, async () => {
      await ann.getByText("Trying again in").waitFor();
      await atTheEnd(ann);
      await look(ann, view, "lost");
    });
  }
  await check("the tabs come back by themselves when the server does", async () => {
    server = await serve(address);
    await connected(ann, "Ann");
    await connected(bob, "Bob");
    for (const page of [ann, bob]) await here(page, 2);
    const after = [await entries(ann), await entries(bob)];
    assert(`${after}` === `${before}`, `the logs had ${before} entries, and have ${after}`);
    await write(bob, "Ann", "here again");
    await shown(ann, "Bob", "here again", true);
  });
  await check("no script failed and the Content-Security-Policy stopped nothing", async () => {
    const complaints = [...ann.complaints, ...bob.complaints];
    assert(!complaints.length, complaints.join("\n"));
  });
  await stop(server);
}

/** The same chat over TLS. */
async function secure(context) {
  let server = await serve("127.0.0.1:0", ...pair("localhost"));
  const { address, base } = server;
  const ca = readFileSync(`${CERTIFICATES}/root.pem`);

  const ann = await tab(context, base, "Ann"), bob = await tab(context, base, "Bob");
  await check("https: the page is a secure one, and came by HTTP/1.1", async () => {
    const [isSecure, protocol] = await ann.evaluate(() =>
      [isSecureContext, performance.getEntriesByType("navigation")[0].nextHopProtocol]);
    assert(isSecure && protocol === "http/1.1", `${isSecure}, ${protocol}`);
  });
  await check("https: the browser speaks TLS 1.3", async () => {
    const { protocol } = await (await bob.goto(`${base}/`)).securityDetails();
    assert(protocol === "TLS 1.3", protocol);
  });
  await check("https: its WebSocket is a wss: one", async () => {
    const opened = bob.waitForEvent("websocket");
    await bob.getByLabel("Your name").fill("Bob");
    await bob.getByRole("button", { name: "Join" }).click();
    const url = (await opened).url();
    assert(url === `${base.replace("https", "wss")}${path("Bob")}`, url);
    await connected(bob, "Bob");
  });
  await check("wss: tab → tab", async () => {
    await write(ann, "Bob", "from tab to tab");
    await shown(bob, "Ann", "from tab to tab", true);
  });
  const node = await nodeClient(base, NODE, { ca });
  await check("wss: Node trusts the authority, and is welcomed", () =>
    node.inbox.expect(welcome(NODE)));
  await check("wss: tab → Node, and Node → tab", async () => {
    await write(ann, NODE, "from tab to Node");
    await node.inbox.expect(message("Ann", NODE, "from tab to Node"));
    const long = "🦀 ".repeat(MAX_WORDS / 2);
    node.send(message(NODE, "Ann", long));
    await shown(ann, NODE, long.slice(0, 100), true);
    assert(!node.inbox.length, "it was cut");
  });
  await check("wss: Node without the authority does not connect", async () => {
    const stranger = new WebSocket(`${base.replace("https", "wss")}${path("stranger")}`);
    const [error] = await once(stranger, "error");
    assert(error.code === "UNABLE_TO_VERIFY_LEAF_SIGNATURE", error.code);
  });
  await node.leave();

  await check("wss: tabs come back to a server with another certificate", async () => {
    await stop(server);
    for (const page of [ann, bob]) {
      await page.getByRole("status").getByText("Connection lost.").waitFor();
    }
    server = await serve(address, ...pair("renewed"));
    await connected(ann, "Ann");
    await connected(bob, "Bob");
    await write(bob, "Ann", "here again");
    await shown(ann, "Bob", "here again", true);
  });
  await check("https: no script failed and the policy stopped nothing", async () => {
    const complaints = [...ann.complaints, ...bob.complaints];
    assert(!complaints.length, complaints.join("\n"));
  });
  await stop(server);

  await check("https: a certificate that was not accepted is refused", async () => {
    server = await serve("127.0.0.1:0", ...pair("rsa"));
    const error = await bob.goto(`${server.base}/`).catch((error) => error);
    assert(String(error).includes("ERR_CERT_AUTHORITY_INVALID"), String(error));
    await stop(server);
  });
  for (const page of [ann, bob]) await page.close();
}

const overall = setTimeout(() => {
  console.log(`FAILED  not done after ${LIMIT} s`);
  report(1);
}, LIMIT * 1000);

function report(more) {
  const { passed, failed } = { ...result, failed: result.failed + more };
  for (const child of children) child.kill("SIGKILL");
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

let context;
try {
  const options = { executablePath: CHROMIUM, args: FLAGS };
  context = await chromium.launchPersistentContext(PROFILE, options);
  await checks(context);
  await talk(context);
  await secure(context);
  await loops(context);
  await cluster(start, context);
  await reports(context);
  await context.close();
} catch (error) {
  clearTimeout(overall);
  console.log(`FAILED  ${error.stack}`);
  await context?.close();
  report(1);
}
clearTimeout(overall);
report(0);
