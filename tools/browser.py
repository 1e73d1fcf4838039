"""Notebooks as pages in a real browser: Voilà on loopback, Debian's chromium. For the tests and for the pictures of chapter 13."""
import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


def write_notebook(path, *cells):
    "A notebook of code cells"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel), path)
    return path


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def voila(notebook, log, **env):
    "`notebook` served as `make app` does it; gives the address. `log` is the file for Voilà's messages."
    port = _free_port()
    here = {"JUPYTER_PATH": str(ROOT/"nbs"/"jupyter"), "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(Path(log).parent/"no-config")}
    config = [f"--Voila.config_file_paths={ROOT/'nbs'}"]
    command = [sys.executable, "-m", "voila", str(notebook), "--no-browser", f"--port={port}", *config]
    with open(log, "w") as out:
        server = subprocess.Popen(command, cwd=Path(notebook).parent, env={**os.environ, **here, **env}, stdout=out, stderr=subprocess.STDOUT)
        try:
            for _ in range(240):
                if server.poll() is not None: raise RuntimeError(f"Voilà ended at once: {Path(log).read_text()[-2000:]}")
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)) == 0: break
                time.sleep(.25)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            try: server.wait(20)
            except subprocess.TimeoutExpired: server.kill()


@contextmanager
def chromium():
    "A browser that knows no host but this machine"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try: yield browser
        finally: browser.close()


@contextmanager
def opened(browser, address, width=1366, height=768):
    "A page; what it asks of other hosts is listed in `page.strangers`"
    page = browser.new_page(viewport=dict(width=width, height=height), accept_downloads=True)
    page.set_default_timeout(120_000)
    page.strangers = []
    page.on("request", lambda request: page.strangers.append(request.url) if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:", request.url) else None)
    page.goto(address)
    try: yield page
    finally: page.close()


def _row(page, label): return page.locator(".widget-slider", has=page.locator(".widget-label", has_text=re.compile(f"^{re.escape(label)}")))


def slider(page, label):
    "The handle of the slider with this label"
    return _row(page, label).locator(".noUi-handle")


def readout(page, label):
    "The number beside the slider with this label"
    return _row(page, label).locator(".widget-readout").inner_text().strip()


def press(page, label, key, times=1):
    "Move a slider by keyboard"
    handle = slider(page, label)
    handle.focus()
    for _ in range(times): handle.press(key)


def pixels(page, place=0):
    "What the image widget at this place on the page shows: uint8, (H, W, 3)"
    data = page.evaluate("""async place => {
        const image = () => document.querySelectorAll('img.widget-image')[place];
        for (let tries = 0; ; tries++) {
            try { await image().decode(); break; }
            catch (error) { if (tries > 100) throw error; await new Promise(done => setTimeout(done, 100)); }  // between two pictures there is none
        }
        const canvas = Object.assign(document.createElement('canvas'), {width: image().naturalWidth, height: image().naturalHeight});
        canvas.getContext('2d').drawImage(image(), 0, 0);
        return canvas.toDataURL('image/png').split(',')[1];
    }""", place)
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def wait_until(condition, seconds=30., every=.1):
    "Wait for a condition, and say what it gave"
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end: raise TimeoutError(f"waited {seconds} s in vain")
        time.sleep(every)
    return found
