#!/usr/bin/env python3
"""Stands in for QEMU where a real one cannot be made to misbehave. Takes the same command line; the "kernel" is its script:

garbage    says nonsense on its control connection       lie        answers there what it was not asked
flood      sends events there without end, and no more   mute       is up, and the guest's channel is silent for ever
half       ends in the middle of the guest's first frame babble     sends bytes that are no frames on the guest's channel
deaf       never takes a connection
"""
import json
import os
import socket
import sys
import threading

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}
words = sys.argv[1:]


def option(name, prefix=""):
    return next(words[i + 1] for i, word in enumerate(words) if word == name and words[i + 1].startswith(prefix))


def listener(name):
    fields = dict(field.partition("=")[::2] for field in option("-chardev", f"socket,id={name},").split(","))
    return socket.socket(fileno=int(fields["fd"]))


def control(mode):
    connection, _ = listener("qmp").accept()
    if mode == "garbage":
        connection.sendall(b"\x00\xffnonsense\n")
        return
    connection.sendall(json.dumps(GREETING).encode() + b"\n")
    requests = connection.makefile("rb")
    for line in requests:
        connection.sendall(json.dumps({"return": {}, "id": json.loads(line)["id"]}).encode() + b"\n")
        if mode == "lie":
            connection.sendall(b'{"return": {"status": "running"}, "id": 4711}\n')
        while mode == "flood":
            connection.sendall(b'{"event": "STOP", "data": {}}\n' * 100)


def channel(mode):
    connection, _ = listener("agent").accept()
    connection.recv(1)
    if mode == "half":
        connection.sendall(b"P")
        os._exit(3)
    while mode == "babble":
        connection.sendall(b"\0" * 65536)
    threading.Event().wait()


def main():
    with open(option("-kernel")) as script:
        mode = script.read().strip()
    if mode == "deaf":
        threading.Event().wait()
    threading.Thread(target=control, args=[mode], daemon=True).start()
    channel(mode)


main()
