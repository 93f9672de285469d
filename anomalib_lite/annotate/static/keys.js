// Maps keys to commands, except while an input field or a button uses the key.

const COMMANDS = {
  o: ["answer", "OK"], n: ["answer", "NOK"], " ": ["answer", "skip"],
  u: ["undo"], z: ["zoom"], v: ["difference"], b: ["blink"], "?": ["help"],
  ArrowLeft: ["move", -1], ArrowRight: ["move", 1], ArrowUp: ["move", -1], ArrowDown: ["move", 1],
  Home: ["move", -Infinity], End: ["move", Infinity],
  d: ["draw"], p: ["tool", "brush"], e: ["tool", "eraser"], l: ["tool", "lasso"],
  "[": ["resize", -1], "]": ["resize", 1], x: ["clear"], m: ["hide"], Escape: ["escape"],
};
const REPEATABLE = new Set(["move", "resize"]);

export function listen(run) {
  document.addEventListener("keydown", (event) => {
    const command = commandOf(event);
    if (!command) return;
    event.preventDefault();
    if (!event.repeat || REPEATABLE.has(command[0])) run(command, event.timeStamp);
  });
  // An element used with the mouse must not keep the focus, or it would swallow the next key.
  document.addEventListener("click", (event) => event.detail > 0 && event.target.closest("button, input")?.blur());
  document.addEventListener("change", (event) => event.target.matches("select") && event.target.blur());
}

function commandOf(event) {
  const target = event.target;
  if (document.querySelector("dialog[open]")) return null;
  if (target.matches("select") || (target.matches("input") && /^(Arrow|Page|Home|End)/.test(event.key))) return null;
  if (target.matches("button") && (event.key === " " || event.key === "Enter")) return null;
  const third = event.getModifierState("AltGraph"); // brackets need it on many keyboards
  if (event.key === "[" || event.key === "]") return COMMANDS[event.key];
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") return COMMANDS.u;
  if (!third && (event.ctrlKey || event.metaKey || event.altKey)) return null;
  const digit = /^[1-9]$/.exec(event.key) ?? /^(?:Digit|Numpad)([1-9])$/.exec(event.shiftKey || third ? "" : event.code);
  if (digit) return ["defect", Number(digit.at(-1)) - 1];
  return COMMANDS[event.key.length === 1 ? event.key.toLowerCase() : event.key] ?? null;
}
