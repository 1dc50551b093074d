/* Light or dark: the system's choice until the reader makes one. */
import { at } from "./dom.js";

export function setUpTheme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const button = at("theme");
  const now = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const show = () => {
    button.textContent = `Theme: ${now()}`;
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = now() === "dark" ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", show);
  show();
}
