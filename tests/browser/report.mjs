// The page that `load --html` writes, of each kind of run: on a phone and on a desktop, light and
// dark.

import { spawn } from "node:child_process";
import { once } from "node:events";
import readline from "node:readline";
import { pathToFileURL } from "node:url";
import { assert, check, look, show, views } from "./views.mjs";

const { EXAMPLES, FOLDER } = process.env;

/** Runs in the page: labels of a chart that overlap or leave the window. */
function badLabels() {
  const bad = [];
  for (const chart of document.querySelectorAll(".chart")) {
    const labels = [...chart.querySelectorAll("span")].filter((label) => label.checkVisibility());
    const boxes = labels.map((label) => label.getBoundingClientRect());
    for (const [index, box] of boxes.entries()) {
      const next = boxes.slice(index + 1).find((other) =>
        box.left < other.right && other.left < box.right &&
        box.top < other.bottom && other.top < box.bottom);
      const text = (of) => labels[boxes.indexOf(of)].textContent;
      if (next) bad.push(`${text(box)} and ${text(next)}`);
      if (box.left < 0 || box.right > innerWidth) bad.push(text(box));
    }
  }
  return bad;
}

export async function reports(context) {
  const stdio = ["ignore", "pipe", "inherit"];
  const server = spawn(`${EXAMPLES}/echo`, ["127.0.0.1:0"], { stdio });
  try {
    const [line] = await once(readline.createInterface({ input: server.stdout }), "line");
    const url = line.replace(/^listening on /, "ws://");
    const page = await context.newPage();
    const short = ["--connections", "5", "--warm-up", "0.1"];
    const runs = {
      echo: [`${url}/echo`, "--duration", "2", "--rate", "20000", "--pid", `${server.pid}`],
      broadcast: [`${url}/bcast`, "--duration", "0.5", "--header", "Authorization: Bearer 7"],
      "slow-reader": [`${url}/bcast`, "--duration", "0.6"],
      churn: [
        `${url}/echo`, "--against", `${url}/echo`, "--slices", "12", "--slice", "0.1",
        "--at-most", "2",
      ],
      search: [`${url}/echo`, "--step", "0.1", "--p99", "5ms", "--connections", "20"],
      idle: [`${url}/echo`, "--duration", "0.1", "--pid", `${server.pid}`],
    };
    for (const [scenario, options] of Object.entries(runs)) {
      const file = `${FOLDER}/${scenario}.html`;
      const connections = scenario === "search" ? [] : short.slice(0, 2);
      const warmUp = ["search", "idle"].includes(scenario) ? [] : short.slice(2);
      const args = [scenario, ...options, ...connections, ...warmUp, "--html", file];
      const load = spawn(`${EXAMPLES}/load`, args, { stdio: ["ignore", "ignore", "inherit"] });
      const [code] = await once(load, "exit");
      await check(`load ${scenario}: a report is written`, () =>
        assert(code !== 2, "nothing was measured"));
      await page.goto(pathToFileURL(file).href);
      for (const view of views) {
        await show(page, view);
        await check(`load ${scenario}, ${view.name}: all is readable`, async () => {
          await look(page, view, `load-${scenario}`);
          const bad = await page.evaluate(badLabels);
          assert(bad.length === 0, `labels overlap or are cut: ${bad.join(", ")}`);
        });
      }
    }
    await page.close();
  } finally {
    server.kill();
  }
}
