// The example `cluster`: two pages that come from different processes, and a redis-server that is
// killed and started again.

import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { connect } from "node:net";
import readline from "node:readline";
import { assert, check, look, show, views } from "./views.mjs";

const { EXAMPLES, FOLDER } = process.env;
const PATIENCE = 15_000; // ms for one condition
const SOON = 5000; // ms until a page says that Redis has ended

/** A redis-server that only a socket in its folder reaches; resolves when it listens. */
async function startRedis(start, folder) {
  const redis = start("redis-server", "--port", "0", "--unixsocket", `${folder}/s`,
    "--dir", folder, "--save", "", "--appendonly", "no");
  const lines = readline.createInterface({ input: redis.stdout });
  await new Promise((resolve, reject) => {
    lines.on("line", (line) => /ready to accept connections/iu.test(line) && resolve());
    redis.gone.then(() => reject(new Error("redis-server ended")), reject);
  });
  return redis;
}

/** One command on a connection of its own; resolves when Redis has answered. */
async function ask(folder, command) {
  const socket = connect(`${folder}/s`);
  socket.end(`${command}\r\n`);
  const [answer] = await once(socket, "data");
  socket.destroy();
  return String(answer);
}

/** A process of the example; resolves when it listens. */
async function serve(start, folder) {
  const server = start(`${EXAMPLES}/cluster`, "127.0.0.1:0", "--redis", `redis+unix://${folder}/s`);
  server.lines = [];
  const lines = readline.createInterface({ input: server.stdout });
  lines.on("line", (line) => server.lines.push(line));
  const [line] = await once(lines, "line");
  server.base = line.replace(/^listening on /, "http://");
  return server;
}

async function enter(context, base, name) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") page.complaints.push(message.text());
  });
  await page.goto(`${base}/`);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Enter" }).click();
  const where = page.getByRole("status").getByText("You are on process");
  await where.waitFor();
  page.process = (await where.textContent()).match(/[0-9a-f]{4}$/u)[0];
  return page;
}

const person = (page, name, process) =>
  page.getByRole("region", { name: "People" }).getByRole("listitem")
    .filter({ hasText: name }).filter({ hasText: process });
const shown = (page, from, text) =>
  page.getByRole("article").filter({ hasText: from }).filter({ hasText: text }).waitFor();
const notes = (page, text) => page.locator(".note", { hasText: text });

async function write(page, text) {
  await page.getByLabel("To the room").fill(text);
  await page.keyboard.press("Enter");
}

/** The texts of all messages on a page, each of which came once. */
async function texts(page) {
  const all = await page.getByRole("article").evaluateAll((articles) =>
    articles.map((article) => [article.id, article.querySelector(".text").textContent]));
  const ids = new Set(all.map(([id]) => id));
  assert(ids.size === all.length && !ids.has(""), `the messages are ${JSON.stringify(all)}`);
  return all.map(([, text]) => text);
}

