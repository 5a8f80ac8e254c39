// What the checks of the chat and of the report share: how they are reported, and how pages look.

const { SCREENSHOTS } = process.env;
export const DESKTOP = { width: 1280, height: 800 }, PHONE = { width: 390, height: 844 };
// A ratio of brightness that WCAG 2 asks for of text (AA).
const CONTRAST = 4.5;

export const result = { passed: 0, failed: 0 };

/** One line of the report; a check that fails does not stop the others. */
export async function check(what, condition) {
  try {
    await condition();
    result.passed++;
    console.log(`ok      ${what}`);
  } catch (error) {
    result.failed++;
    const why = String(error.message ?? error).split("\n").join("\n        ");
    console.log(`FAILED  ${what}\n        ${why}`);
  }
}

export function assert(condition, what) {
  if (!condition) throw new Error(what);
}

/** Runs in the page: whether all of an element is in the window, and in `within`. */
export function isInSight(element, within) {
  const inner = element.getBoundingClientRect();
  const outer = document.querySelector(within).getBoundingClientRect();
  const left = Math.max(0, outer.left), right = Math.min(innerWidth, outer.right);
  const top = Math.max(0, outer.top), bottom = Math.min(innerHeight, outer.bottom);
  return inner.width > 0 && inner.left >= left - 1 && inner.right <= right + 1 &&
    inner.top >= top - 1 && inner.bottom <= bottom + 1;
}

/** Runs in the page: texts that are hard to read, with their contrast. */
function paleTexts(contrast) {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
    const linear = (value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  };
  const pale = [];
  for (const element of document.querySelectorAll("body *")) {
    const isText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const isShown = element.checkVisibility() && !element.closest("script, style, :disabled");
    if (!isText || !isShown) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) {
      behind.unshift(getComputedStyle(at).backgroundColor);
    }
    const [back, text] = [over(behind), over([...behind, getComputedStyle(element).color])];
    const ratio = (Math.max(back, text) + 0.05) / (Math.min(back, text) + 0.05);
    if (ratio < contrast) pale.push(`${ratio.toFixed(2)}: ${element.textContent.trim()}`);
  }
  return pale;
}

export const views = [PHONE, DESKTOP].flatMap((size) =>
  ["light", "dark"].map((colorScheme) => ({
    size, colorScheme, name: `${size === PHONE ? "phone" : "desktop"}-${colorScheme}`,
  })));

/** What must hold of every page in every view. Keeps a picture, if a folder for them is given. */
export async function look(page, view, what) {
  if (SCREENSHOTS) {
    await page.screenshot({ path: `${SCREENSHOTS}/${what}-${view.name}.png`, fullPage: true });
  }
  const widths = () => [document.documentElement.scrollWidth, innerWidth];
  const [wide, window] = await page.evaluate(widths);
  assert(wide <= window, `the page is ${wide} px wide in a window of ${window} px`);
  const pale = await page.evaluate(paleTexts, CONTRAST);
  assert(pale.length === 0, `contrast below ${CONTRAST}:\n${pale.join("\n")}`);
}

/** Gives a page the size and the colours of a view. */
export async function show(page, { size, colorScheme }) {
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme });
}
