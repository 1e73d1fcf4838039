// Dividers follow their range input; code can be copied.
addEventListener("DOMContentLoaded", () => {
  for (const input of document.querySelectorAll(".divider input")) {
    const move = () => { input.parentElement.style.setProperty("--at", input.value + "%"); input.setAttribute("aria-valuetext", input.value + " % grey"); };
    input.addEventListener("input", move);
    move();
  }
  for (const block of navigator.clipboard ? document.querySelectorAll("article .highlight") : []) {
    const button = Object.assign(document.createElement("button"), {className: "copy", type: "button", textContent: "Copy"});
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("pre").innerText);
      button.textContent = "Copied";
      setTimeout(() => button.textContent = "Copy", 1500);
    });
    block.append(button);
  }
});
