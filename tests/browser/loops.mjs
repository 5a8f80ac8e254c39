// The example `loops`: two pages whose connections are on different loops.

import { spawn } from "node:child_process";
import { once } from "node:events";
import readline from "node:readline";
import { assert, check, look, show, views } from "./views.mjs";

const { EXAMPLES } = process.env;
const PATIENCE = 15_000; // ms for one condition

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
  const where = page.getByRole("status").getByText("You are on loop");
  await where.waitFor();
  page.loop = (await where.textContent()).match(/loop (\d+) of 4/u)[1];
  return page;
}

const person = (page, name) => page.getByRole("navigation").getByRole("button", { name });
const shown = (page, from, text) =>
  page.getByRole("article").filter({ hasText: from }).filter({ hasText: text }).waitFor();

async function write(page, label, text) {
  await page.getByLabel(label).fill(text);
  await page.keyboard.press("Enter");
}

export async function loops(context) {
  const stdio = ["ignore", "pipe", "inherit"];
  const server = spawn(`${EXAMPLES}/loops`, ["127.0.0.1:0", "--loops", "4"], { stdio });
  try {
    const [line] = await once(readline.createInterface({ input: server.stdout }), "line");
    const base = line.replace(/^listening on /, "http://");
    const ann = await enter(context, base, "Ann"), bob = await enter(context, base, "<i>Bob");
    await check("loops: two pages are on different loops and see each other", async () => {
      assert(ann.loop !== bob.loop, `both are on loop ${ann.loop}`);
      await person(ann, `<i>Bob loop ${bob.loop}`).waitFor();
      await person(bob, `Ann loop ${ann.loop}`).waitFor();
      for (const page of [ann, bob]) await page.getByText("2 online in all rooms").waitFor();
    });
    await check("loops: a message to the room", async () => {
      await write(bob, "To the room", "<b>hello</b>, you on the other loop");
      for (const page of [ann, bob]) await shown(page, "<i>Bob", "<b>hello</b>, you on");
    });
    await check("loops: a private message", async () => {
      await person(ann, "<i>Bob").click();
      await write(ann, "To <i>Bob alone", "and hello to you");
      await shown(bob, "to you alone", "and hello to you");
      await shown(ann, "to <i>Bob alone", "and hello to you");
    });
    for (const view of views) {
      await show(ann, view);
      await check(`loops, ${view.name}: all is readable`, () => look(ann, view, "loops"));
    }
    await check("loops: no message to a page that has left goes to the room instead", async () => {
      await bob.reload();
      await ann.getByText("<i>Bob, who has left").waitFor();
      assert(await ann.getByRole("button", { name: "Send" }).isDisabled(), "it can be sent");
      await ann.keyboard.press("Escape");
      await ann.getByLabel("To the room").waitFor();
    });
    for (const view of views) {
      await show(bob, view);
      await check(`loops, ${view.name}: the form looks right`, () => look(bob, view, "loops-form"));
    }
    await check("loops: no script failed and the policy stopped nothing", async () => {
      const complaints = [...ann.complaints, ...bob.complaints];
      assert(!complaints.length, complaints.join("\n"));
    });
    await check("loops: Ctrl-C ends all loops well, and the page says so", async () => {
      const gone = once(server, "exit");
      server.kill("SIGINT");
      await ann.getByText("The connection was lost.").waitFor();
      const [code] = await gone;
      assert(code === 0, `it ended with ${code}`);
    });
    for (const page of [ann, bob]) await page.close();
  } finally {
    server.kill();
  }
}
