"""A server for every prompt of the table, and OpenAI's client in front of it."""

import subprocess
import tempfile
import time
import urllib.request

from openai import OpenAI

import foreword as fw

PORT = 8020
table = f"{tempfile.mkdtemp()}/prompts.db"
fw.PromptTable.open(table).put(fw.Prompt.load("tickets.prompt"), alias="prod")

server = subprocess.Popen(["foreword", "serve", "--port", str(PORT), "--table", table])
try:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://localhost:{PORT}/ready")
            break
        except OSError:
            time.sleep(0.5)
    client = OpenAI(base_url=f"http://localhost:{PORT}/v1", api_key="none")
    ticket = {"role": "user", "content": "I was charged twice."}
    answer = client.chat.completions.create(model="tickets@prod", messages=[ticket])
    print(answer.choices[0].message.content, answer.system_fingerprint)
finally:
    server.terminate()
    server.wait()