async function talks(start, context) {
  const folder = mkdtempSync(`${FOLDER}/redis-`);
  let redis = await startRedis(start, folder);
  const servers = [await serve(start, folder), await serve(start, folder)];
  const [one, two] = servers;
  const ann = await enter(context, one.base, "Ann");
  const bob = await enter(context, two.base, "<i>Bob");
  const pages = [ann, bob];
  const alone = (page) => page.getByRole("alert").getByText("Alone: ");
  const isBack = (page) => alone(page).waitFor({ state: "hidden" });

  await check("cluster: two pages are on different processes and see each other", async () => {
    assert(ann.process !== bob.process, `both are on process ${ann.process}`);
    for (const page of pages) {
      await isBack(page);
      await person(page, "Ann", ann.process).waitFor();
      await person(page, "<i>Bob", bob.process).waitFor();
    }
  });
  await check("cluster: a message goes to the pages of both processes", async () => {
    await write(bob, "<b>before</b>");
    for (const page of pages) await shown(page, "<i>Bob", "<b>before</b>");
    await write(ann, "I see it");
    for (const page of pages) await shown(page, "Ann", "I see it");
  });

  await check("cluster: when Redis is killed, both pages say so within seconds", async () => {
    redis.kill("SIGKILL");
    await redis.gone;
    for (const page of pages) await alone(page).waitFor({ timeout: SOON });
    for (const page of pages) await notes(page, "Alone: ").last().waitFor();
  });
  await check("cluster: alone, a page lists the people of its own process only", async () => {
    await person(ann, "<i>Bob").waitFor({ state: "detached" });
    await person(ann, "Ann", ann.process).waitFor();
    await person(bob, "Ann").waitFor({ state: "detached" });
    await person(bob, "<i>Bob", bob.process).waitFor();
  });
  const carla = await enter(context, one.base, "Carla");
  await check("cluster: alone, a process still works, and senders see how far", async () => {
    await alone(carla).waitFor();
    await person(ann, "Carla", ann.process).waitFor();
    await write(ann, "only for us two");
    for (const page of [ann, carla]) await shown(page, "Ann", "only for us two");
    await write(bob, "is it only me?");
    await shown(bob, "<i>Bob", "is it only me?");
    for (const page of [ann, bob]) {
      await notes(page, "reached only the people of this process").waitFor();
    }
  });
  await check("cluster: alone, a process is ready and says why it is alone", async () => {
    const response = await fetch(`${one.base}/ready`);
    const text = await response.text();
    assert(response.status === 200 && text.startsWith("alone: "), `${response.status} ${text}`);
    const metrics = await (await fetch(`${one.base}/metrics`)).text();
    for (const line of ['ikisocket_connections{state="open"} 2', "ikisocket_bus_up 0"]) {
      assert(metrics.includes(`\n${line}\n`), metrics);
    }
  });
  for (const view of views) {
    await show(ann, view);
    await check(`cluster, ${view.name}: all is readable`, () => look(ann, view, "cluster"));
  }

  await check("cluster: when Redis is back, all pages say so and see each other", async () => {
    redis = await startRedis(start, folder);
    for (const page of [ann, bob, carla]) {
      await isBack(page);
      await notes(page, "Together again after").last().waitFor();
      for (const name of ["Ann", "<i>Bob", "Carla"]) await person(page, name).waitFor();
    }
  });
  await check("cluster: messages come again, and each has come once", async () => {
    await write(bob, "after");
    for (const page of [ann, bob, carla]) await shown(page, "<i>Bob", "after");
    await write(ann, "all is well");
    for (const page of [ann, bob, carla]) await shown(page, "Ann", "all is well");
    const [before, after] = [["<b>before</b>", "I see it"], ["after", "all is well"]];
    for (const [page, expected] of [
      [ann, [...before, "only for us two", ...after]],
      [bob, [...before, "is it only me?", ...after]],
      [carla, ["only for us two", ...after]],
    ]) {
      const found = await texts(page);
      assert(`${found}` === `${expected}`, `the messages are ${found}`);
    }
  });

  await check("cluster: messages that a process misses are counted on its pages", async () => {
    const together = (page) => notes(page, "Together again after");
    const [anns, bobs] = [await together(ann).count(), await together(bob).count()];
    one.kill("SIGSTOP"); // Redis ends both connections, and this process cannot notice it yet.
    try {
      await ask(folder, "CLIENT KILL TYPE pubsub");
      await together(bob).nth(bobs).waitFor();
      for (const text of ["lost 1", "lost 2", "lost 3"]) {
        await write(bob, text);
        await shown(bob, "<i>Bob", text);
      }
    } finally {
      one.kill("SIGCONT");
    }
    await together(ann).nth(anns).waitFor();
    await write(bob, "the fourth");
    for (const page of [ann, carla]) {
      await shown(page, "<i>Bob", "the fourth");
      await notes(page, "3 messages are missing.").waitFor();
      const found = await texts(page);
      assert(found.at(-1) === "the fourth" && !`${found}`.includes("lost"), `it has ${found}`);
    }
  });
  await check("cluster: a page that leaves is seen to leave by the other process", async () => {
    await carla.close();
    await person(bob, "Carla").waitFor({ state: "detached" });
  });
  await bob.reload();
  for (const view of views) {
    await show(bob, view);
    await check(`cluster, ${view.name}: the form looks right`, () =>
      look(bob, view, "cluster-form"));
  }
  await check("cluster: no script failed and the policy stopped nothing", async () => {
    const complaints = [...ann.complaints, ...bob.complaints, ...carla.complaints];
    assert(!complaints.length, complaints.join("\n"));
  });
  await check("cluster: each process has logged each change, and Ctrl-C ends it well", async () => {
    for (const server of servers) {
      server.kill("SIGINT");
      const [code] = await server.gone;
      assert(code === 0, `it ended with ${code}`);
      const log = server.lines.join("\n");
      const changes = server.lines.filter((line) => /^(alone|together)/u.test(line));
      const kinds = changes.map((line) => line.match(/^\w+/u)[0]).join(" ");
      assert(kinds === "together alone together alone together", log);
    }
  });
  for (const page of [ann, bob]) await page.close();
  redis.kill("SIGKILL");
  await redis.gone;
}

/** `start` starts a program that ends with the checks. */
export async function cluster(start, context) {
  if (spawnSync("redis-server", ["--version"]).error) {
    console.log("        cluster: there is no redis-server here: nothing is checked");
    return;
  }
  await talks(start, context);
}
